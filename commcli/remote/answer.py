"""The documents of `commcli play`: JSON-able, with all that the terminal shows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from commcli.remote.outcome import Outcome, exit_code
from commcli.remote.playbook import Play, Step
from commcli.remote.run import PlayResult

Document = dict[str, Any]


def ran(play: Play, fleet: str, outcomes: Sequence[Outcome[PlayResult]], *, check: bool) -> Document:
    """What a run did. A node's `changed` counts steps; with `check` it is what would have changed."""
    rows = [_row(outcome) for outcome in outcomes]
    return {
        "schema": 1,
        "kind": "play.run",
        "fleet": fleet,
        "play": play.name,
        "file": play.file,
        "check": check,
        "exit_code": exit_code(outcomes),
        "changed": sum(row["changed"] for row in rows),
        "counts": dict(Counter(row["state"] for row in rows)),
        "nodes": rows,
    }


def _row(outcome: Outcome[PlayResult]) -> Document:
    result = outcome.value or PlayResult()
    return {
        "node": outcome.node,
        "state": outcome.state,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
        "changed": result.changed,
        "python": result.facts.get("python_version"),
        "steps": [
            {
                "name": step.name,
                "section": step.section,
                "state": step.state,
                "text": step.text,
                "diff": step.diff,
                "seconds": step.seconds,
            }
            for step in result.steps
        ],
    }


def checked(play: Play, fleet: str, nodes: Sequence[str]) -> Document:
    """A playbook that can be rendered for these nodes."""
    return {
        "schema": 1,
        "kind": "play.check",
        "fleet": fleet,
        "play": play.name,
        "file": play.file,
        "steps": len(play.steps),
        "nodes": list(nodes),
    }


def shown(play: Play) -> Document:
    """What is in a playbook, as written."""
    return {
        "schema": 1,
        "kind": "play.show",
        "play": play.name,
        "about": play.about,
        "file": play.file,
        "uses": list(play.uses),
        "variables": sorted(play.variables),
        "steps": [_step(step) for step in play.steps],
    }


def _step(step: Step) -> Document:
    return {
        "name": step.name,
        "section": step.section,
        "word": step.word,
        "line": step.line,
        "about": _about(step.args),
        "when": step.when,
        "register": step.register,
        "notify": list(step.notify),
        "timeout_s": step.timeout_s,
    }


def _about(args: Mapping[str, object]) -> str:
    """The argument that tells most of what a step is about."""
    for key in ("path", "argv", "until", "that", "name"):
        if key in args:
            value = args[key]
            return " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ""
