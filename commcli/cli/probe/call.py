"""`commcli probe call`: a real WebRTC call between two nodes, judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    StateOpt,
    settings_from,
)
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.probe.ask import Ask
    from commcli.report.progress import Progress
    from commcli.store.sqlite import Store

# A starved probe host learnt nothing about the network; to a script that is "out of reach", and never "bad".
_EXIT_CODES = {"good": 0, "warn": 0, "bad": 1, "invalid": 4}

FromArg = Annotated[str, typer.Argument(metavar="A", help="The calling end: a market (its first active edge) or a node.")]  # fmt: skip  # noqa: E501
ToArg = Annotated[str, typer.Argument(metavar="B", help="The called end: a market or a node.")]


def call(
    a: FromArg,
    b: ToArg,
    direct: Annotated[
        bool, typer.Option("--direct", help="Straight from edge to edge, past the overlay.")
    ] = False,
    via: Annotated[
        str | None, typer.Option("--via", metavar="NODE", help="Through this one relay between the edges.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without the overlay's repair of losses.")] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", help="What is sent: sd (320x180), hd (640x360), audio, or weak (160x120)."),
    ] = "sd",
    transport: Annotated[
        str, typer.Option("--transport", help="From each end to its edge: udp, tcp or tls.")
    ] = "udp",
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=600, help="How long the call is measured.")
    ] = 8.0,
    beside: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="direct|plain", help="First the same call so, for comparison, side by side."
        ),
    ] = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """A real WebRTC call between two nodes through their TURN edges, judged. Exit 1: bad; 4: nothing learnt."""
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe.ask import Ask
    from commcli.report.progress import following

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    ask = Ask(a, b, direct, seconds, profile, transport, via, plain)
    asks = [ask] if beside is None else [_beside(ask, beside), ask]
    with (
        output.storing(settings.database, fleet, quiet=quiet) as store,
        following(f"call {a} to {b}", quiet=quiet) as progress,
    ):
        docs = asyncio.run(_calls(fleet, asks, store, progress))
    code = _EXIT_CODES[docs[-1]["verdict"]]
    doc = docs[0] if beside is None else {"schema": 1, "kind": "probe.compare", "calls": docs}
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    raise typer.Exit(code)


def _beside(ask: Ask, word: str) -> Ask:
    """The call that `ask` is compared with."""
    if word == "direct" and not ask.direct:
        return replace(ask, direct=True, via=None, plain=False)
    if word == "plain" and not (ask.plain or ask.direct):
        return replace(ask, plain=True)
    known = "direct or plain, and what the call is not already"
    raise Usage(f"--compare {word}: a call is compared with {known}")


async def _calls(fleet: Fleet, asks: Sequence[Ask], store: Store, progress: Progress) -> list[dict[str, Any]]:
    """One after the other: two at once would measure each other."""
    from commcli.probe import call
    from commcli.probe.ask import check
    from commcli.remote.ssh import Pool

    def heard(side: str, event: Mapping[str, Any]) -> None:
        text = f"measuring {ask.seconds:g} s" if event["event"] == "connected" else event.get("phase")
        if text:
            progress.update({"from": ask.a, "to": ask.b}[side], str(text))

    for ask in asks:
        check(fleet, ask)
    docs = []
    async with Pool(fleet) as pool:
        for ask in asks:
            docs.append(await call.call(fleet, pool, ask, on_event=heard))
            store.record_call(docs[-1])
    return docs
