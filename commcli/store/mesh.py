"""What the relays measured of each other: windows for two days, their hours for 400."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from commcli.store import hours
from commcli.store.door import Door, Row
from commcli.store.windows import COLUMNS, from_row, to_row

# Sixteen nodes measure two million windows a day (0.3 GB); decisions use a quarter of an hour of them.
MESH_KEPT_S = 2 * 86_400.0
HOURS_KEPT_S = 400 * 86_400.0
# An hour of a node that nobody reads any more is closed by others, when its last windows can not come any more soon.
_ABANDONED_S = 3600.0


class MeshWindows(Door):
    """The tables `mesh`, `mesh_hours`, `mesh_open_hours` and `mesh_heard`."""

    def record_mesh(self, src: str, windows: Iterable[Mapping[str, Any]]) -> int:
        """Keep closed mesh windows of node `src` (relay/mesh/window.py); returns how many were new.

        A window that is kept already is left as it is, so reading a node twice adds nothing. Windows older than
        MESH_KEPT_S make room, and leave the figures of their hours.
        Raises BadInput, and keeps none, if one of them lacks what identifies and counts it.
        """
        rows = [to_row(src, window) for window in windows]
        marks = ", ".join("?" * len(COLUMNS))
        now = self._clock()
        with self._writing() as db:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO mesh ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
            new = db.total_changes - before
            self._note(db, src, rows, now)
            self._close_hours(db, src, now)
            db.execute("DELETE FROM mesh WHERE start < ?", (now - MESH_KEPT_S,))
            return new

    def mesh(self, since: float = 0, until: float | None = None) -> list[Row]:
        """Windows that start in since <= t < until, oldest first: the node's own window and "node" (who measured)."""
        query = "SELECT * FROM mesh WHERE start >= ? AND start < ? ORDER BY start, src, dst"
        rows = self._all(query, since, float("inf") if until is None else until)
        return [from_row(dict(row)) for row in rows]

    def mesh_heard(self) -> dict[str, int]:
        """When the newest window ended that each node ever told of, however long ago."""
        return {row["src"]: row["newest"] for row in self._all("SELECT * FROM mesh_heard ORDER BY src")}

    def mesh_hours(self, since: float = 0, until: float | None = None) -> list[Row]:
        """Hours that begin in since <= t < until, oldest first, also those that are not over yet.

        Rows of table `mesh_hours` (hours.py: rolled), "src" measured towards "dst".
        """
        between = (since, float("inf") if until is None else until)
        query = "SELECT src, hour FROM mesh_open_hours WHERE hour >= ? AND hour < ?"
        still_open = {(src, hour) for src, hour in self._all(query, *between)}
        query = "SELECT * FROM mesh_hours WHERE hour >= ? AND hour < ?"
        found = [
            dict(row) for row in self._all(query, *between) if (row["src"], row["hour"]) not in still_open
        ]
        for src, hour in still_open:
            with self._mapped():
                found += _roll(self._db, src, hour)
        return sorted(found, key=lambda row: (row["hour"], row["src"], row["dst"]))

    def _note(self, db: sqlite3.Connection, src: str, rows: list[tuple[Any, ...]], now: float) -> None:
        """Which hours have to be rolled up (again), and how far we have heard of this node."""
        if not rows:
            return
        start, seconds = COLUMNS.index("start"), COLUMNS.index("seconds")
        # Of an older hour some windows may be gone already: what it was is known, what came late is lost to it.
        touched = {hour for row in rows if (hour := hours.hour_of(row[start])) >= now - MESH_KEPT_S}
        db.executemany(
            "INSERT OR IGNORE INTO mesh_open_hours VALUES (?, ?)", [(src, hour) for hour in touched]
        )
        newest = max(row[start] + row[seconds] for row in rows)
        db.execute(
            "INSERT INTO mesh_heard VALUES (?, ?) ON CONFLICT DO UPDATE SET newest = max(newest, excluded.newest)",
            (src, newest),
        )

    def _close_hours(self, db: sqlite3.Connection, src: str, now: float) -> None:
        over = now - hours.HOUR_S
        due = db.execute(
            "SELECT src, hour FROM mesh_open_hours WHERE hour <= ? AND (src = ? OR hour <= ?)",
            (over, src, over - _ABANDONED_S),
        ).fetchall()
        marks = ", ".join("?" * len(hours.COLUMNS))
        for name, hour in due:
            rows = [tuple(row[key] for key in hours.COLUMNS) for row in _roll(db, name, hour)]
            db.executemany(f"INSERT OR REPLACE INTO mesh_hours VALUES ({marks})", rows)
            db.execute("DELETE FROM mesh_open_hours WHERE src = ? AND hour = ?", (name, hour))
        if due:
            db.execute("DELETE FROM mesh_hours WHERE hour < ?", (now - HOURS_KEPT_S,))


# Peer by peer, so that of two days of windows only those of the hour are looked at: the key is (src, dst, start).
_OF_AN_HOUR = f"""
    WITH RECURSIVE peers (peer) AS (
        SELECT min(dst) FROM mesh WHERE src = :src
        UNION ALL
        SELECT (SELECT min(dst) FROM mesh WHERE src = :src AND dst > peer) FROM peers WHERE peer IS NOT NULL
    )
    SELECT dst, {", ".join(hours.NEEDED)} FROM peers
    CROSS JOIN mesh ON src = :src AND dst = peer AND start >= :hour AND start < :hour + {hours.HOUR_S}
"""


def _roll(db: sqlite3.Connection, src: str, hour: int) -> list[Row]:
    """The hour's rows towards every peer, from the windows that are kept."""
    by_peer: dict[str, list[Row]] = defaultdict(list)
    for row in db.execute(_OF_AN_HOUR, {"src": src, "hour": hour}):
        by_peer[row["dst"]].append(dict(row))
    return [hours.rolled(src, dst, hour, windows) for dst, windows in by_peer.items()]
