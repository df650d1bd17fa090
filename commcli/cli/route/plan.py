"""`commcli route plan`."""

from __future__ import annotations

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.cli.route.deciding import AwayOpt, decide


def plan(
    away: AwayOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what the next table would change, and why. Touches no node and changes nothing."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        decision, unfinished = decide(fleet, store, away or [])
    doc = answer.plan(decision, fleet.name, unfinished=unfinished)
    output.emit(doc, as_json=as_json, quiet=quiet, good=not doc["changed"])
