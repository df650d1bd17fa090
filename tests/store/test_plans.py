"""Jobs, matrices and the doors of edges: what is written is what is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.store.edges import EDGES_KEPT_S
from commcli.store.sqlite import Store
from tests.store.test_sqlite import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(tmp_path / "commcli.sqlite3", clock=clock) as opened:
        yield opened


def test_a_job_keeps_its_last_run_and_when_it_last_went_well(store: Store, clock: Clock) -> None:
    assert store.last_runs() == {}
    store.record_job("mesh", 960.0, 0)
    store.record_job("call ae kr", 990.0, 1, ran_unix=995.0)
    clock.now = 1100.0
    store.record_job("mesh", 1080.0, 4)
    assert store.last_runs() == {
        "call ae kr": {"due_unix": 990.0, "ran_unix": 995.0, "exit_code": 1, "good_unix": 995.0},
        "mesh": {"due_unix": 1080.0, "ran_unix": 1100.0, "exit_code": 4, "good_unix": 1000.0},
    }


def test_a_matrix_that_was_not_finished_can_be_gone_on_with(store: Store, clock: Clock) -> None:
    assert store.latest_unfinished_matrix() is None
    first = store.start_matrix({"pairs": [["ae", "kr"]], "done": 0})
    store.update_matrix(first, {"pairs": [["ae", "kr"]], "done": 1})
    expected = {"id": first, "recorded": 1000.0, "finished": None, "pairs": [["ae", "kr"]], "done": 1}
    assert store.latest_unfinished_matrix() == store.matrix(first) == expected
    clock.now = 1100.0
    store.finish_matrix(first)
    assert store.matrix(first) == expected | {"finished": 1100.0}
    assert store.latest_unfinished_matrix() is None and store.matrix(99) is None


def test_only_the_newest_matrix_is_gone_on_with(store: Store) -> None:
    store.start_matrix({"n": 1})
    second = store.start_matrix({"n": 2})
    store.finish_matrix(second, {"n": 3})
    assert store.latest_unfinished_matrix() is None
    found = store.matrix(second)
    assert found is not None and found["n"] == 3


def test_a_matrix_that_is_not_kept(store: Store) -> None:
    with pytest.raises(BadInput, match="no matrix of id 5 is kept"):
        store.finish_matrix(5)


def test_doors_of_edges(store: Store, clock: Clock) -> None:
    tls = {
        "node": "sg-1",
        "transport": "tls",
        "verdict": "warn",
        "total_ms": 31.5,
        "certificate": {"days_left": 6.5},
    }
    udp = {"node": "sg-1", "transport": "udp", "verdict": "bad", "total_ms": None, "certificate": None}
    assert store.record_edges({"unix": 990.0, "from": None, "valid": True, "doors": [tls, udp]}) == 2
    store.record_edges({"unix": 999.0, "from": "hk-1", "valid": False, "doors": [udp]})
    first, second, third = store.edges_since(0)
    assert first == {**tls, "id": 1, "unix": 990.0, "from": None, "valid": True, "days_left": 6.5}
    assert second == {**udp, "id": 2, "unix": 990.0, "from": None, "valid": True, "days_left": None}
    assert (third["from"], third["valid"]) == ("hk-1", False)
    assert [row["id"] for row in store.edges_since(990, 999)] == [1, 2]
    clock.now += EDGES_KEPT_S
    store.record_edges({"unix": clock.now, "from": None, "valid": True, "doors": []})
    assert store.edges_since(0) == []
