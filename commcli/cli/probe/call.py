"""`commcli probe call`: a real WebRTC call between two nodes, judged."""

from __future__ import annotations

from collections.abc import Mapping
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

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.probe.call import Ask
    from commcli.report.terminal import Progress

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
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=600, help="How long the call is measured.")
    ] = 8.0,
    profile: Annotated[
        str, typer.Option("--profile", help="What is sent: sd (320x180), hd (640x360) or audio.")
    ] = "sd",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """A real WebRTC call between two nodes through their TURN edges, judged. Exit 1: bad; 4: nothing learnt."""
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe.call import Ask
    from commcli.report import terminal
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    ask = Ask(a, b, direct=direct, seconds=seconds, profile=profile)
    with Store(settings.database) as store, terminal.progress(f"call {a} to {b}", quiet=quiet) as progress:
        doc = asyncio.run(_call(fleet, ask, progress))
        store.record_call(doc)
    code = _EXIT_CODES[doc["verdict"]]
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    raise typer.Exit(code)


async def _call(fleet: Fleet, ask: Ask, progress: Progress) -> dict[str, Any]:
    from commcli.probe import call
    from commcli.remote.ssh import Pool

    def heard(side: str, event: Mapping[str, Any]) -> None:
        text = f"measuring {ask.seconds:g} s" if event["event"] == "connected" else event.get("phase")
        if text:
            progress.update({"from": ask.a, "to": ask.b}[side], str(text))

    async with Pool(fleet) as pool:
        return await call.call(fleet, pool, ask, on_event=heard)
