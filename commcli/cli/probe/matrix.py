"""`commcli probe matrix`: calls between every two markets, within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.probe.batch import Limits, Made
    from commcli.probe.matrix import Pair
    from commcli.probe.rounds import Rounds
    from commcli.report.terminal import Progress

MarketsArg = Annotated[
    list[str] | None, typer.Argument(metavar="[MARKET]...", help="Between these markets (default: all).")
]


def matrix(
    markets: MarketsArg = None,
    budget: Annotated[str, typer.Option("--budget", help="Time for all calls, such as 10m.")] = "10m",
    cpu_seconds: Annotated[
        float | None,
        typer.Option("--cpu-seconds", min=1, help="CPU that the calls may cost all nodes together."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, max=100, help="Calls at the same time, one a node at most."),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="hd, sd, audio or weak.")] = "sd",
    transport: Annotated[str, typer.Option("--transport", help="udp, tcp or tls.")] = "udp",
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=600, help="Of each call.")] = 8.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the one that was left.")] = False,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """A call for every pair of markets, most important and uncertain first. Exit 1: one is bad; 4: not all in reach."""
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe import batch, rounds
    from commcli.report import terminal
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    limits = batch.Limits(_seconds(budget), cpu_seconds, parallel or fleet.probes.budget.parallel)
    ask = {"profile": profile, "transport": transport, "seconds": seconds}
    if resume and markets:
        raise Usage("--resume goes on with the markets that were named then")
    with Store(settings.database) as store, terminal.progress("probe matrix", quiet=quiet) as progress:
        work = rounds.resume(fleet, store) if resume else rounds.begin(fleet, store, markets or (), ask)
        try:
            asyncio.run(_make(work, limits, progress))
        except KeyboardInterrupt:
            # What was measured is kept, and worth seeing.
            output.emit(work.document(), as_json=as_json, quiet=quiet, good=False)
            raise
    doc = work.document()
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _seconds(text: str) -> float:
    from commcli.fleet import duration

    seconds = duration.seconds(text)
    if seconds is None:
        raise Usage(f"--budget {text}: must be {duration.HOW}")
    return seconds


async def _make(work: Rounds, limits: Limits, progress: Progress) -> None:
    from commcli.remote.ssh import Pool

    def begun(pair: Pair) -> None:
        progress.update(_name(pair), "calling")

    def made(pair: Pair, result: Made) -> None:
        doc: Any = result.document
        progress.update(_name(pair), str(result.error) if doc is None else doc["verdict"])

    async with Pool(work.fleet) as pool:
        await work.make(pool, limits, on_begin=begun, on_made=made)


def _name(pair: Pair) -> str:
    return f"{pair.a} {pair.b}"
