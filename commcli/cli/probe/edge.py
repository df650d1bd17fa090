"""`commcli probe edge`: every TURN transport of every edge, and what its certificate is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.report.progress import Progress

_EXIT_CODES = {"good": 0, "warn": 0, "bad": 1, "invalid": 4}


def edge(
    market: Annotated[
        str | None, typer.Argument(help="The edges of one market, or one node (default: every edge).")
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="NODE", help="Look from this node (default: from here).")
    ] = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Allocate by UDP, TCP and TLS at every edge and give it back: reach, times, certificates. Exit 1: one is bad."""
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe.edge import edges_of
    from commcli.report.progress import following

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = edges_of(fleet, market)
    if origin is not None and origin not in fleet.nodes:
        raise Usage(f"no node is called {origin!r}")
    with (
        output.storing(settings.database, fleet, quiet=quiet) as store,
        following("probe edge", quiet=quiet) as progress,
    ):
        doc = asyncio.run(_look(fleet, nodes, market, origin, progress))
        store.record_edges(doc)
    code = _EXIT_CODES[doc["verdict"]]
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    raise typer.Exit(code)


async def _look(
    fleet: Fleet, nodes: list[Node], word: str | None, origin: str | None, progress: Progress
) -> dict[str, Any]:
    from commcli.probe import edge
    from commcli.remote.ssh import Pool

    def heard(row: Mapping[str, Any]) -> None:
        progress.done(f"{row['node']} {row['transport']} {row['address']}", row["verdict"])

    for door in edge.doors_of(nodes):
        progress.update(f"{door['node']} {door['transport']} {door['address']}", "asked")
    if origin is None:
        return await edge.look(fleet, nodes, word=word, on_row=heard)
    async with Pool(fleet) as pool:
        return await edge.look(fleet, nodes, word=word, origin=fleet.nodes[origin], pool=pool, on_row=heard)
