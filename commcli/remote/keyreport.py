"""The documents of `commcli key`: JSON-able, with names and ids of keys, never a key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from commcli.remote.keyring import Holding, Keyring
from commcli.remote.outcome import Outcome, exit_code
from commcli.remote.relayfiles import OVERLAY, OVERLAY_NEXT
from commcli.remote.rotation import Rotation

Document = dict[str, Any]
UNKNOWN = "unknown"

FINISH = (
    f"all relays send with {OVERLAY_NEXT}: in fleet.yaml let {OVERLAY} be where {OVERLAY_NEXT} is, take {OVERLAY_NEXT} "
    "out, and run `commcli key rotate` again, which takes the old key away"
)


def shown(ring: Keyring, answers: Sequence[Outcome[dict[str, Any]]], held: Mapping[str, Holding]) -> Document:
    """`key show`. `exit_code` is 1 where a relay does not hold the goal's keys."""
    rows = [
        {
            **outcome.row(),
            **(_words(held[outcome.node]) if outcome.node in held else {"sends": [], "accepts": []}),
        }
        for outcome in answers
    ]
    wrong = any(holding.orders - {ring.goal} for holding in held.values())
    return {
        "schema": 1,
        "kind": "key.show",
        "fleet": ring.fleet.name,
        "goal": list(ring.goal),
        "nodes": rows,
        "exit_code": exit_code(answers) or int(wrong),
    }


def rotated(ring: Keyring, done: Rotation, *, left_out: Iterable[str], check: bool) -> Document:
    """`key rotate`. A step's `done` is False where it did not come to its end on every node."""
    steps = [
        {"step": step.word, "nodes": list(step.orders), "done": all(o.state == "done" for o in outcomes)}
        for step, outcomes in done.steps
    ]
    if done.planned is not None:
        steps.append({"step": done.planned.word, "nodes": list(done.planned.orders), "done": False})
    troubles = [outcome.row() for outcome in done.outcomes if outcome.state != "done"]
    return {
        "schema": 1,
        "kind": "key.rotate",
        "fleet": ring.fleet.name,
        "check": check,
        "goal": list(ring.goal),
        "left_out": list(left_out),
        "steps": steps,
        "troubles": troubles,
        "next": FINISH if done.complete and ring.changes else None,
        "exit_code": exit_code(done.outcomes),
    }


def _words(held: Holding) -> Document:
    return {
        "sends": sorted(UNKNOWN if name is None else name for name in held.sends),
        "accepts": sorted(held.accepts),
    }
