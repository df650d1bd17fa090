"""`commcli route rollback`."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, ReasonOpt, StateOpt, YesOpt
from commcli.cli.route.changing import CanaryOpt, agree, changing, check_canary
from commcli.errors import Refused


def rollback(
    serial: Annotated[
        int | None, typer.Argument(help="The table to go back to (default: the one before).")
    ] = None,
    yes: YesOpt = False,
    canary: CanaryOpt = None,
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

    with changing("route rollback", inventory, state, deadline, quiet) as (change, run):
        check_canary(change.fleet, canary)
        now = history.situation(change.store)
        if serial is None:
            serial = history.before(change.store, now.in_force.serial if now.in_force else 0)
        kept, rules = history.kept(change.store, serial), policies.of(change.fleet)
        _refuse_unlawful(serial, tables.unlawful(tables.under_policy(kept, rules), rules))
        found = run("asking relays", change.look)
        old = tables.under_policy(kept, policies.of(change.fleet, draining=found.draining))
        table = tables.under_serial(old, max(now.latest_serial, found.highest) + 1, int(time.time()))
        plan_doc = answer.going_back(table, now.in_force, change.fleet.name, serial)
        agree(change.fleet, plan_doc, yes)
        told = {"serial": table.serial, "routes_of": serial}
        push = partial(change.publish, table, now.in_force, found)
        work = partial(push, canary=canary, reason=reason, told=told)
        rollout = run(f"table {table.serial}", work, changes=True)
        doc = answer.applied(plan_doc, rollout, found.absent, verb="rollback")
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _refuse_unlawful(serial: int, found: list[tuple[tuple[str, str], str, tuple[str, ...], str]]) -> None:
    if found:
        _, role, path, zone = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Refused(
            f"table {serial} breaks zone {zone} of today: {role} {' > '.join(path)}{more}",
            hint="commcli route apply plans under today's zones.",
        )
