"""The store: what goes in comes out, once, and what does not fit is refused whole."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput, LockHeld, OutOfReach, Refused
from commcli.fleet import Secret
from commcli.store.sqlite import MESH_KEPT_S, Store


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(tmp_path / "state" / "commcli.sqlite3", clock=clock) as opened:
        yield opened


def window(peer: str = "hk-1", start: int = 100, **changed: object) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "peer": peer, "start": start, "seconds": 10, "sent": 100, "received": 98,
        "rtt_ms": {"min": 34.5, "p50": 35.0, "p95": 40.25, "p99": 51.0},
        "loss": 0.02, "loss_fwd": 0.02, "loss_back": 0.0, "jitter_fwd_ms": 1.5, "jitter_back_ms": None,
        "reordered": 1, "reordered_fwd": 1, "reordered_back": 0, "duplicates": 0,
        "bursts_fwd": 2, "bursts_back": 0, "longest_burst_fwd": 1, "longest_burst_back": 0,
        "pdv_fwd_ms": {"p50": 0.5, "p95": 2.0, "p99": 9.5}, "pdv_back_ms": None,
        "delay_fwd_ms": {"min": -3.5, "p50": -3.0, "p95": 2.25, "p99": 13.0}, "delay_back_ms": None,
        "clock_error_ms": 0.25,
    }  # fmt: skip
    return whole | changed


def test_a_window_comes_back_as_it_was_with_its_node(store: Store) -> None:
    assert store.record_mesh("sg-1", [window()]) == 1
    assert store.mesh() == [{"node": "sg-1", **window()}]


def test_unmeasured_stays_unmeasured(store: Store) -> None:
    bare = {
        "peer": "hk-1",
        "start": 100,
        "seconds": 10,
        "sent": 5,
        "received": 0,
        "rtt_ms": None,
        "loss": 1.0,
    }
    store.record_mesh("sg-1", [bare])
    (row,) = store.mesh()
    assert row["rtt_ms"] is None and row["loss_fwd"] is None and row["reordered"] is None
    assert row["loss"] == 1.0 and row["received"] == 0, "and nothing is not unmeasured"


def test_reading_a_node_again_duplicates_nothing_and_changes_nothing(store: Store) -> None:
    first = [window(start=100), window(start=110), window("de-1", start=100)]
    assert store.record_mesh("sg-1", first) == 3
    assert store.record_mesh("sg-1", [window(start=110, sent=1), window(start=120)]) == 1
    assert store.record_mesh("hk-1", [window("sg-1", start=110)]) == 1, (
        "the other direction is another window"
    )
    kept = [(row["node"], row["peer"], row["start"], row["sent"]) for row in store.mesh()]
    assert kept == [
        ("sg-1", "de-1", 100, 100), ("sg-1", "hk-1", 100, 100), ("hk-1", "sg-1", 110, 100),
        ("sg-1", "hk-1", 110, 100), ("sg-1", "hk-1", 120, 100),
    ]  # fmt: skip


def test_mesh_by_time(store: Store) -> None:
    store.record_mesh("sg-1", [window(start=start) for start in (100, 110, 120, 130)])
    assert [row["start"] for row in store.mesh(since=110, until=130)] == [110, 120]


def test_old_windows_make_room_for_new_ones(store: Store, clock: Clock) -> None:
    store.record_mesh("sg-1", [window(start=start) for start in (100, 110, 120)])
    clock.now = 110 + MESH_KEPT_S
    assert store.record_mesh("sg-1", [window(start=130)]) == 1
    assert [row["start"] for row in store.mesh()] == [110, 120, 130]


@pytest.mark.parametrize(
    "wrong",
    [
        {"peer": None}, {"peer": ""}, {"start": 1.5}, {"start": None}, {"sent": -1}, {"sent": True}, {"seconds": "10"},
        {"loss": "0.1"}, {"loss": float("nan")}, {"loss": -0.1}, {"jitter_fwd_ms": float("inf")}, {"rtt_ms": 35.0},
        {"rtt_ms": {"p50": "35"}}, {"reordered": [1]},
        {"pdv_fwd_ms": {"p50": -1}}, {"delay_back_ms": 3.0}, {"start": 2**63}, {"reordered": 2**70},
    ],
)  # fmt: skip
def test_a_window_that_makes_no_sense_is_refused_and_so_is_all_it_came_with(
    store: Store, wrong: dict[str, object]
) -> None:
    with pytest.raises(BadInput, match="node sg-1: a mesh window"):
        store.record_mesh("sg-1", [window(start=90), window() | wrong])
    assert store.mesh() == []


def test_calls_the_newest_first(store: Store, clock: Clock) -> None:
    first = store.record_call({"schema": 1, "mos": 3.5})
    clock.now = 1060.0
    second = store.record_call({"schema": 1, "mos": None})
    assert store.calls() == [
        {"schema": 1, "mos": None, "id": second, "recorded": 1060.0},
        {"schema": 1, "mos": 3.5, "id": first, "recorded": 1000.0},
    ]
    assert [call["id"] for call in store.calls(limit=1)] == [second]


def test_a_document_holds_no_nan_and_no_secret(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.record_call({"mos": float("nan")})
    with pytest.raises(TypeError):
        store.record_run("20261123T094500Z-ab12", "play run", {"password": Secret("hunter2")})
    assert store.calls() == [] and store.runs() == []


def test_a_table_comes_back_byte_for_byte(store: Store) -> None:
    shards = {"sg-1": b'{"a":1}\n', "de-1": b"\x00\xff"}
    store.record_table(
        7, b'{"serial":7}', "-----BEGIN SSH SIGNATURE-----\n", shards, "signed", {"why": "first"}
    )
    kept = store.table(7)
    assert kept is not None
    assert (kept.manifest, kept.signature, kept.shards) == (
        b'{"serial":7}', "-----BEGIN SSH SIGNATURE-----\n", shards,
    )  # fmt: skip
    assert (kept.unix, kept.status, kept.detail) == (1000.0, "signed", {"why": "first"})
    assert store.table(8) is None


def test_serials_only_grow(store: Store) -> None:
    assert store.latest_serial() == 0
    store.record_table(7, b"m", "s", {"sg-1": b"x"}, "published")
    for serial in (7, 6):
        with pytest.raises(Refused, match=f"serial {serial} is not above 7"):
            store.record_table(serial, b"other", "s", {"sg-1": b"y"}, "published")
    assert store.latest_serial() == 7
    kept = store.table(7)
    assert kept is not None and kept.shards == {"sg-1": b"x"}


def test_what_became_of_a_table(store: Store) -> None:
    for serial in (1, 2):
        store.record_table(serial, b"m", "s", {"sg-1": b"x", "de-1": b"y"}, "signed", {"from": "plan"})
    store.set_table_status(1, "published")
    store.set_table_status(2, "rolled-back", {"canary": "sg-1"})
    assert [(t["serial"], t["status"], t["detail"], t["nodes"]) for t in store.tables()] == [
        (2, "rolled-back", {"canary": "sg-1"}, 2),
        (1, "published", {"from": "plan"}, 2),
    ]
    with pytest.raises(BadInput, match="no table of serial 3"):
        store.set_table_status(3, "published")


def test_an_audit_row(store: Store) -> None:
    store.audit("relay drain", "INC-1", "done", {"selector": "sg-1"}, who="alice@jump")
    (row,) = store.audits()
    assert (row["who"], row["command"], row["reason"], row["result"]) == (
        "alice@jump",
        "relay drain",
        "INC-1",
        "done",
    )
    assert (row["started"], row["ended"], row["detail"]) == (1000.0, 1000.0, {"selector": "sg-1"})


def test_a_change_has_its_row_before_it_happens(store: Store, clock: Clock) -> None:
    with store.audited("route apply", None, {"serial": 7}) as told:
        (row,) = store.audits()
        assert (row["result"], row["ended"]) == ("started", None)
        clock.now = 1012.5
        told["nodes"] = 16
    (row,) = store.audits()
    assert (row["result"], row["started"], row["ended"]) == ("done", 1000.0, 1012.5)
    assert row["detail"] == {"serial": 7, "nodes": 16}
    assert "@" in row["who"]


class Exit(RuntimeError):
    """As the command line's library ends a command: an exception with a code."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (asyncio.CancelledError(), "interrupted"),
        (OutOfReach("sg-1"), "unreachable"),
        (Refused("zone"), "refused"),
        (Exit(4), "exit 4"),
        (Exit(0), "done"),
        (SystemExit(3), "exit 3"),
        (KeyError("x"), "bug"),
    ],
)
def test_how_a_change_ended(store: Store, error: BaseException, result: str) -> None:
    with pytest.raises(type(error)), store.audited("route apply", None, {}):
        raise error
    assert store.audits()[0]["result"] == result


