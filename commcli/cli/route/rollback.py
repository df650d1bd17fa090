"""`commcli route rollback`."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, ReasonOpt, StateOpt, YesOpt
from commcli.cli.route.changing import CanaryOpt, agree, changing, check_canary
from commcli.cli.route.watching import WatchOpt, watching
from commcli.errors import BadInput, Refused

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.table import Table


def rollback(
    serial: Annotated[
        int | None,
        typer.Argument(
            help="The table to go back to (default: the one before; of a broken-off rollout, the one in force)."
        ),
    ] = None,
    yes: YesOpt = False,
    canary: CanaryOpt = None,
    watch_s: WatchOpt = 0,
    reason: ReasonOpt = None,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Publish an earlier table's routes under a new serial. Refused (exit 5) where a zone of today forbids
    one.
    """
    from commcli.routing import answer, history
    from commcli.routing import policy as policies
    from commcli.routing import table as tables
    from commcli.routing.change import How

    with changing("route rollback", inventory, state, deadline, quiet) as (change, run):
        check_canary(change.fleet, canary)
        now = history.situation(change.store)
        if serial is None:
            serial = history.way_back(change.store)
        kept = history.kept(change.store, serial)
        change.fleet = _with_networks(change.fleet, kept)
        rules = policies.of(change.fleet)
        _refuse_unlawful(serial, tables.unlawful(tables.under_policy(kept, rules), rules))
        found = run("asking relays", change.look)
        old = tables.under_policy(kept, policies.of(change.fleet, draining=found.draining))
        table = tables.under_serial(old, max(now.latest_serial, found.highest) + 1, int(time.time()))
        plan_doc = answer.going_back(table, now.in_force, change.fleet.name, serial)
        plan_doc["unfinished"] = list(now.unfinished)
        agree(change.fleet, plan_doc, yes)
        told = {"serial": table.serial, "routes_of": serial}
        # Unwatched unless asked for: in the trouble that one leaves, a watch judges the trouble and brings it back.
        how = How(canary, watching(change, watch_s), reason, told)
        work = partial(change.publish, table, now.in_force, found, how)
        rollout = run(f"table {table.serial}", work, changes=True)
        doc = answer.applied(plan_doc, rollout, found.absent, verb="rollback")
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _with_networks(fleet: Fleet, kept: Table) -> Fleet:
    """Nobody waits for a file at 3 a.m.: where one is missing, the client networks are those of the table."""
    from commcli.fleet import nearest

    try:
        return nearest.compiled(fleet, time.time())
    except BadInput as error:
        print(f"{error}\nclient networks stay as in table {kept.serial}", file=sys.stderr)
        return nearest.as_before(fleet, kept.prefixes)


def _refuse_unlawful(serial: int, found: list[tuple[tuple[str, str], str, tuple[str, ...], str]]) -> None:
    if found:
        _, role, path, zone = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Refused(
            f"table {serial} breaks zone {zone} of today: {role} {' > '.join(path)}{more}",
            hint="commcli route apply plans under today's zones.",
        )
