"""Reading the mesh back, what is asked for, and the heatmap's document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet.model import Fleet, Node
from commcli.probe.mesh import Reading, document, read, resume
from commcli.remote.outcome import Outcome
from commcli.store.latest import Newest
from commcli.store.sqlite import Store
from tests.probe import fleets
from tests.probe.local import LocalPool
from tests.probe.test_direction import NOW, window


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "db", clock=lambda: NOW) as opened:
        yield opened


def outcome(node: str, state: Any = "done", value: int | None = 1) -> Outcome[int]:
    return Outcome(
        node, state, value, "" if state == "done" else "connection refused", 0.1, 0 if state == "done" else 4
    )


def keep(store: Store, *windows: Mapping[str, Any]) -> None:
    for one in windows:
        store.record_mesh(one["node"], [one])


def shown(fleet: Fleet, nodes: Sequence[Node], store: Store, *outcomes: Outcome[int]) -> dict[str, Any]:
    return document(fleet, nodes, Reading(list(outcomes)), store, NOW)


# --- the document ---------------------------------------------------------------------------------------------------


def test_document_has_pairs_of_nodes_and_of_markets_by_their_first_active_edge(store: Store) -> None:
    nodes = [fleets.node("a"), fleets.node("b"), fleets.node("c", state="drain")]
    fleet = fleets.fleet(*nodes, markets={"aa": ("a",), "cc": ("c", "b"), "zz": ("c",)})
    keep(store, window("a", "b"), window("b", "a", 9_970))
    doc = shown(fleet, nodes, store, outcome("a", value=3), outcome("b"), outcome("c", value=0))
    assert doc["new_windows"] == 4
    assert {row["market"]: row["edge"] for row in doc["markets"]} == {"aa": "a", "cc": "b"}
    assert doc["markets_without_edge"] == ["zz"]
    assert [(row["from"], row["to"], row["from_edge"], row["to_edge"]) for row in doc["market_pairs"]] == [
        ("aa", "cc", "a", "b"),
        ("cc", "aa", "b", "a"),
    ]
    assert {(row["from"], row["to"]): row["age_s"] for row in doc["pairs"]} == {
        ("a", "b"): 10.0,
        ("b", "a"): 30.0,
    }


def test_a_selection_shows_what_begins_or_ends_there(store: Store) -> None:
    nodes = [fleets.node(name) for name in "abc"]
    keep(store, window("a", "b"), window("b", "c"), window("c", "b"))
    doc = shown(fleets.fleet(*nodes), nodes[:1], store, outcome("a"))
    assert (doc["nodes"], doc["peers"]) == (["a"], ["b"])
    assert [(row["from"], row["to"]) for row in doc["pairs"]] == [("a", "b"), ("b", "a")]


def test_who_is_away_since_when_also_after_days(store: Store) -> None:
    nodes = [fleets.node(name) for name in "abcd"]
    yesterday = int(NOW) - 8_000
    keep(store, window("b", "a", yesterday), window("a", "b", yesterday - 50), window("a", "b", received=0))
    keep(store, window("a", "c", 9_000), window("d", "a", 5_000), window("a", "d"))
    doc = shown(
        fleets.fleet(*nodes),
        nodes,
        store,
        outcome("a"),
        outcome("b", "unreachable", None),
        outcome("c", "timeout", None),
        outcome("d"),
    )
    assert [(row["node"], row["last_unix"], row["answered_unix"]) for row in doc["away"]] == [
        ("b", yesterday, yesterday - 50),
        ("c", None, 9_000),
    ]
    assert doc["silent"] == [{"node": "d", "last_unix": 5_000}]


def test_a_fleet_of_one_is_not_silent(store: Store) -> None:
    node = fleets.node("a")
    assert shown(fleets.fleet(node), [node], store, outcome("a", value=0))["silent"] == []


# --- reading --------------------------------------------------------------------------------------------------------


async def test_reading_twice_keeps_nothing_twice_and_asks_only_for_what_is_new(store: Store) -> None:
    nodes = [fleets.node("a"), fleets.node("b"), fleets.node("c")]
    told = [window("a", "b", 9_980), window("a", "b", 9_990), window("a", "c", 9_990)]
    pool = LocalPool({"a": {"mesh": {"windows": told}}, "b": {"mesh": {"windows": []}}, "c": None})
    first, again = [
        await read(fleets.fleet(*nodes), nodes, pool.as_pool(), store, clock=lambda: NOW) for _ in range(2)
    ]
    assert [(outcome.node, outcome.state, outcome.value) for outcome in first.outcomes] == [
        ("a", "done", 3),
        ("b", "done", 0),
        ("c", "unreachable", None),
    ]
    assert [outcome.value for outcome in again.outcomes] == [0, 0, None]
    assert len(store.mesh()) == 3
    assert pool.connections["a"].asked == ['{"since": 0}', '{"since": 9990}']


async def test_overlapping_readers_keep_each_window_once(store: Store, tmp_path: Path) -> None:
    nodes = [fleets.node("a"), fleets.node("b")]
    told = [window("a", "b", 9_980), window("a", "b", 9_990)]
    pool = LocalPool({"a": {"mesh": {"windows": told}}, "b": {"mesh": {"windows": []}}})
    fleet = fleets.fleet(*nodes)
    with Store(tmp_path / "db", clock=lambda: NOW) as other:
        # Both begin with the same empty store; the second finds out when it writes.
        known = [await read(fleet, nodes, pool.as_pool(), store, clock=lambda: NOW)]
        pool.connections["a"].asked.clear()
        known.append(await read(fleet, nodes, pool.as_pool(), other, clock=lambda: NOW))
        assert sum(outcome.value or 0 for reading in known for outcome in reading.outcomes) == 2
        assert len(other.mesh()) == 2


@pytest.mark.parametrize(
    ("newest", "since"),
    [
        ({}, 0),
        ({"b": Newest(9_990, 10), "c": Newest(9_990, 10)}, 9_990),
        # A reader came in between: c's window of that time was not closed yet.
        ({"b": Newest(9_990, 10), "c": Newest(9_980, 10)}, 9_980),
        ({"b": Newest(9_900, 300), "c": Newest(9_600, 300)}, 9_600),
        # c is no peer any more.
        ({"b": Newest(9_990, 10), "c": Newest(9_700, 10)}, 9_990),
        # c began anew with short windows while b's long one is open.
        ({"b": Newest(9_600, 300), "c": Newest(9_900, 10)}, 9_600),
        # The node's clock was an hour ahead.
        ({"b": Newest(13_600, 10)}, 0),
    ],
)
def test_a_node_is_asked_for_what_may_be_new(newest: dict[str, Newest], since: int) -> None:
    assert resume(newest, NOW) == since


async def test_a_node_whose_clock_is_ahead_is_an_error_and_its_past_is_kept(store: Store) -> None:
    nodes = [fleets.node("a"), fleets.node("b")]
    ahead = [window("a", "b", 9_990), window("a", "b", 13_600, rtt=0.1)]
    pool = LocalPool({"a": {"mesh": {"windows": ahead}}, "b": {"mesh": {"windows": [window("b", "a")]}}})
    fleet = fleets.fleet(*nodes)
    for since in (0, 9_990):
        reading = await read(fleet, nodes, pool.as_pool(), store, clock=lambda: NOW)
        assert [(outcome.state, outcome.code) for outcome in reading.outcomes] == [("failed", 1), ("done", 0)]
        assert "node a: its clock is, or was, at least 3600 s ahead" in reading.outcomes[0].reason
        assert pool.connections["a"].asked[-1] == f'{{"since": {since}}}'
    doc = document(fleet, nodes, reading, store, NOW)
    assert {row["from"]: row["rtt_ms"] for row in doc["pairs"]} == {"a": 100.0, "b": 100.0}
    assert doc["away"][0]["last_unix"] == 9_990


def test_rows_of_the_future_that_are_kept_already_win_nothing(store: Store) -> None:
    node = fleets.node("a")
    keep(store, window("a", "b", 9_000), window("a", "b", 10**9))
    assert store.mesh_newest(0, NOW + 60)["a"]["b"] == Newest(9_000, 10)
    assert store.mesh_answered("b") == 9_000
    assert store.mesh_heard() == {}
    keep(store, window("a", "b", 9_990))
    assert store.mesh_heard() == {"a": 9_990}
    doc = shown(fleets.fleet(node, fleets.node("b")), [node], store, outcome("a"))
    assert (doc["pairs"][0]["age_s"], doc["silent"]) == (10.0, [])
