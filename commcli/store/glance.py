"""A look at a database that changes nothing in it: for who asks whether it can be worked with at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from commcli.store.schema import MIGRATIONS

KNOWN = len(MIGRATIONS)


class Change(NamedTuple):
    """The last row of the audit with this command. `ended` is None for one that runs still or was killed."""

    command: str
    started: float
    ended: float | None
    result: str
    pid: int


class Glance(NamedTuple):
    """`version` of its shape, None where there is no database yet; the last change by every command."""

    version: int | None = None
    changes: tuple[Change, ...] = ()
    error: str = ""


def glance(path: Path) -> Glance:
    """What is there. What can not be read is an `error`."""
    if not path.exists():
        return Glance()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            return Glance(version, _changes(db) if version == KNOWN else ())
    except sqlite3.Error as error:
        return Glance(error=str(error))


def _changes(db: sqlite3.Connection) -> tuple[Change, ...]:
    columns = ", ".join(Change._fields)
    query = f"SELECT {columns} FROM audit WHERE id IN (SELECT max(id) FROM audit GROUP BY command) ORDER BY id DESC"
    return tuple(Change(*row) for row in db.execute(query))
