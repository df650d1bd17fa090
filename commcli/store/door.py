"""The one door to SQLite: opening, transactions, and its errors as ours.

When a method that records has returned, the rows survive a SIGKILL and (synchronous=FULL) a power cut.
Times are Unix seconds of this machine's clock, handed in as `clock`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from commcli.errors import BadInput, LockHeld
from commcli.fleet.residency import Residency
from commcli.store.schema import migrate

# Cron and a person may write in the same second; nobody writes for long.
BUSY_TIMEOUT_S = 10.0
WAL_PAUSE_S = 0.01

Row = dict[str, Any]


class StoreBroken(BadInput):
    """The database can not be read or written; no node is to blame."""


class Door:
    """Open with `with`. Raises BadInput for a file that is no database or can not be written, LockHeld if another
    process keeps it busy, Refused for a database of a newer commcli.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        self.path = path
        self._clock = clock
        self._residency: Residency | None = None
        with self._mapped():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Autocommit: transactions are written where they begin and end.
            self._db = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
            try:
                self._prepare(time.monotonic() + busy_timeout_s)
            except BaseException:
                self._db.close()
                raise

    def under(self, residency: Residency) -> Self:
        """The same store, which keeps no more than these rules of a fleet permit."""
        self._residency = residency
        return self

    @property
    def left_out(self) -> dict[str, int]:
        """How many windows, calls and doors were not kept, by the zone that says so."""
        return {} if self._residency is None else dict(sorted(self._residency.left_out.items()))

    def _permits(self, one: str | None, other: str | None) -> bool:
        return self._residency is None or self._residency.permits(one or "", other or "")

    def _prepare(self, until: float) -> None:
        self._db.row_factory = sqlite3.Row
        # SQLite does not wait its busy timeout for this one: two that open a new database at once would fail.
        while not self._is_wal(last_try=time.monotonic() >= until):
            time.sleep(WAL_PAUSE_S)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        migrate(self._db)

    def _is_wal(self, *, last_try: bool) -> bool:
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if last_try or error.sqlite_errorname != "SQLITE_BUSY":
                raise
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _insert(self, statement: str, *values: object) -> int:
        with self._writing() as db:
            return int(db.execute(statement, values).lastrowid or 0)

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._mapped():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the body or nothing. IMMEDIATE, so that waiting happens before reading."""
        with self._mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors (a full disk).
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """SQLite's errors as ours, in one place."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise LockHeld(f"{self.path}: another process keeps the database busy") from error
            raise StoreBroken(f"{self.path}: {error}") from error
        except OSError as error:
            raise StoreBroken(f"{self.path}: {error.strerror}") from error
        except OverflowError:
            raise BadInput("a number that is too large for the store") from None


def to_json(document: Mapping[str, Any]) -> str:
    """JSON to keep. Raises ValueError for NaN, which is no JSON, and TypeError for a Secret."""
    return json.dumps(document, allow_nan=False)


def read_document(row: sqlite3.Row) -> Row:
    """A kept document with the "id" and the time, "recorded", that it was kept under."""
    return {**json.loads(row["document"]), "id": row["id"], "recorded": row["unix"]}
