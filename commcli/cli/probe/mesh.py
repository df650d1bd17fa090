"""`commcli probe mesh`: what the relays measured between themselves, read back, kept and shown."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from commcli.remote.ssh import Pool
    from commcli.report.progress import Progress
    from commcli.store.sqlite import Store

By = Literal["market", "node"]
FigureName = Literal["rtt", "loss", "jitter", "pdv", "delay", "reordered", "duplicates", "burst", "age"]
Percentile = Literal["p50", "p95", "p99"]


def mesh(
    selector: SelectorArg = "all",
    by: Annotated[
        By | None,
        typer.Option("--by", help="One heatmap only (default: markets, and nodes where they say more)."),
    ] = None,
    figure: Annotated[FigureName, typer.Option("--figure", help="What the cells show.")] = "rtt",
    percentile: Annotated[
        Percentile, typer.Option("--percentile", help="Which of rtt, pdv and delay.")
    ] = "p50",
    watch: Annotated[
        bool, typer.Option("--watch", help="Read again and again until Ctrl-C; in place on a terminal.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=1, help="Seconds from one reading to the next with --watch.")
    ] = 10.0,
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

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = select(fleet, selector)
    how = _How(by, figure, percentile, every, deadline, as_json, quiet)
    with output.storing(settings.database, fleet, quiet=quiet) as store:
        run = _on_screen if watch and how.is_for_eyes else _appended if watch else _once
        code = asyncio.run(run(fleet, nodes, store, how))
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _How:
    """What the command line asks for beside the nodes."""

    by: By | None
    figure: FigureName
    percentile: Percentile
    every_s: float
    deadline_s: float | None
    as_json: bool
    quiet: bool

    @property
    def is_for_eyes(self) -> bool:
        from commcli.report import watching

        return not (self.as_json or self.quiet) and watching.is_possible()

    def emit(self, doc: Mapping[str, Any], code: int) -> bool:
        return output.emit(doc, as_json=self.as_json, quiet=self.quiet, good=code == 0)


async def _once(fleet: Fleet, nodes: list[Node], store: Store, how: _How) -> int:
    from commcli.remote.ssh import Pool

    async with Pool(fleet) as pool:
        doc, code = await _read(fleet, nodes, pool, store, how)
    how.emit(doc, code)
    return code


async def _appended(fleet: Fleet, nodes: list[Node], store: Store, how: _How) -> int:
    """A document a reading, until the reader has seen enough: then the last one's code."""
    import asyncio

    from commcli.remote.ssh import Pool

    async with Pool(fleet) as pool:
        while True:
            began = time.monotonic()
            doc, code = await _read(fleet, nodes, pool, store, how)
            if not how.emit(doc, code):
                return code
            await asyncio.sleep(began + how.every_s - time.monotonic())


async def _on_screen(fleet: Fleet, nodes: list[Node], store: Store, how: _How) -> int:
    """The last reading in place of the one before. What stood there when Ctrl-C came stays on the terminal."""
    import asyncio

    from commcli.remote.ssh import Pool
    from commcli.report.probe.mesh import mesh_on_screen
    from commcli.report.watching import screen

    doc = None
    try:
        with screen(f"commcli probe mesh, every {how.every_s:g} s; Ctrl-C ends it") as shown:
            async with Pool(fleet) as pool:
                while True:
                    began = time.monotonic()
                    doc, _ = await _read(fleet, nodes, pool, store, how, shown.progress)
                    shown.show(mesh_on_screen(doc))
                    await asyncio.sleep(began + how.every_s - time.monotonic())
    finally:
        if doc is not None:
            output.emit(doc, as_json=False)


async def _read(
    fleet: Fleet,
    nodes: list[Node],
    pool: Pool,
    store: Store,
    how: _How,
    watched: Progress | None = None,
) -> tuple[dict[str, Any], int]:
    """One reading's document and exit code."""
    from commcli.probe import mesh
    from commcli.remote.outcome import exit_code
    from commcli.report.progress import following

    closer = {}
    if fleet.mesh_is_tight:
        from commcli.routing.explore import wanted

        closer = wanted(fleet, store, time.time())
    with contextlib.nullcontext(watched) if watched else following("probe mesh", quiet=how.quiet) as progress:
        for node in nodes:
            progress.update(node.id, "asked")
        reading = await mesh.read(
            fleet, nodes, pool, store, on_event=progress.take, deadline_s=how.deadline_s, explore=closer
        )
    doc = mesh.document(fleet, nodes, reading, store, time.time())
    view = {"by": how.by, "figure": how.figure, "percentile": how.percentile}
    return {**doc, "view": view}, exit_code(reading.outcomes)
