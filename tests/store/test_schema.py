"""Migrations: each once, in order, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from commcli.errors import Refused
from commcli.store.schema import MIGRATIONS, migrate

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
