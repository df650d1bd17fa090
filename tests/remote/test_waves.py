"""One node first, then waves, and an end at the first failure."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from commcli.fleet.model import Node
from commcli.remote.outcome import Outcome, State
from commcli.remote.waves import amiss, in_waves

NODES = cast("list[Node]", [SimpleNamespace(id=letter) for letter in "abcdefg"])

COURSES: list[tuple[dict[str, State], list[str], str]] = [
    ({}, ["a", "bcd", "efg"], ""),
    ({"a": "failed"}, ["a"], "bcdefg"),
    ({"a": "timeout"}, ["a"], "bcdefg"),
    ({"a": "unreachable"}, ["a", "b", "cde", "fg"], ""),
    ({"c": "failed", "d": "lost"}, ["a", "bcd"], "efg"),
    ({"g": "refused", "b": "unreachable"}, ["a", "bcd", "efg"], ""),
]


@pytest.mark.parametrize(("trouble", "asked", "not_tried"), COURSES)
async def test_a_course(trouble: dict[str, State], asked: list[str], not_tried: str) -> None:
    waves: list[str] = []

    async def work(nodes: Sequence[Node]) -> list[Outcome[int]]:
        waves.append("".join(node.id for node in nodes))
        return [Outcome(node.id, trouble.get(node.id, "done"), 1, "why", 0.0) for node in nodes]

    course = await in_waves(NODES, work, wave=3)
    assert waves == asked and [outcome.node for outcome in course.outcomes] == list("".join(asked))
    assert course.not_tried == list(not_tried)
    bad = [f"{node}: {state}: why" for node, state in sorted(trouble.items()) if state != "unreachable"]
    assert course.stopped == "; ".join(bad)


def status(pid: int = 2, version: str = "2", made: int = 9, taken: int | None = 3) -> dict[str, Any]:
    over = None if taken is None else {"allocations": taken}
    return {
        "pid": pid,
        "version": version,
        "turn": {"allocations_made": made},
        "upgrade": {"taken_over": over},
    }


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        (status(), ""),
        (status(pid=1, version="1"), "version 1 serves as process 1, not 2 as 2"),
        (status(made=0), "it knows of 0 of 9 sessions that there were"),
        (status(taken=None), "it has taken None of 3 sessions"),
        (status(taken=2), "it has taken 2 of 3 sessions"),
    ],
)
def test_what_is_amiss_after_an_upgrade(after: dict[str, Any], wrong: str) -> None:
    answer = {"pid": 2, "version": "2", "allocations": 3}
    assert amiss(status(pid=1, version="1"), answer, after) == wrong
