"""What the verbs share that decide: the table that would follow from what the store holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.errors import AnswerBad, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.decision import Decision
    from commcli.routing.preflight import Preflight
    from commcli.store.sqlite import Store

AwayOpt = Annotated[
    list[str] | None, typer.Option("--away", help="Plan as if this node were out of service (repeatable).")
]


def decide(
    fleet: Fleet, store: Store, away: list[str], found: Preflight | None = None
) -> tuple[Decision, tuple[int, ...]]:
    """Decide on what the store holds, and on what relays were `found` to say: which serials they have, which
    of them drain. Also the serials of rollouts that were broken off.

    Raises AnswerBad when nothing fresh was measured: a plan made of nothing would take every route away.
    """
    from commcli.routing import estimate, history
    from commcli.routing.decision import decide

    unknown = sorted(set(away) - set(fleet.nodes))
    if unknown:
        raise Usage(f"--away {unknown[0]}: no such node")
    now = time.time()
    known = history.situation(store)
    decision = decide(
        fleet,
        store.mesh(since=now - 2 * estimate.MAX_AGE_S),
        in_force=known.in_force,
        serial=max(known.latest_serial, found.highest if found else 0) + 1,
        now_unix=now,
        away=away,
        draining=found.draining if found else (),
    )
    if not decision.estimate.measured.any():
        raise AnswerBad(
            f"nothing measured in the last {estimate.MAX_AGE_S / 60:.0f} minutes: the table in force stays",
            hint="commcli probe mesh",
        )
    return decision, known.unfinished
