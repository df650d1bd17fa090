"""`commcli route apply`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, ReasonOpt, StateOpt, YesOpt
from commcli.cli.route.auto import (
    AutoOpt,
    MaxAbsentOpt,
    MaxAgeOpt,
    MaxChangedOpt,
    MaxCountriesOpt,
    MaxLostOpt,
    MaxVanishedOpt,
    limits_from,
)
from commcli.cli.route.changing import CanaryOpt, agree, changing, check_canary
from commcli.cli.route.deciding import AwayOpt, decide
from commcli.cli.route.watching import WATCH_S, WatchOpt, watching
from commcli.errors import Refused, Usage

if TYPE_CHECKING:
    from commcli.cli.route.changing import Run
    from commcli.routing.change import Change, How
    from commcli.routing.decision import Decision
    from commcli.routing.limits import Limits, Passed
    from commcli.routing.preflight import Preflight
    from commcli.routing.resume import Resumable


def apply(
    yes: YesOpt = False,
    auto: AutoOpt = False,
    max_changed: MaxChangedOpt = None,
    max_lost: MaxLostOpt = None,
    max_absent: MaxAbsentOpt = None,
    max_age: MaxAgeOpt = None,
    max_vanished: MaxVanishedOpt = None,
    max_countries: MaxCountriesOpt = None,
    canary: CanaryOpt = None,
    watch_s: WatchOpt = WATCH_S,
    reason: ReasonOpt = None,
    away: AwayOpt = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish although much of the mesh fell silent.")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="Sign and publish anew although nothing changes: with a new key.")
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
    from commcli.fleet import nearest
    from commcli.routing.change import How

    if auto and (force or renew):
        raise Usage(
            f"--auto and {'--force' if force else '--renew'} exclude each other: that is for a person"
        )
    limits = limits_from(auto, max_changed, max_lost, max_absent, max_age, max_vanished, max_countries)
    with changing("route apply", inventory, state, deadline, quiet or auto) as (change, run):
        check_canary(change.fleet, canary)
        # Before any relay is asked, and once: a way back has the same client networks.
        change.fleet = nearest.compiled(change.fleet, time.time())
        found = run("asking relays", change.look)
        consent = _Consent(change, yes, force, limits)
        how = How(canary, watching(change, watch_s), reason)
        doc = _applied(change, run, found, consent, away or [], how, renew=renew)
    good = doc["exit_code"] == 0
    # Cron mails what is printed: that nothing was to be done is no news.
    silent = quiet or (auto and not as_json and doc["result"] == "unchanged")
    output.emit(doc, as_json=as_json, quiet=silent, good=good)
    raise typer.Exit(doc["exit_code"])


def _applied(
    change: Change,
    run: Run,
    found: Preflight,
    consent: _Consent,
    away: list[str],
    how: How,
    *,
    renew: bool,
) -> dict[str, Any]:
    from commcli.routing import answer, preflight, resume

    now = time.time()
    decision, unfinished = decide(change.fleet, change.store, away, found)
    plan_doc = answer.plan(decision, change.fleet.name, unfinished=unfinished)
    reasons = preflight.why_publish(decision, found, now_unix=now)
    reasons += [why] if (why := resume.disowned(change.store, decision, change.fleet)) else []
    reasons += ["it is to be signed anew (--renew)"] if renew else []
    if not reasons:
        return answer.applied(plan_doc, None, found.absent, accepted=consent.accepts(found))
    resumable, obstacle = resume.find(
        change.store, decision, found, change.fleet, now_unix=now, by_itself=consent.auto
    )
    resumable = None if renew else resumable
    if resumable is not None:
        reasons, plan_doc = [resumable.why], _plan_of(resumable, decision, plan_doc)
    elif obstacle:
        reasons = [obstacle, *reasons]
    # What is pushed is judged, and a way back that cron finishes is not what is planned.
    pushed = decision if resumable is None else replace(decision, table=resumable.table)
    if held := consent.withheld(pushed, found, plan_doc, reasons, is_new=resumable is None):
        return answer.held(plan_doc, held, found.absent)
    told = {"serial": plan_doc["serial"], "because": reasons, "auto": consent.auto}
    if resumable is None:
        how = replace(how, told=told)
        work = partial(change.publish, decision.table, decision.in_force, found, how)
    else:
        reason = how.reason or resumable.detail.get("reason")
        how = replace(how, told={**told, **resumable.marks}, reason=reason)
        work = partial(change.resume, resumable, resume.former(change.store, resumable), found, how)
    rollout = run(f"table {plan_doc['serial']}", work, changes=True)
    return answer.applied(plan_doc, rollout, found.absent, because=reasons, resumed=resumable is not None)


def _plan_of(resumable: Resumable, decision: Decision, plan_doc: dict[str, Any]) -> dict[str, Any]:
    """The plan as it goes on: of a way back its own changes, otherwise today's plan under its serial."""
    from commcli.routing import answer

    serial = resumable.package.serial
    if not resumable.marks:
        return {**plan_doc, "serial": serial}
    origin = resumable.marks.get("routes_of", serial)
    back = answer.going_back(resumable.table, decision.in_force, plan_doc["fleet"], origin)
    return {**back, "unfinished": plan_doc["unfinished"]}


class _Consent:
    """Whether this may be published: a person says so, or with `limits` (`--auto`) the limits that were stated."""

    def __init__(self, change: Change, yes: bool, force: bool, limits: Limits | None) -> None:
        self._change, self._yes, self._force, self._limits = change, yes, force, limits

    @property
    def auto(self) -> bool:
        return self._limits is not None

    def withheld(
        self,
        decision: Decision,
        found: Preflight,
        plan_doc: dict[str, Any],
        reasons: Sequence[str],
        *,
        is_new: bool,
    ) -> list[dict[str, Any]]:
        """The limits passed, in the form of the document; empty: go on. Raises what `agree` does, or Refused."""
        from commcli.routing import limits

        if self._limits is not None:
            # No question, also for a production fleet: whoever wrote the limits into the crontab was asked.
            passed = limits.passed(decision, found, self._limits)
            return [one.row() for one in [*(self._taken_back() if is_new else []), *passed]]
        self._refuse_blind(decision)
        agree(self._change.fleet, plan_doc, self._yes, reasons)
        return []

    def _taken_back(self) -> list[Passed]:
        """What was taken back the last time, by itself or by a person: the plan may be that very one again."""
        from commcli.routing import history, limits

        stopped, back = history.stopped(self._change.store), history.went_back(self._change.store)
        return [
            *([limits.after_a_stop(stopped)] if stopped else []),
            *([limits.after_a_rollback(back)] if back else []),
        ]

    def accepts(self, found: Preflight) -> bool:
        """Whether the nodes that are away are no more than was said may be."""
        from commcli.routing import limits

        return self._limits is not None and limits.too_many_absent(found, self._limits) is None

    def _refuse_blind(self, decision: Decision) -> None:
        from commcli.routing import limits

        blind = limits.too_much_vanished(decision)
        if blind is not None and not self._force:
            raise Refused(
                f"{blind.reason}: the table stays",
                hint="commcli probe mesh, then again; if nodes are really gone: --away NODE, or --force.",
            )
