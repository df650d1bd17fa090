"""What the relays measured of each other: windows for two days, their hours for 400."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import dropwhile
from typing import Any

from commcli.store import hours
from commcli.store.door import Door, Row
from commcli.store.windows import AHEAD_S, COLUMNS, from_row, to_row

# Sixteen nodes measure two million windows a day (0.2 GB); decisions use a quarter of an hour of them.
MESH_KEPT_S = 2 * 86_400.0
HOURS_KEPT_S = 400 * 86_400.0
# Of a larger fleet less is kept, down to what closing an hour and looking back for a day need: a thousand nodes have a
# million directions. Beyond that, histories are for a time-series database.
MOST_WINDOWS, LEAST_MESH_KEPT_S = 20_000_000, 3 * 3600.0
MOST_HOURS, LEAST_HOURS_KEPT_S = 10_000_000, 86_400.0
_COUNTED_S = 900.0
# An hour of a node that nobody reads any more is closed by others, when its last windows can not come any more soon.
_ABANDONED_S = 3600.0


class MeshWindows(Door):
    """The tables `mesh`, `mesh_hours`, `mesh_open_hours` and `mesh_heard`."""

    most_windows, most_hours = MOST_WINDOWS, MOST_HOURS
    _kept: tuple[float, float] | None = None

    def record_mesh(self, src: str, windows: Iterable[Mapping[str, Any]]) -> int:
        """Keep closed mesh windows of node `src` (relay/mesh/window.py); returns how many were new.

        A window that is kept already is left as it is, so reading a node twice adds nothing. Windows older than
        MESH_KEPT_S (less, if there are very many) make room, and leave the figures of their hours.
        What a zone does not let be stored here is left out. Raises BadInput, and keeps none, if one of them lacks what
        identifies and counts it.
        """
        rows = [to_row(src, window) for window in windows if self._permits(src, window.get("peer"))]
        marks = ", ".join("?" * len(COLUMNS))
        now = self._clock()
        with self._writing() as db:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO mesh ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
            new = db.total_changes - before
            # Once for a reading of the whole fleet, since counting takes its time.
            windows_s, hours_s = self._kept = self._kept or self._room(db, now)
            self._note(db, src, rows, now, now - windows_s)
            if self._close_hours(db, src, now):
                db.execute("DELETE FROM mesh_hours WHERE hour < ?", (now - hours_s,))
            db.execute("DELETE FROM mesh WHERE start < ?", (now - windows_s,))
            return new

    def mesh(self, since: float = 0, until: float | None = None) -> list[Row]:
        """Windows that start in since <= t < until, oldest first: the node's own window and "node" (who measured)."""
        query = "SELECT * FROM mesh WHERE start >= ? AND start < ? ORDER BY start, src, dst"
        rows = self._all(query, since, float("inf") if until is None else until)
        return [from_row(dict(row)) for row in rows]

    def mesh_heard(self) -> dict[str, int]:
        """When the newest window ended that each node ever told of, however long ago, but not in the future."""
        query = "SELECT * FROM mesh_heard WHERE newest <= ? ORDER BY src"
        return {row["src"]: row["newest"] for row in self._all(query, self._clock() + AHEAD_S)}

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

    def _room(self, db: sqlite3.Connection, now: float) -> tuple[float, float]:
        """How long windows and hours can be kept, by how many come."""
        windows = db.execute(
            "SELECT count(*) FROM mesh WHERE start >= ? AND start < ?", (now - _COUNTED_S, now)
        ).fetchone()[0]
        newest = "SELECT max(hour) FROM mesh_hours WHERE hour <= ?"
        rolled = db.execute(f"SELECT count(*) FROM mesh_hours WHERE hour = ({newest})", (now,)).fetchone()[0]
        windows_s = self.most_windows * _COUNTED_S / max(1, windows)
        hours_s = self.most_hours * hours.HOUR_S / max(1, rolled)
        return (
            min(MESH_KEPT_S, max(LEAST_MESH_KEPT_S, windows_s)),
            min(HOURS_KEPT_S, max(LEAST_HOURS_KEPT_S, hours_s)),
        )

    def _note(
        self, db: sqlite3.Connection, src: str, rows: list[tuple[Any, ...]], now: float, oldest: float
    ) -> None:
        """Which hours have to be rolled up (again), and how far we have heard of this node."""
        if not rows:
            return
        start, seconds = COLUMNS.index("start"), COLUMNS.index("seconds")
        # Of an older hour some windows may be gone already: what it was is known, what came late is lost to it.
        touched = {hour for row in rows if (hour := hours.hour_of(row[start])) >= oldest}
        db.executemany(
            "INSERT OR IGNORE INTO mesh_open_hours VALUES (?, ?)", [(src, hour) for hour in touched]
        )
        newest = max(row[start] + row[seconds] for row in rows)
        db.execute(
            "INSERT INTO mesh_heard VALUES (?, ?) ON CONFLICT DO UPDATE SET newest ="
            " CASE WHEN newest > ? THEN excluded.newest ELSE max(newest, excluded.newest) END",
            (src, newest, now + AHEAD_S),
        )

    def _close_hours(self, db: sqlite3.Connection, src: str, now: float) -> bool:
        """Roll up what is over; whether there was any."""
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
        return bool(due)


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
    served = ((dst, _in_service(db, src, dst, hour, windows)) for dst, windows in by_peer.items())
    return [hours.rolled(src, dst, hour, windows) for dst, windows in served if windows]


def _in_service(db: sqlite3.Connection, src: str, dst: str, hour: int, windows: list[Row]) -> list[Row]:
    """The windows from the first answer on that `dst` ever gave: until then it was not down, it was not there."""
    if windows[0]["received"]:
        return windows
    earlier = (
        "SELECT EXISTS (SELECT 1 FROM mesh_hours WHERE src = ? AND dst = ? AND hour < ? AND received > 0)"
        " OR EXISTS (SELECT 1 FROM mesh WHERE src = ? AND dst = ? AND start < ? AND received > 0)"
    )
    if db.execute(earlier, (src, dst, hour, src, dst, hour)).fetchone()[0]:
        return windows
    return list(dropwhile(lambda window: not window["received"], windows))
