"""Migrations: each once, in order, all or nothing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.errors import Refused
from commcli.store.schema import MIGRATIONS, migrate
from commcli.store.sqlite import Store

FIRST = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)")
SECOND = ("ALTER TABLE a ADD COLUMN y", "UPDATE a SET y = x + 1")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_from_nothing_to_the_newest(db: sqlite3.Connection) -> None:
    migrate(db, [FIRST, SECOND])
    assert db.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert version(db) == 2


def test_only_what_is_missing(db: sqlite3.Connection) -> None:
    migrate(db, [FIRST])
    db.execute("INSERT INTO a VALUES (10)")
    migrate(db, [FIRST, SECOND])
    migrate(db, [FIRST, SECOND])
    assert db.execute("SELECT * FROM a").fetchall() == [(1, 2), (10, 11)]


def test_all_or_nothing(db: sqlite3.Connection) -> None:
    migrate(db, [FIRST])
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, [FIRST, (*SECOND, "CREATE TABLE a (again)")])
    assert db.execute("SELECT * FROM a").fetchall() == [(1,)]
    assert version(db) == 1 and not db.in_transaction
    migrate(db, [FIRST, SECOND])
    assert version(db) == 2


def test_a_newer_database_is_left_alone(db: sqlite3.Connection) -> None:
    migrate(db, [*MIGRATIONS, FIRST])
    with pytest.raises(Refused, match=f"version {len(MIGRATIONS) + 1}, this commcli knows {len(MIGRATIONS)}"):
        migrate(db)
    assert version(db) == len(MIGRATIONS) + 1 and not db.in_transaction


OLD_CALL = {
    "schema": 1, "kind": "probe.call", "unix": 7190.0, "from": {"market": "ae", "node": "ae-1"},
    "to": {"market": "kr", "node": "kr-1"}, "direct": True, "profile": "hd", "connected": True, "valid": False,
    "verdict": "invalid", "setup_ms": 70.5, "rtt_ms": {"p50": 171.0}, "mos": 4.0,
    "directions": {
        "there": {"audio": {"loss": 0.01, "jitter_ms": 2, "one_way_ms": {"p50": 85.0}}, "mos": {"mos": 4.0},
                  "video": {"freezes": {"webrtc": {"total_ms": 120.0}}}},
        "back": {"audio": None, "video": {"freezes": {"webrtc": {"total_ms": 480.0}}}, "mos": None},
    },
}  # fmt: skip


def test_a_database_of_version_1_keeps_its_rows_and_gains_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "commcli.sqlite3"
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, MIGRATIONS[:1])
    for start in (3590, 3600, 7190):
        old.execute(
            "INSERT INTO mesh VALUES ('sg-1','hk-1',?,10,100,98,34.5,35.0,40.25,51.0,0.02,0.02,0.0,1.5,NULL,1,0)",
            (start,),
        )
    for row, document in ((3, OLD_CALL), (4, {"n": 1}), (9, OLD_CALL | {"connected": False, "mos": None})):
        old.execute("INSERT INTO calls VALUES (?, 7200.0, ?)", (row, json.dumps(document)))
    old.execute("INSERT INTO runs VALUES (1, 7200.0, 'play run', '{}')")
    old.close()
    with Store(path, clock=lambda: 7300.0) as store:
        assert [row["start"] for row in store.mesh()] == [3590, 3600, 7190]
        assert store.mesh()[0]["rtt_ms"]["p95"] == 40.25 and store.mesh()[0]["pdv_fwd_ms"] is None
        assert [(row["hour"], row["windows"]) for row in store.mesh_hours()] == [(0, 1), (3600, 2)]
        assert store.mesh_heard() == {"sg-1": 7200}
        assert [call["id"] for call in store.calls()] == [9, 4, 3] and len(store.runs()) == 1
        first, last = store.calls_since(0)
        assert (first["id"], first["unix"], last["id"], last["connected"]) == (3, 7200.0, 9, False)
        assert first | {"unix": None} == _figures_now(tmp_path) | {"id": 3}
        assert store.record_call({"n": 2}) == 10
    with sqlite3.connect(path) as raw:
        assert version(raw) == len(MIGRATIONS)


def _figures_now(tmp_path: Path) -> dict[str, object]:
    """Those that the document has today; calls of that time all went over UDP, and told no verdict of a direction."""
    with Store(tmp_path / "now.sqlite3", clock=lambda: 7300.0) as store:
        store.record_call(OLD_CALL | {"transport": "udp"})
        (row,) = store.calls_since(0)
    return row | {"unix": None}


def test_what_was_released_is_what_it_was() -> None:
    text = "\n".join(statement for statement in MIGRATIONS[0])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "66b9072c5551aaac"


def test_what_was_believed_of_the_future_goes(db: sqlite3.Connection) -> None:
    migrate(db, MIGRATIONS[:2])
    columns = "src, dst, start, seconds, sent, received"
    rows = [("a", "b", 3600, 10, 5, 5), ("a", "b", 10**15, 10, 5, 5), ("c", "b", 2**40 // 10 * 10, 10, 5, 5)]
    db.executemany(f"INSERT INTO mesh ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO mesh_open_hours VALUES (?, ?)", [("a", 3600), ("a", 10**15 // 3600 * 3600)])
    heard = [("a", 10**15 + 10), ("c", 2**40), ("old", 7200)]
    db.executemany("INSERT INTO mesh_heard VALUES (?, ?)", heard)
    hour = "INSERT INTO mesh_hours (src, dst, hour, windows, seconds, down_seconds, sent, received)"
    db.executemany(f"{hour} VALUES ('a', 'b', ?, 1, 10, 0, 5, 5)", [(0,), (2**40,)])
    migrate(db)
    assert db.execute("SELECT src, start FROM mesh").fetchall() == [("a", 3600)]
    assert db.execute("SELECT * FROM mesh_open_hours").fetchall() == [("a", 3600)]
    assert db.execute("SELECT * FROM mesh_heard").fetchall() == [("a", 3610), ("old", 7200)]
    assert db.execute("SELECT hour FROM mesh_hours").fetchall() == [(0,)]
