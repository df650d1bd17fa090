"""What the verbs share that decide: the table that would follow from what the store holds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.errors import AnswerBad, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.decision import Decision
    from commcli.routing.estimate import Repair
    from commcli.routing.history import Situation
    from commcli.routing.preflight import Preflight
    from commcli.store.sqlite import Store

# Probe calls whose documents are looked through for what the overlay repaired.
CALLS_READ = 200

AwayOpt = Annotated[
    list[str] | None, typer.Option("--away", help="Plan as if this node were out of service (repeatable).")
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store held at `now_unix` that decides: the tables, the mesh windows, and what overlays repaired."""

    now_unix: float
    known: Situation
    windows: Sequence[Mapping[str, Any]]
    repairs: Sequence[Repair]


def facts(store: Store) -> Facts:
    """Read once what is decided on, perhaps several times."""
    from commcli.routing import estimate, history, repairs

    now = time.time()
    return Facts(
        now,
        history.situation(store),
        store.mesh(since=now - 2 * estimate.MAX_AGE_S),
        list(repairs.of_calls(store.calls(CALLS_READ), now_unix=now)),
    )


def decide(
    fleet: Fleet, store: Store, away: list[str], found: Preflight | None = None, *, networks: bool = True
) -> tuple[Decision, tuple[int, ...]]:
    """`decide_on` what the store holds now."""
    return decide_on(fleet, facts(store), away, found, networks=networks)


def decide_on(
    fleet: Fleet, held: Facts, away: list[str], found: Preflight | None = None, *, networks: bool = True
) -> tuple[Decision, tuple[int, ...]]:
    """Decide on what the store held, and on what relays were `found` to say: which serials they have, which
    of them drain. Also the serials of rollouts that were broken off. Without `networks` no file of client networks
    is read: for who asks for paths only.

    Raises AnswerBad when nothing fresh was measured: a plan made of nothing would take every route away.
    """
    from commcli.fleet import nearest
    from commcli.routing.cost import CLASSES
    from commcli.routing.decision import decide
    from commcli.routing.estimate import MAX_AGE_S

    unknown = sorted(set(away) - set(fleet.nodes))
    if unknown:
        raise Usage(f"--away {unknown[0]}: no such node")
    decision = decide(
        nearest.compiled(fleet, held.now_unix) if networks else fleet,
        held.windows,
        in_force=held.known.in_force,
        serial=max(held.known.latest_serial, found.highest if found else 0) + 1,
        now_unix=held.now_unix,
        away=away,
        draining=found.draining if found else (),
        prices=CLASSES[fleet.media],
        repairs=held.repairs,
        sessions=found.sessions if found else None,
    )
    if not decision.estimate.measured.any():
        raise AnswerBad(
            f"nothing measured in the last {MAX_AGE_S / 60:.0f} minutes: the table in force stays",
            hint="commcli probe mesh",
        )
    return decision, held.known.unfinished
