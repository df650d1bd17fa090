"""Measurements, calls, tables, runs and the audit, in one SQLite file.

When a method that records has returned, the rows survive a SIGKILL and (synchronous=FULL) a power cut.
Times are Unix seconds of this machine's clock, handed in as `clock`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from commcli.errors import BadInput, LockHeld, Refused
from commcli.store.operator import operator
from commcli.store.schema import migrate
from commcli.store.windows import COLUMNS, from_row, to_row

# Cron and a person may write in the same second; nobody writes for long.
BUSY_TIMEOUT_S = 10.0
WAL_PAUSE_S = 0.01
# Sixteen nodes measure two million windows a day (0.3 GB); decisions use a quarter of an hour of them.
MESH_KEPT_S = 2 * 86_400.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A published table, byte for byte: a rollback re-signs nothing that it can not read here."""

    serial: int
    unix: float
    manifest: bytes
    signature: str
    status: str
    detail: Row
    shards: dict[str, bytes]


class Store:
    """Open with `with`. Raises BadInput for a file that is no database or can not be written, LockHeld if another
    process keeps it busy, Refused for a database of a newer commcli.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        self.path = path
        self._clock = clock
        with self._mapped():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Autocommit: transactions are written where they begin and end.
            self._db = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
            try:
                self._prepare(time.monotonic() + busy_timeout_s)
            except BaseException:
                self._db.close()
                raise

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

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # Mesh

    def record_mesh(self, src: str, windows: Iterable[Mapping[str, Any]]) -> int:
        """Keep closed mesh windows of node `src` (relay/mesh/mesh.py: windows); returns how many were new.

        A window that is kept already is left as it is, so reading a node twice adds nothing. Windows older than
        MESH_KEPT_S make room: long histories are for a time-series database.
        Raises BadInput, and keeps none, if one of them lacks what identifies and counts it.
        """
        rows = [to_row(src, window) for window in windows]
        marks = ", ".join("?" * len(COLUMNS))
        with self._writing() as db:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO mesh ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
            new = db.total_changes - before
            db.execute("DELETE FROM mesh WHERE start < ?", (self._clock() - MESH_KEPT_S,))
            return new

    def mesh(self, since: float = 0, until: float | None = None) -> list[Row]:
        """Windows that start in since <= t < until, oldest first: the node's own window and "node" (who measured)."""
        query = "SELECT * FROM mesh WHERE start >= ? AND start < ? ORDER BY start, src, dst"
        rows = self._all(query, since, float("inf") if until is None else until)
        return [from_row(dict(row)) for row in rows]

    # Probe calls

    def record_call(self, document: Mapping[str, Any]) -> int:
        """Keep a probe call's document; returns its id."""
        return self._insert(
            "INSERT INTO calls (unix, document) VALUES (?, ?)", self._clock(), _json(document)
        )

    def calls(self, limit: int = 100) -> list[Row]:
        """The last calls, the newest first: the documents, each with "id" and "recorded"."""
        return [_document(row) for row in self._all("SELECT * FROM calls ORDER BY id DESC LIMIT ?", limit)]

    # Tables

    def record_table(
        self,
        serial: int,
        manifest: bytes,
        signature: str,
        shards: Mapping[str, bytes],
        status: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a signed table before any node hears of it. Raises Refused if the serial is taken: it only grows."""
        with self._writing() as db:
            newest = db.execute("SELECT max(serial) FROM tables").fetchone()[0]
            if newest is not None and serial <= newest:
                raise Refused(f"table serial {serial} is not above {newest}, the newest one kept")
            values = (serial, self._clock(), manifest, signature, status, _json(detail or {}))
            db.execute("INSERT INTO tables VALUES (?, ?, ?, ?, ?, ?)", values)
            rows = [(serial, node, body) for node, body in shards.items()]
            db.executemany("INSERT INTO shards VALUES (?, ?, ?)", rows)

    def set_table_status(self, serial: int, status: str, detail: Mapping[str, Any] | None = None) -> None:
        """What became of it ("published", "rolled-back", …); `detail` replaces the old one if given."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE tables SET status = ?, detail = coalesce(?, detail) WHERE serial = ?",
                (status, None if detail is None else _json(detail), serial),
            )
            if changed.rowcount == 0:
                raise BadInput(f"no table of serial {serial} is kept")

    def latest_serial(self) -> int:
        """The highest serial ever kept, 0 if none: the next one is above it."""
        return int(self._all("SELECT coalesce(max(serial), 0) FROM tables")[0][0])

    def tables(self, limit: int = 100) -> list[Row]:
        """The last tables, the newest first: {"serial", "unix", "status", "detail", "nodes"}."""
        rows = self._all(
            "SELECT serial, unix, status, detail, (SELECT count(*) FROM shards WHERE shards.serial = tables.serial)"
            " AS nodes FROM tables ORDER BY serial DESC LIMIT ?",
            limit,
        )
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]

    def table(self, serial: int) -> StoredTable | None:
        """One table, whole; None if there is none of that serial."""
        for row in self._all("SELECT * FROM tables WHERE serial = ?", serial):
            shards = self._all("SELECT node, body FROM shards WHERE serial = ? ORDER BY node", serial)
            columns = {**dict(row), "detail": json.loads(row["detail"])}
            return StoredTable(**columns, shards={node: bytes(body) for node, body in shards})
        return None

    # Audit

    def audit(
        self,
        command: str,
        reason: str | None,
        result: str,
        detail: Mapping[str, Any],
        *,
        who: str | None = None,
    ) -> int:
        """A row about a command that has changed the fleet (or tried to); returns its id."""
        now = self._clock()
        return self._insert(
            "INSERT INTO audit (started, ended, who, pid, command, reason, result, detail)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(now, now, who or operator(), os.getpid(), command, reason, result, _told(detail)),
        )

    @contextmanager
    def audited(self, command: str, reason: str | None, detail: Mapping[str, Any]) -> Iterator[Row]:
        """Around a change: a row before it ("started"), and its result after. A killed command leaves the first.

        Yields a dict to add to `detail`. The result is "done", or what the body raised: "interrupted", the error's
        kind, "exit 4". Set `["result"]` of the dict for another word.
        """
        told: Row = dict(detail)
        row = self._insert(
            "INSERT INTO audit (started, who, pid, command, reason, result, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(self._clock(), operator(), os.getpid(), command, reason, "started", _told(told)),
        )
        result = "done"
        try:
            yield told
        except BaseException as error:
            result = _result_of(error)
            raise
        finally:
            word = str(told.pop("result", result))
            values = (self._clock(), word, _told(told), row)
            self._insert("UPDATE audit SET ended = ?, result = ?, detail = ? WHERE id = ?", *values)

    def audits(self, limit: int = 100) -> list[Row]:
        """The last rows, the newest first: {"id", "started", "ended", "who", "pid", "command", "reason", "result",
        "detail"}; `ended` is None for a command that still runs or was killed.
        """
        rows = self._all("SELECT * FROM audit ORDER BY id DESC LIMIT ?", limit)
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]

    # Runs

    def record_run(self, command: str, document: Mapping[str, Any]) -> int:
        """Keep the document of a finished run (a play, a health check); returns its id."""
        values = (self._clock(), command, _json(document))
        return self._insert("INSERT INTO runs (unix, command, document) VALUES (?, ?, ?)", *values)

    def runs(self, limit: int = 100) -> list[Row]:
        """The last runs, the newest first: the documents, each with "id", "recorded" and "command"."""
        rows = self._all("SELECT * FROM runs ORDER BY id DESC LIMIT ?", limit)
        return [{**_document(row), "command": row["command"]} for row in rows]

    # The door

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
            raise BadInput(f"{self.path}: {error}") from error
        except OSError as error:
            raise BadInput(f"{self.path}: {error.strerror}") from error


def _json(document: Mapping[str, Any]) -> str:
    # allow_nan=False: NaN is no JSON, and an unmeasured value is None. A Secret is refused by json itself.
    return json.dumps(document, allow_nan=False)


def _told(detail: Mapping[str, Any]) -> str:
    # The change has happened: an odd value must not cost us the row. A Secret is written as ***.
    return json.dumps(detail, default=str)


def _document(row: sqlite3.Row) -> Row:
    return {**json.loads(row["document"]), "id": row["id"], "recorded": row["unix"]}


def _result_of(error: BaseException) -> str:
    """What to write about a command that ended with `error`; an exit with 0 is a good end."""
    from asyncio import CancelledError  # not at the top: `route history` has no use for it

    # Inside an event loop Ctrl-C arrives as the task's cancellation.
    if isinstance(error, KeyboardInterrupt | CancelledError):
        return "interrupted"
    if kind := getattr(error, "kind", None):
        return str(kind)
    code = getattr(error, "exit_code", getattr(error, "code", None))
    if code is None:
        return "bug"
    return "done" if code == 0 else f"exit {code}"
