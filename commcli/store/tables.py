"""Signed routing tables, whole: what is published, and what a rollback goes back to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput, Refused
from commcli.store.door import Door, Row, to_json


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


class Tables(Door):
    """The tables `tables` and `shards`."""

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
            values = (serial, self._clock(), manifest, signature, status, to_json(detail or {}))
            db.execute("INSERT INTO tables VALUES (?, ?, ?, ?, ?, ?)", values)
            rows = [(serial, node, body) for node, body in shards.items()]
            db.executemany("INSERT INTO shards VALUES (?, ?, ?)", rows)

    def set_table_status(self, serial: int, status: str, detail: Mapping[str, Any] | None = None) -> None:
        """What became of it ("published", "rolled-back", …); `detail` replaces the old one if given."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE tables SET status = ?, detail = coalesce(?, detail) WHERE serial = ?",
                (status, None if detail is None else to_json(detail), serial),
            )
            if changed.rowcount == 0:
                raise BadInput(f"no table of serial {serial} is kept")

    def latest_serial(self) -> int:
        """The highest serial ever kept, 0 if none: the next one is above it."""
        return int(self._all("SELECT coalesce(max(serial), 0) FROM tables")[0][0])

    def tables(self, limit: int = 100) -> list[Row]:
        """The last tables, the newest first: {"serial", "unix", "status", "detail", "nodes"}."""
        rows = self._all(
            "SELECT serial, unix, status, detail, (SELECT count(*) FROM shards WHERE shards.serial = tables.serial AND"
            " node != '*') AS nodes FROM tables ORDER BY serial DESC LIMIT ?",
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
