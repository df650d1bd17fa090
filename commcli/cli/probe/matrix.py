"""`commcli probe matrix`: calls between every two markets, within a budget."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from, span_s
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.probe.batch import Limits, Made
    from commcli.probe.matrix import Pair
    from commcli.probe.rounds import Rounds
    from commcli.report.progress import Progress

LOCK = "probe-matrix.lock"

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
        typer.Option(
            "--parallel", min=1, max=100, help="Calls at the same time, one a node at most [probes.yaml's]."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="hd, sd, audio or weak [the pair's in probes.yaml, or sd]."),
    ] = None,
    transport: Annotated[
        str | None, typer.Option("--transport", help="udp, tcp or tls [the pair's, or udp].")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, max=600, help="Of each call [the pair's, or 8].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the one that was left.")] = False,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """A call for every pair of markets, most important and uncertain first. Exit 1: one is bad; 4: not all in reach."""
    from commcli import fleet as fleets
    from commcli.probe import batch, rounds
    from commcli.report.progress import following
    from commcli.store.lock import exclusive

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    limits = batch.Limits(span_s("--budget", budget), cpu_seconds, parallel or fleet.probes.budget.parallel)
    wish = {"profile": profile, "transport": transport, "seconds": seconds}
    wish = {name: value for name, value in wish.items() if value is not None}
    if resume and (markets or wish):
        raise Usage("--resume goes on with what was asked for then: only the budget can be another")
    with (
        exclusive(settings.state / LOCK, "probe matrix"),
        output.storing(settings.database, fleet, quiet=quiet) as store,
        following("probe matrix", quiet=quiet) as progress,
    ):
        work = rounds.resume(fleet, store) if resume else rounds.begin(fleet, store, markets or (), wish)
        doc = _made(work, limits, progress, as_json=as_json)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _made(work: Rounds, limits: Limits, progress: Progress, *, as_json: bool) -> dict[str, Any]:
    """The document. After Ctrl-C what was measured is kept, worth seeing, and can be gone on with."""
    import asyncio

    try:
        asyncio.run(_make(work, limits, progress))
    except KeyboardInterrupt:
        doc = work.document()
        if doc["cells"] and not as_json:
            output.emit(doc, as_json=False)
        told = f"{work.calls} calls are made and kept, {len(work.left)} are left"
        print(f"{told}: commcli probe matrix --resume goes on" if work.id else told, file=sys.stderr)
        raise
    return work.document()


async def _make(work: Rounds, limits: Limits, progress: Progress) -> None:
    from commcli.remote.ssh import Pool

    whole = len(work.left)

    def begun(pair: Pair) -> None:
        progress.update(pair.key, "calling")

    def made(pair: Pair, result: Made) -> None:
        progress.title = f"probe matrix: {whole - len(work.left)} of {whole}"
        progress.done(pair.key, "failed" if result.document is None else result.document["verdict"])

    async with Pool(work.fleet) as pool:
        await work.make(pool, limits, on_begin=begun, on_made=made)
