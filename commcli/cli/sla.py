"""`commcli sla`: what the pairs of markets were promised, and what they got. Reads the store; touches no node."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import Usage

LONGEST_S = 400 * 86_400


def sla(
    markets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MARKET]...", help="Only the pairs with this market; of several, those among them."
        ),
    ] = None,
    since: Annotated[str, typer.Option("--since", help="How far back: 1h to 400d, in whole hours.")] = "30d",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Availability, error budget, percentiles, worst windows by pair. Exit 1: a promise broken; 4: not measured."""
    from commcli import fleet as fleets
    from commcli.fleet.record import nearest
    from commcli.probe import sla
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    span_s = _span_s(since)
    fleet = fleets.load(settings.inventory)
    for market in markets or ():
        if market not in fleet.markets:
            raise Usage(f'no market is called "{market}"{nearest(market, fleet.markets)}')
    until = time.time()
    start = int((until - span_s) // 3600) * 3600
    with Store(settings.database) as store:
        calls, hours = store.calls_since(start, until), store.mesh_hours(start, until)
    doc = sla.document(fleet, calls, hours, since=start, until=until, markets=markets or ())
    code = 1 if "missed" in doc["counts"] else 0 if "met" in doc["counts"] else 4
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    raise typer.Exit(code)


def _span_s(since: str) -> int:
    from commcli.fleet import duration

    span_s = duration.seconds(since)
    if span_s is None or not 3600 <= span_s <= LONGEST_S:
        raise Usage(f"--since {since}: must be 1h to {duration.shown(LONGEST_S)}, such as 24h or 30d")
    return span_s
