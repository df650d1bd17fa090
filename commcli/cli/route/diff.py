"""`commcli route diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.cli.route.deciding import decide
from commcli.errors import AnswerBad, BadInput, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.table import Table
    from commcli.store.sqlite import Store

PLAN = "plan"
MOST_DIGITS = 19


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A table's serial, or the word plan: what would follow now.")
    ],
    b: Annotated[
        str | None, typer.Argument(metavar="[B]", help="The same; default: the table in force.")
    ] = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Compare two tables that are kept here: paths role by role, nodes, zones, client networks.

    Exits 0 when relays would do the same under both, 1 when not.
    """
    from commcli import fleet as fleets
    from commcli.routing import difference
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        found = difference.difference(_table(a, fleet, store), _table(b, fleet, store))
    output.emit(difference.document(found, fleet.name), as_json=as_json, quiet=quiet, good=found.is_same)
    raise typer.Exit(0 if found.is_same else AnswerBad.exit_code)


def _table(word: str | None, fleet: Fleet, store: Store) -> Table:
    from commcli.routing import history

    if word == PLAN:
        return decide(fleet, store, [])[0].table
    if word is not None:
        if not (word.isdecimal() and len(word) < MOST_DIGITS):
            raise Usage(f"{word[:60]}: must be a table's serial, or {PLAN}")
        return history.kept(store, int(word))
    in_force = history.situation(store).in_force
    if in_force is None:
        raise BadInput("no table has been published yet", hint="commcli route apply")
    return in_force
