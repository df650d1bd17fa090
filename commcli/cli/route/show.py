"""`commcli route show`."""

from __future__ import annotations

import time

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, SelectorArg, StateOpt, settings_from
from commcli.errors import AnswerBad


def show(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the routes in force, by the record, from the selected nodes. Exit 1: none yet, or expired."""
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.routing import answer, history
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = [node.id for node in select(fleet, selector)]
    with Store(settings.database) as store:
        table = history.situation(store).in_force
    if table is None:
        raise AnswerBad("no table has been published yet", hint="commcli route apply")
    doc = answer.show(table, fleet.name, nodes, now_unix=time.time())
    output.emit(doc, as_json=as_json, quiet=quiet, good=not doc["expired"])
    raise typer.Exit(AnswerBad.exit_code if doc["expired"] else 0)
