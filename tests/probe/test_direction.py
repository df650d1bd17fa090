"""Directions of the mesh from windows of all lengths."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.probe.direction import directions, percentile

NOW = 10_000.0


def window(node: str, peer: str, end: int = 9_990, **fields: Any) -> dict[str, Any]:
    rtt, seconds = fields.pop("rtt", 100.0), fields.pop("seconds", 10)
    measured = {"loss": 0.0, "loss_fwd": 0.0, "loss_back": 0.0, "jitter_fwd_ms": 1.0, "jitter_back_ms": 1.0}
    return {
        "node": node, "peer": peer, "start": end - seconds, "seconds": seconds, "sent": 10, "received": 10,
        "rtt_ms": None if rtt is None else {"min": rtt, "p50": rtt, "p95": rtt, "p99": rtt},
        "reordered": 0, "duplicates": 0, **measured, **fields,
    }  # fmt: skip


def test_the_last_five_windows_of_ten_seconds_count() -> None:
    windows = [window("a", "b", 9_990 - 10 * n, rtt=100.0 + n) for n in range(5)]
    windows += [window("a", "b", 9_910 - 10 * n, rtt=900.0) for n in range(10)]
    got = directions(windows, NOW)["a", "b"]
    assert got.rtt_ms == 102.0
    assert (got.samples, got.seconds, got.age_s, got.told_by) == (50, 50, 10.0, "a")


@pytest.mark.parametrize(("seconds", "count"), [(10, 5), (30, 2), (60, 1), (300, 1)])
def test_longer_windows_are_fewer(seconds: int, count: int) -> None:
    windows = [window("a", "b", 9_900 - seconds * n, seconds=seconds) for n in range(8)]
    got = directions(windows, NOW)["a", "b"]
    assert (got.seconds, got.samples) == (seconds * count, 10 * count)


def test_loss_is_weighted_by_packets_and_belongs_to_its_direction() -> None:
    windows = [
        window("a", "b", 9_990, sent=90, loss_fwd=0.0, loss_back=0.5),
        window("a", "b", 9_980, sent=10, loss_fwd=0.2, loss_back=0.5),
    ]
    got = directions(windows, NOW)
    assert got["a", "b"].loss == pytest.approx(0.02)
    assert got["b", "a"].loss == pytest.approx(0.5)  # b told nothing; a measured what came back
    assert got["b", "a"].told_by == "a"


def test_the_senders_own_word_comes_first() -> None:
    windows = [window("a", "b", loss_fwd=0.1), window("b", "a", loss_back=0.9, rtt=120.0)]
    got = directions(windows, NOW)
    assert got["a", "b"].loss == pytest.approx(0.1)
    assert (got["a", "b"].rtt_ms, got["b", "a"].rtt_ms) == (100.0, 120.0)


def test_of_a_node_that_is_away_its_peers_tell_what_is_new() -> None:
    windows = [window("a", "b", 9_600, rtt=50.0, loss_fwd=0.0), window("b", "a", loss_back=0.3, rtt=80.0)]
    got = directions(windows, NOW)["a", "b"]
    assert (got.told_by, got.rtt_ms, got.age_s) == ("b", 80.0, 10.0)
    assert got.loss == pytest.approx(0.3)


def test_a_window_or_two_late_is_not_away() -> None:
    """Nodes are read one after the other, and windows of 300 s take a while to be closed."""
    windows = [window("a", "b", 9_300, seconds=300), window("b", "a", 9_900, seconds=300)]
    assert directions(windows, NOW)["a", "b"].told_by == "a"


def test_a_loss_without_a_direction_is_told_by_the_other_end_if_that_can() -> None:
    undecided: dict[str, Any] = {"loss": 0.5, "loss_fwd": None, "loss_back": None}
    got = directions([window("a", "b", **undecided), window("b", "a", loss_back=0.4)], NOW)
    assert got["a", "b"].loss == pytest.approx(0.4)
    assert directions([window("a", "b", **undecided)], NOW)["a", "b"].loss is None


def test_unmeasured_stays_none() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms")
    )
    got = directions([window("a", "b", rtt=None, received=0, **nothing)], NOW)["a", "b"]
    assert (got.rtt_ms, got.rtt_p95_ms, got.loss, got.jitter_ms) == (None, None, None, None)
    assert (got.pdv_p95_ms, got.delay_p50_ms, got.bursts, got.reordered) == (None, None, None, None)
    assert (got.samples, got.received, got.unanswered_s) == (10, 0, 10)


def test_an_outage_shows_with_its_first_window() -> None:
    windows = [window("a", "b", 9_990 - 10 * n, received=0 if n in (0, 1, 3) else 10) for n in range(5)]
    got = directions(windows, NOW)
    assert (got["a", "b"].unanswered_s, got["b", "a"].unanswered_s) == (20, 20)
    assert directions(windows[2:], NOW)["a", "b"].unanswered_s == 0


def test_each_direction_has_its_own_variation_delay_bursts_and_reordering() -> None:
    one = window(
        "a", "b", reordered_fwd=1, reordered_back=4, bursts_fwd=2, longest_burst_fwd=3, clock_error_ms=0.5,
        pdv_fwd_ms={"p50": 1.0, "p95": 2.0, "p99": 3.0}, pdv_back_ms={"p50": 4.0, "p95": 5.0, "p99": 6.0},
        delay_fwd_ms={"min": -1.0, "p50": 50.0, "p95": 51.0, "p99": 52.0},
    )  # fmt: skip
    got = directions([one], NOW)
    there, back = got["a", "b"], got["b", "a"]
    assert (there.pdv_p50_ms, there.pdv_p95_ms, there.pdv_p99_ms, back.pdv_p95_ms) == (1.0, 2.0, 3.0, 5.0)
    assert (there.delay_min_ms, there.delay_p50_ms, back.delay_p50_ms) == (-1.0, 50.0, None)
    assert (there.reordered, back.reordered) == (1, 4)
    assert (there.bursts, there.longest_burst, back.bursts, there.clock_error_ms) == (2, 3, None, 0.5)


def test_old_windows_and_those_of_a_wrong_clock_are_not_shown() -> None:
    assert directions([window("a", "b", 9_000)], NOW) == {}
    assert directions([window("a", "b", 9_100, seconds=300)], NOW) != {}, "it is its end that counts"
    got = directions([window("a", "b", 13_600, rtt=5.0), window("b", "a", rtt=80.0)], NOW)
    assert (got["a", "b"].rtt_ms, got["a", "b"].told_by) == (80.0, "b")
    assert directions([window("a", "b", 10_005)], NOW)["a", "b"].age_s == 0.0


# --- percentiles of windows together --------------------------------------------------------------------------------


def spread(times: list[float]) -> dict[str, float | None]:
    """As a node makes it: nearest rank."""
    ordered = sorted(times)
    picked = {f"p{q}": ordered[math.ceil(len(ordered) * q / 100) - 1] for q in (50, 95, 99)}
    return {"min": ordered[0], **picked}


@given(st.lists(st.lists(st.floats(-50, 900), min_size=1, max_size=60), min_size=1, max_size=5))
def test_percentiles_of_the_whole_lie_within_those_of_its_parts(parts: list[list[float]]) -> None:
    spreads = [(spread(part), float(len(part))) for part in parts]
    found = [percentile(spreads, q) for q in (50, 95, 99)]
    assert found == sorted(found)
    for value, name in zip(found, ("p50", "p95", "p99"), strict=True):
        own = [part[name] or 0.0 for part, _ in spreads]
        assert min(own) - 0.001 <= value <= max(own) + 0.001


def test_percentiles_of_windows_are_near_those_of_all_their_packets() -> None:
    chance = random.Random(5)
    parts = [[100 + chance.expovariate(1 / scale) for _ in range(50)] for scale in (2, 2, 3, 2, 40)]
    spreads = [(spread(part), 50.0) for part in parts]
    true = spread([time for part in parts for time in part])
    for name, share, most_ms in (("p50", 50, 0.5), ("p95", 95, 15.0), ("p99", 99, 20.0)):
        assert percentile(spreads, share) == pytest.approx(true[name], abs=most_ms)


def test_variation_has_no_minimum_and_begins_at_nothing() -> None:
    one: dict[str, float | None] = {"p50": 2.0, "p95": 4.0, "p99": 8.0}
    assert percentile([(one, 10), (one, 10)], 25) == pytest.approx(0.83, abs=0.01)
    assert percentile([(one, 10), (one, 90)], 95) == pytest.approx(4.0, abs=0.01)
