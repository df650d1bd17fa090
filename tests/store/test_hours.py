"""Hours of the mesh: what windows leave behind, however late and in whichever order they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.store import hours
from commcli.store.mesh import HOURS_KEPT_S, LEAST_HOURS_KEPT_S, LEAST_MESH_KEPT_S, MESH_KEPT_S
from commcli.store.sqlite import Store
from tests.store.test_sqlite import Clock, window

HOUR = 3600 * 100


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(tmp_path / "commcli.sqlite3", clock=clock) as opened:
        yield opened


def times(p50: float, p95: float, p99: float) -> dict[str, float]:
    return {"min": p50 - 1, "p50": p50, "p95": p95, "p99": p99}


def silent(start: int, **changed: object) -> dict[str, Any]:
    """Nobody answered."""
    nothing = {"received": 0, "rtt_ms": None, "loss": 1.0, "loss_fwd": None, "loss_back": None}
    return window(start=start) | nothing | {"jitter_fwd_ms": None} | changed


def test_an_hour_is_the_sum_of_its_windows(store: Store) -> None:
    store.record_mesh(
        "sg-1",
        [
            window(start=HOUR, sent=100, received=100, rtt_ms=times(10, 20, 30), loss=0.0, loss_fwd=0.0),
            window(
                start=HOUR + 3570, seconds=30, sent=300, received=297, rtt_ms=times(12, 13, 14), loss=0.01
            ),
            silent(HOUR + 60, sent=100),
            window("de-1", start=HOUR),
        ],
    )
    here, _ = sorted(store.mesh_hours(), key=lambda row: row["dst"], reverse=True)
    assert {key: here[key] for key in hours.COLUMNS[:8]} == {
        "src": "sg-1", "dst": "hk-1", "hour": HOUR, "windows": 3, "seconds": 50, "down_seconds": 10,
        "sent": 500, "received": 397,
    }  # fmt: skip
    assert here["loss"] == pytest.approx(0.206) and here["worst_loss"] == 1.0
    assert here["loss_fwd"] == pytest.approx(300 * 0.02 / 400), "silence does not say which way the loss was"
    assert (here["rtt_min_ms"], here["rtt_p50_ms"], here["rtt_p95_ms"], here["rtt_p99_ms"]) == (9, 12, 20, 30)


def test_a_peer_that_has_never_answered_is_not_down_but_not_there_yet(store: Store) -> None:
    first, second = window(start=HOUR + 20), silent(HOUR + 30)
    store.record_mesh("sg-1", [silent(HOUR), silent(HOUR + 10), first, second])
    (row,) = store.mesh_hours()
    assert (row["windows"], row["seconds"], row["down_seconds"]) == (2, 20, 10)
    # Once it has answered, an hour of silence is one.
    store.record_mesh("sg-1", [silent(HOUR + 3600), silent(HOUR + 3610)])
    assert [row["down_seconds"] for row in store.mesh_hours()] == [10, 20]
    store.record_mesh("hk-1", [silent(HOUR)])
    assert len(store.mesh_hours()) == 2


def test_a_window_that_comes_late_counts_and_one_that_comes_again_does_not(
    store: Store, clock: Clock
) -> None:
    clock.now = HOUR + 3600.0
    store.record_mesh("sg-1", [window(start=HOUR)])
    store.record_mesh("sg-1", [window(start=HOUR), window(start=HOUR + 10)])
    clock.now += 5 * 3600
    store.record_mesh("sg-1", [window(start=HOUR + 20)])
    (row,) = store.mesh_hours()
    assert (row["windows"], row["sent"]) == (3, 300)


def test_hours_outlive_their_windows_and_end_too(store: Store, clock: Clock) -> None:
    clock.now = HOUR + 600.0
    store.record_mesh("sg-1", [window(start=HOUR), window(start=HOUR + 500)])
    clock.now = HOUR + MESH_KEPT_S + 100
    store.record_mesh("hk-1", [])
    assert [row["start"] for row in store.mesh()] == [HOUR + 500]
    assert [row["windows"] for row in store.mesh_hours()] == [2]
    # What comes now for that hour finds half of its windows gone, and must not take their place.
    store.record_mesh("sg-1", [window(start=HOUR + 600)])
    assert [row["windows"] for row in store.mesh_hours()] == [2]
    clock.now = HOUR + HOURS_KEPT_S + 1
    store.record_mesh("sg-1", [window(start=int(clock.now) - 7200)])
    assert [row["hour"] for row in store.mesh_hours()] == [HOUR + HOURS_KEPT_S - 7200]


class Small(Store):
    """Has room for little."""

    most_windows, most_hours = 24, 24


def test_of_very_many_windows_and_hours_less_is_kept(tmp_path: Path, clock: Clock) -> None:
    def reading(until: int) -> list[dict[str, Any]]:
        """An hour of windows of 300 s towards two peers."""
        starts = range(until - 3600, until, 300)
        return [window(peer, start=start, seconds=300) for peer in ("hk-1", "de-1") for start in starts]

    for at in range(30):
        clock.now = HOUR + 3600.0 * at
        with Small(tmp_path / "small.sqlite3", clock=clock) as small:
            small.record_mesh("sg-1", reading(int(clock.now)))
    with Small(tmp_path / "small.sqlite3", clock=clock) as small:
        starts = {row["start"] for row in small.mesh()}
        assert min(starts) == clock.now - LEAST_MESH_KEPT_S, "an hour must be over before its windows go"
        kept = {row["hour"]: row["windows"] for row in small.mesh_hours()}
    assert min(kept) == clock.now - LEAST_HOURS_KEPT_S and set(kept.values()) == {12}


def test_a_node_that_nobody_reads_any_more_keeps_its_hours(store: Store, clock: Clock) -> None:
    clock.now = HOUR + 600.0
    store.record_mesh("gone-1", [window(start=HOUR)])
    clock.now += 3 * 3600
    store.record_mesh("sg-1", [])
    assert store._all("SELECT * FROM mesh_open_hours") == []
    assert [row["src"] for row in store.mesh_hours()] == ["gone-1"]


def test_hours_by_time(store: Store) -> None:
    store.record_mesh("sg-1", [window(start=HOUR + 3600 * at) for at in range(4)])
    found = [row["hour"] for row in store.mesh_hours(HOUR + 3600, HOUR + 3 * 3600)]
    assert found == [HOUR + 3600, HOUR + 7200]


def test_how_far_each_node_was_heard_outlives_its_windows(store: Store, clock: Clock) -> None:
    store.record_mesh("sg-1", [window(start=100), window(start=40, seconds=60)])
    store.record_mesh("hk-1", [window(start=300, seconds=300)])
    store.record_mesh("sg-1", [window(start=50)])
    clock.now = 700 + MESH_KEPT_S
    store.record_mesh("de-1", [])
    assert store.mesh() == [] and store.mesh_heard() == {"hk-1": 600, "sg-1": 110}


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.sampled_from([5, 50, 95, 99]))
def test_percentiles_of_weighted_values_are_those_of_the_values_so_often(values: list[float], q: int) -> None:
    ranked = sorted(value for at, value in enumerate(values) for _ in range(at % 3))
    points = [(value, at % 3) for at, value in enumerate(values)]
    expected = ranked[max(0, -(-q * len(ranked) // 100) - 1)] if ranked else None
    assert hours.percentiles(points, [q]) == [expected]


@given(st.floats(1, 500), st.integers(1, 400))
def test_an_hour_of_equal_windows_has_their_percentiles(p50: float, count: int) -> None:
    row = {"rtt_min_ms": p50, "rtt_p50_ms": p50, "rtt_p95_ms": p50 + 5, "rtt_p99_ms": p50 + 9}
    windows = [{**row, "received": 7}] * count
    assert hours.percentiles(hours.rtt_points(windows)) == [p50, p50 + 5, p50 + 9]
