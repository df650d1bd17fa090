"""The documents of `commcli play`: JSON-able, with all that the terminal shows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from commcli.errors import AnswerBad, RolledBack, gravest
from commcli.remote.outcome import Outcome, exit_code
from commcli.remote.play import Play, Step
from commcli.remote.run import PlayResult

Document = dict[str, Any]


def ran(
    play: Play,
    fleet: str,
    outcomes: Sequence[Outcome[PlayResult]],
    *,
    check: bool,
    run: str | None = None,
    log: str | None = None,
) -> Document:
    """What a run did. A node's `changed` counts steps; with `check` it is what would have changed. `run` is its name
    (None with `check`), `log` where its log is.
    """
    about = {"kind": "play.run", "play": play.name, "file": play.file}
    return {**about, **_ran(fleet, outcomes, check=check), "run": run, "log": log}


def rolled_out(
    doc: Document, rollout: Document, stopped: str, not_tried: Sequence[str], back: Document | None
) -> Document:
    """The document of a run that went in waves. `stopped` says why it was, "" if it was not; `back` is the document of
    the rollback that followed. It is no good answer while a node is still drained by us.
    """
    is_bad = stopped or rollout["drained"]
    codes = [doc["exit_code"], *([AnswerBad.exit_code] if is_bad else [])]
    if back is not None:
        codes = [RolledBack.exit_code if back["exit_code"] == 0 else gravest([*codes, back["exit_code"]])]
    about = {"stopped": stopped, "not_tried": list(not_tried), "rolled_back": back}
    return {**doc, "exit_code": gravest(codes), "rollout": {**rollout, **about}}


def rolled_back(
    undoes: str,
    fleet: str,
    outcomes: Sequence[Outcome[PlayResult]],
    *,
    check: bool,
    run: str | None = None,
    log: str | None = None,
) -> Document:
    """What the rollback of the run `undoes` did, in the words of `ran`; its steps are those that it undid."""
    about = {"kind": "rollback.run", "play": f"rollback of {undoes}", "undoes": undoes}
    return {**about, **_ran(fleet, outcomes, check=check), "run": run, "log": log}


def _ran(fleet: str, outcomes: Sequence[Outcome[PlayResult]], *, check: bool) -> Document:
    rows = [_row(outcome) for outcome in outcomes]
    return {
        "schema": 1,
        "fleet": fleet,
        "check": check,
        "exit_code": exit_code(outcomes),
        "changed": sum(row["changed"] for row in rows),
        "counts": dict(Counter(row["state"] for row in rows)),
        "nodes": rows,
    }


def _row(outcome: Outcome[PlayResult]) -> Document:
    result = outcome.value or PlayResult()
    return {
        **outcome.row(),
        "changed": result.changed,
        "python": result.facts.get("python_version"),
        "steps": [
            {
                "name": step.name,
                "section": step.section,
                "item": step.item or None,
                "state": step.state,
                "text": step.text,
                "diff": step.diff,
                "seconds": step.seconds,
                "attempts": step.attempts,
                "file": None if step.file is None else str(step.file),
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
        "steps": len(play.flat()),
        "nodes": list(nodes),
        "warnings": list(play.warnings),
    }


def shown(
    play: Play,
    left_out: Sequence[str] = (),
    *,
    runs: Mapping[tuple[str, str], Sequence[Document]] | None = None,
    variables: Sequence[Document] | None = None,
    nodes: Sequence[str] | None = None,
) -> Document:
    """What is in a playbook, as written, and for the `nodes` that were chosen what would run where (`runs`), and its
    variables there (remote/overview.py). `left_out` are the steps that the tags leave out.
    """
    return {
        "schema": 1,
        "kind": "play.show",
        "play": play.name,
        "about": play.about,
        "file": play.file,
        "uses": list(play.uses),
        "bootstrap": list(play.bootstrap),
        "variables": sorted(play.variables),
        "values": None if variables is None else list(variables),
        "nodes": None if nodes is None else list(nodes),
        "left_out": list(left_out),
        "steps": [
            {**_step(step), "runs": None if runs is None else list(runs.get((step.section, step.name), ()))}
            for step in play.flat()
        ],
    }


def _step(step: Step) -> Document:
    return {
        "name": step.name,
        "section": step.section,
        "branch": step.branch or None,
        "word": step.word,
        "line": step.line,
        "about": _about(step.args),
        "when": step.when,
        "loop": step.loop,
        "tags": list(step.tags),
        "register": step.register,
        "notify": list(step.notify),
        "retries": step.retries,
        "until": step.until,
        "ignore_errors": step.ignore_errors,
        "timeout_s": step.timeout_s,
    }


def _about(args: Mapping[str, object]) -> str:
    """The argument that tells most of what a step is about."""
    for key in ("path", "argv", "until", "that", "name"):
        if key in args:
            value = args[key]
            return " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ""
