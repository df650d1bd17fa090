"""`commcli route explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, StateOpt, settings_from
from commcli.cli.route.deciding import AwayOpt, decide
from commcli.errors import Usage


def explain(
    a: Annotated[str, typer.Argument(metavar="A", help="Where media comes in: a node, or a market.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Where it goes out: a node, or a market.")],
    away: AwayOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show every way from A to B: what it costs, or which zone, state or missing figure removed it."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.routing import explain as explanations
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    source, target = (explanations.edge_of(fleet, word, away or ()) for word in (a, b))
    if source == target:
        raise Usage(f"{a} and {b} are both served by {source}: media between them stays on that node")
    with Store(settings.database) as store:
        decision, _ = decide(fleet, store, away or [], networks=False)
    found = explanations.explain(decision, source, target)
    ends = {"source": None if a == source else a, "target": None if b == target else b}
    output.emit(answer.explain(found, ends, decision), as_json=as_json)
