"""The whole answer: who is counted how, what goes together, and which exit code the command ends with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from commcli.health.answer import NEXT, document
from commcli.health.facts import Disk, Facts
from commcli.health.judge import Limits
from tests.architecture.test_documents import commands, unknown
from tests.health.nodes import FLEET, GIB, HEALTHY, VERSION, away, node, relay

NAMES = ("ae-1", "sg-1", "hk-1", "jp-1")


def answer(*known: Facts) -> dict[str, Any]:
    return document(FLEET, [node(name) for name in NAMES[: len(known)]], known, Limits(), VERSION)


FULL = replace(HEALTHY, disk=Disk(1 << 20, GIB))
LOW = replace(HEALTHY, disk=Disk(GIB - 1, 9 * GIB))
CASES: list[tuple[str, Sequence[Facts], str, int]] = [
    ("all well", [HEALTHY, HEALTHY], "ok", 0),
    ("a warning is no failure", [HEALTHY, LOW], "warn", 0),
    ("one fails", [HEALTHY, LOW, FULL], "fail", 1),
    ("one is away", [HEALTHY, away("sg-1")], "fail", 4),
    ("all are away", [away("ae-1"), away("sg-1")], "fail", 4),
    ("a failure is graver than one away", [FULL, away("sg-1")], "fail", 1),
    ("a changed host key is graver still", [FULL, away("sg-1", "host key has changed", 5)], "fail", 5),
]


@pytest.mark.parametrize(("known", "verdict", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_verdict_and_exit_code(known: Sequence[Facts], verdict: str, code: int) -> None:
    doc = answer(*known)
    assert (doc["verdict"], doc["exit_code"]) == (verdict, code)


def test_each_node_is_counted_once() -> None:
    assert answer(HEALTHY, LOW, FULL, away("jp-1"))["counts"] == {
        "ok": 1,
        "warn": 1,
        "fail": 1,
        "unreachable": 1,
    }


def test_failed_nodes_come_last_and_the_rest_keeps_its_order() -> None:
    doc = answer(FULL, HEALTHY, LOW, HEALTHY)
    assert [row["node"] for row in doc["nodes"]] == ["sg-1", "jp-1", "hk-1", "ae-1"]


def test_nodes_with_one_cause_are_one_line() -> None:
    doc = answer(away("ae-1"), LOW, away("hk-1"), replace(LOW, disk=Disk(GIB // 2, GIB)))
    assert [(cause["verdict"], cause["check"], cause["nodes"]) for cause in doc["causes"]] == [
        ("fail", "reach", ["ae-1", "hk-1"]),
        ("warn", "disk", ["sg-1", "jp-1"]),
    ]


def test_different_reasons_are_different_causes() -> None:
    doc = answer(away("ae-1"), away("sg-1", "login refused"))
    assert [cause["nodes"] for cause in doc["causes"]] == [["ae-1"], ["sg-1"]]


def test_every_cause_says_what_to_type_next() -> None:
    doc = answer(away("ae-1"), relay(peers_rtt_ms={"x": None}))
    assert [cause["next"] for cause in doc["causes"]] == [
        "commcli ssh ae-1 -v -- true",
        "commcli probe mesh",
    ]


def test_one_node_behind_the_fleets_table_is_found() -> None:
    doc = answer(HEALTHY, relay(serial=6))
    assert [(cause["cause"], cause["nodes"]) for cause in doc["causes"]] == [
        ("table behind the fleet's 7", ["sg-1"])
    ]


@pytest.mark.parametrize("check", NEXT)
def test_the_commands_to_type_next_exist(check: str) -> None:
    for words in commands(f"`{NEXT[check]}`"):
        assert unknown(words) is None


def test_the_document_is_json_and_carries_the_limits() -> None:
    doc = answer(HEALTHY, away("sg-1"))
    doc = json.loads(json.dumps(doc, allow_nan=False))
    assert (doc["schema"], doc["kind"], doc["limits"]["clock_warn_s"]) == (1, "health.check", 0.5)
    assert [row["facts"] is None for row in doc["nodes"]] == [False, True]
