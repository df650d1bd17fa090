"""Figures and the heatmap's document from windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commcli.probe.mesh import Reading, document, figures, read
from commcli.remote.outcome import Outcome
from commcli.store.sqlite import Store
from tests.probe import fleets
from tests.probe.local import LocalPool

NOW = 10_000.0


def window(node: str, peer: str, start: int = 9_980, **fields: Any) -> dict[str, Any]:
    rtt = fields.pop("rtt", 100.0)
    measured = {"loss": 0.0, "loss_fwd": 0.0, "loss_back": 0.0, "jitter_fwd_ms": 1.0, "jitter_back_ms": 1.0}
    return {
        "node": node, "peer": peer, "start": start, "seconds": 10, "sent": 10, "received": 10,
        "rtt_ms": None if rtt is None else {"min": rtt, "p50": rtt, "p95": rtt, "p99": rtt},
        "reordered": 0, "duplicates": 0, **measured, **fields,
    }  # fmt: skip


def test_the_last_five_windows_count() -> None:
    windows = [window("a", "b", 9_980 - 10 * n, rtt=100.0 + n) for n in range(5)]
    windows += [window("a", "b", 9_900 - 10 * n, rtt=900.0) for n in range(10)]
    got = figures(windows, NOW)["a", "b"]
    assert got.rtt_ms == 102.0
    assert (got.samples, got.age_s) == (50, 10.0)


def test_loss_is_weighted_by_packets_and_belongs_to_its_direction() -> None:
    windows = [
        window("a", "b", 9_980, sent=90, loss_fwd=0.0, loss_back=0.5),
        window("a", "b", 9_970, sent=10, loss_fwd=0.2, loss_back=0.5),
    ]
    got = figures(windows, NOW)
    assert got["a", "b"].loss == pytest.approx(0.02)
    assert got["b", "a"].loss == pytest.approx(0.5)  # b told nothing; a measured what came back


def test_the_senders_own_word_comes_first() -> None:
    windows = [window("a", "b", loss_fwd=0.1), window("b", "a", loss_back=0.9, rtt=120.0)]
    got = figures(windows, NOW)
    assert got["a", "b"].loss == pytest.approx(0.1)
    assert (got["a", "b"].rtt_ms, got["b", "a"].rtt_ms) == (100.0, 120.0)


def test_unmeasured_stays_none() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms")
    )
    got = figures([window("a", "b", rtt=None, received=0, **nothing)], NOW)["a", "b"]
    assert (got.rtt_ms, got.loss, got.jitter_ms) == (None, None, None)
    assert got.samples == 10


def test_old_windows_are_not_shown() -> None:
    assert figures([window("a", "b", 9_000)], NOW) == {}


def outcome(node: str, state: Any = "done", value: int | None = 1) -> Outcome[int]:
    return Outcome(
        node, state, value, "" if state == "done" else "connection refused", 0.1, 0 if state == "done" else 4
    )


def test_document_names_who_is_away_since_when_and_uses_the_first_active_edge() -> None:
    nodes = [fleets.node("a"), fleets.node("b"), fleets.node("c", state="drain"), fleets.node("d")]
    fleet = fleets.fleet(*nodes, markets={"aa": ("a",), "cc": ("c", "b"), "zz": ("c",)})
    windows = [window("a", "b"), window("b", "a", 9_960)]
    outcomes = [
        outcome("a", value=3),
        outcome("b", "unreachable", None),
        outcome("c"),
        outcome("d", "timeout", None),
    ]
    doc = document(fleet, nodes, Reading(outcomes, windows), NOW)
    assert doc["new_windows"] == 4
    assert [(row["node"], row["last_unix"]) for row in doc["away"]] == [("b", 9_970), ("d", None)]
    assert {row["market"]: row["edge"] for row in doc["markets"]} == {"aa": "a", "cc": "b"}
    assert [(row["from"], row["to"], row["from_edge"], row["to_edge"]) for row in doc["market_pairs"]] == [
        ("aa", "cc", "a", "b"),
        ("cc", "aa", "b", "a"),
    ]
    assert {(row["from"], row["to"]) for row in doc["pairs"]} == {("a", "b"), ("b", "a")}


async def test_reading_twice_keeps_nothing_twice_and_asks_only_for_what_is_new(tmp_path: Path) -> None:
    nodes = [fleets.node("a"), fleets.node("b"), fleets.node("c")]
    told = [window("a", "b", 9_970), window("a", "b", 9_980), window("a", "c", 9_980)]
    pool = LocalPool({"a": {"mesh": {"windows": told}}, "b": {"mesh": {"windows": []}}, "c": None})
    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        first, again = [
            await read(fleets.fleet(*nodes), nodes, pool.as_pool(), store, clock=lambda: NOW)
            for _ in range(2)
        ]
        assert [(outcome.node, outcome.state, outcome.value) for outcome in first.outcomes] == [
            ("a", "done", 3),
            ("b", "done", 0),
            ("c", "unreachable", None),
        ]
        assert [outcome.value for outcome in again.outcomes] == [0, 0, None]
        assert len(again.windows) == len(store.mesh()) == 3
    assert pool.connections["a"].asked == ['{"since": 0}', '{"since": 9980}']
