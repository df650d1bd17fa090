"""Figures of probe calls: beside the documents, and longer than these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.store.calls import COLUMNS, DOCUMENTS_KEPT_S, FIGURES_KEPT_S
from commcli.store.sqlite import Store
from tests.store.test_sqlite import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(tmp_path / "commcli.sqlite3", clock=clock) as opened:
        yield opened


def direction(freeze_ms: float | None, mos: float | None = 4.1, verdict: str = "good") -> dict[str, Any]:
    frozen = freeze_ms is not None
    return {
        "audio": {"loss": 0.01, "jitter_ms": 2.5, "one_way_ms": {"samples": 9, "p50": 85.5}},
        "video": {"freezes": {"webrtc": {"count": 1, "total_ms": freeze_ms}}} if frozen else None,
        "mos": None if mos is None else {"mos": mos, "r": 80.0},
        "verdict": verdict,
    }


def call(**changed: object) -> dict[str, Any]:
    """As much of a call's document as its figures are taken from."""
    whole = {
        "schema": 1, "kind": "probe.call", "unix": 990.5,
        "from": {"asked": "ae", "market": "ae", "node": "ae-1"},
        "to": {"asked": "kr-1", "market": None, "node": "kr-1"},
        "profile": "sd", "transport": "tls", "direct": False, "via": "sg-1", "plain": True,
        "verdict": "warn", "valid": True, "connected": True, "mos": 4.0, "rtt_ms": {"p50": 171.25, "p95": 180.0},
        "setup_ms": 640.0,
        "directions": {"there": direction(None), "back": direction(420.0, mos=None, verdict="warn")},
    }  # fmt: skip
    return whole | changed


def test_the_figures_of_a_call(store: Store) -> None:
    first = store.record_call(call(), run="matrix-7")
    (row,) = store.calls_since(0)
    assert tuple(row) == COLUMNS
    assert row == {
        "id": first, "unix": 990.5, "run": "matrix-7",
        "from_node": "ae-1", "to_node": "kr-1", "from_market": "ae", "to_market": None,
        "profile": "sd", "transport": "tls", "direct": False, "via": "sg-1", "plain": True,
        "verdict": "warn", "verdict_there": "good", "verdict_back": "warn", "valid": True, "connected": True,
        "mos": 4.0, "rtt_ms": 171.25, "setup_ms": 640.0, "loss_there": 0.01, "loss_back": 0.01,
        "jitter_there_ms": 2.5, "jitter_back_ms": 2.5, "mos_there": 4.1, "mos_back": None,
        "one_way_there_ms": 85.5, "one_way_back_ms": 85.5, "freeze_ms": 420.0,
    }  # fmt: skip


def test_what_was_not_measured_is_none(store: Store) -> None:
    nothing = {"audio": None, "video": None, "mos": None}
    store.record_call(
        call(
            connected=False, valid=None, rtt_ms=None, mos=None, directions={"there": nothing, "back": nothing}
        )
    )
    (row,) = store.calls_since(0)
    assert row["connected"] is False and row["valid"] is None
    measured = ("mos", "rtt_ms", "loss_there", "one_way_back_ms", "freeze_ms", "verdict_there")
    assert {name: row[name] for name in measured} == dict.fromkeys(measured)


def test_what_names_no_ends_has_no_figures(store: Store) -> None:
    assert store.record_call({"n": 1}) == 1
    assert store.calls_since(0) == [] and len(store.calls()) == 1


def test_calls_by_time_and_by_run(store: Store) -> None:
    for unix, run in ((300.0, "a"), (100.0, "b"), (200.0, None), (200.0, "a")):
        store.record_call(call(unix=unix), run)
    assert [row["id"] for row in store.calls_since(0)] == [2, 3, 4, 1]
    assert [row["unix"] for row in store.calls_since(200, 300)] == [200.0, 200.0]
    assert [row["id"] for row in store.calls_of("a")] == [4, 1] and store.calls_of("c") == []


def test_documents_make_room_before_figures_and_no_id_comes_twice(store: Store, clock: Clock) -> None:
    store.record_call(call(unix=clock.now))
    clock.now += DOCUMENTS_KEPT_S + 1
    assert store.record_call(call(unix=clock.now)) == 2
    assert [document["id"] for document in store.calls()] == [2]
    assert [row["id"] for row in store.calls_since(0)] == [1, 2]
    clock.now += FIGURES_KEPT_S + 1
    assert store.record_call({"n": 3}) == 3
    assert store.calls_since(0) == [] and [document["id"] for document in store.calls()] == [3]
