"""`commcli route history`."""

from __future__ import annotations

from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many tables to list.")] = 20,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """List the tables that were signed here: when, why, and what became of each."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.routing import history as histories
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        doc = answer.history(store.tables(limit), fleet.name, histories.serial_in_force(store))
    output.emit(doc, as_json=as_json, quiet=quiet)
