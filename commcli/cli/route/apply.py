"""`commcli route apply`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, ReasonOpt, StateOpt, YesOpt
from commcli.cli.route.changing import CanaryOpt, agree, changing, check_canary
from commcli.cli.route.deciding import AwayOpt, decide
from commcli.errors import Refused

if TYPE_CHECKING:
    from commcli.routing.decision import Decision

# With more of the routed pairs silent than this, it is the measuring that broke, not the fleet.
VANISHED_SHARE = 0.3


def apply(
    yes: YesOpt = False,
    canary: CanaryOpt = None,
    reason: ReasonOpt = None,
    away: AwayOpt = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish although much of the mesh fell silent.")
    ] = False,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Plan, sign, publish: canary first, then waves; every relay confirms the serial that it loaded.

    A node that refuses or fails stops it, and what was touched goes back to the former routes (exit 6).
    """
    from commcli.routing import answer, preflight

    with changing("route apply", inventory, state, deadline, quiet) as (change, run):
        check_canary(change.fleet, canary)
        found = run("asking relays", change.look)
        decision, unfinished = decide(change.fleet, change.store, away or [], found)
        plan_doc = answer.plan(decision, change.fleet.name, unfinished=unfinished)
        reasons = preflight.why_publish(decision, found, now_unix=time.time())
        rollout = None
        if reasons:
            _refuse_blind(decision, force)
            agree(change.fleet, plan_doc, yes)
            told = {"serial": decision.table.serial, "because": reasons}
            push = partial(change.publish, decision.table, decision.in_force, found)
            work = partial(push, canary=canary, reason=reason, told=told)
            rollout = run(f"table {decision.table.serial}", work, changes=True)
        doc = answer.applied(plan_doc, rollout, found.absent)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _refuse_blind(decision: Decision, force: bool) -> None:
    from commcli.routing.decision import vanished

    share = vanished(decision)
    if share > VANISHED_SHARE and not force:
        raise Refused(
            f"{share:.0%} of the routed pairs are no longer measured: the table in force stays",
            hint="commcli probe mesh, then again; --force if the nodes are really gone.",
        )
