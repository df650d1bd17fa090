"""`commcli probe mesh`: what the relays measured between themselves, read back, kept and shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from commcli.cli import output
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    SelectorArg,
    StateOpt,
    settings_from,
)

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.probe.mesh import Reading
    from commcli.report.terminal import Progress
    from commcli.store.sqlite import Store


def mesh(
    selector: SelectorArg = "all",
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Read the relays' STAMP mesh back, keep it, and show it by market and by node. Exit 4: some node is away."""
    import asyncio

    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.probe import mesh
    from commcli.remote.outcome import exit_code
    from commcli.report import terminal
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = select(fleet, selector)
    with Store(settings.database) as store, terminal.progress("probe mesh", quiet=quiet) as progress:
        reading = asyncio.run(_mesh(fleet, nodes, store, progress, deadline))
    code = exit_code(reading.outcomes)
    doc = mesh.document(fleet, nodes, reading, time.time())
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    raise typer.Exit(code)


async def _mesh(
    fleet: Fleet, nodes: list[Node], store: Store, progress: Progress, deadline_s: float | None
) -> Reading:
    from commcli.probe import mesh
    from commcli.remote.ssh import Pool

    for node in nodes:
        progress.update(node.id, "asked")
    async with Pool(fleet) as pool:
        return await mesh.read(
            fleet,
            nodes,
            pool,
            store,
            on_event=progress.take,
            deadline_s=deadline_s,
        )