def test_a_change_may_name_its_own_result(store: Store) -> None:
    with store.audited("route apply", None, {"serial": 7}) as told:
        told["result"] = "partial"
    assert (store.audits()[0]["result"], store.audits()[0]["detail"]) == ("partial", {"serial": 7})


def test_an_odd_detail_costs_no_row_and_shows_no_secret(store: Store) -> None:
    store.audit("play run", None, "done", {"path": Path("/x"), "password": Secret("hunter2")})
    assert store.audits()[0]["detail"] == {"path": "/x", "password": "***"}


def test_opened_again_it_is_all_there(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "s.sqlite3"
    with Store(path, clock=clock) as store:
        store.record_mesh("sg-1", [window()])
    with Store(path, clock=clock) as store, Store(path, clock=clock) as second:
        assert len(store.mesh()) == 1
        second.record_mesh("sg-1", [window(start=110)])
        assert len(store.mesh()) == 2


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    path.write_text("this was edited by hand " * 100)
    with pytest.raises(BadInput, match=r"s\.sqlite3: file is not a database"):
        Store(path)


def test_a_state_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file"):
        Store(tmp_path / "file" / "s.sqlite3")


def test_a_busy_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with Store(path, busy_timeout_s=0.0) as store, Store(path) as other:
        with other._writing(), pytest.raises(LockHeld, match="keeps the database busy"):
            store.record_call({})
        store.record_call({})
    assert path.exists()


def test_a_full_disk_loses_nothing_that_was_there(store: Store) -> None:
    store.record_call({"n": 1})
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(BadInput, match="full"):
        store.record_table(1, b"m" * 100_000, "s", {"sg-1": b"x" * 100_000}, "published")
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.tables() == [] and len(store.calls()) == 1
    assert store.record_call({"n": 2}) == 2


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "state/s.sqlite3") as store:
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
        assert isinstance(store._db, sqlite3.Connection)
