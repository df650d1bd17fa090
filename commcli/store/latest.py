"""The newest windows of the mesh, by direction: what a reading goes on from, and what is shown. Only reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple

from commcli.store.door import Door, Row
from commcli.store.windows import from_row

# Of every direction within the time, the newest; the two directions of a pair beside each other. Only what is taken
# is looked up: the index `mesh_by_time` holds the keys.
_LATEST = """
    SELECT mesh.* FROM (
        SELECT src, dst, start, row_number() OVER (PARTITION BY src, dst ORDER BY start DESC) AS place
        FROM mesh WHERE start >= :since AND start < :until
        AND (:nodes IS NULL OR src IN (SELECT value FROM json_each(:nodes))
            OR dst IN (SELECT value FROM json_each(:nodes)))
    ) AS newest JOIN mesh USING (src, dst, start)
    WHERE newest.place <= :most
    ORDER BY min(src, dst), max(src, dst), src, start DESC
"""


class Newest(NamedTuple):
    """When the newest window of one direction ended (unix s), and how long it was."""

    end: int
    seconds: int


class LatestWindows(Door):
    """Questions to the table `mesh`; door.py says what they raise."""

    def mesh_newest(self, since: float, until: float) -> dict[str, dict[str, Newest]]:
        """Of every direction the newest window that started at `since` or later and ended by `until`.

        Who measured -> towards whom.
        """
        query = """
            SELECT src, dst, max(start) AS start, seconds FROM mesh
            WHERE start >= ? AND start + seconds <= ? GROUP BY src, dst
        """
        found: dict[str, dict[str, Newest]] = {}
        for row in self._all(query, since, until):
            seconds = row["seconds"]
            found.setdefault(row["src"], {})[row["dst"]] = Newest(row["start"] + seconds, seconds)
        return found

    def mesh_latest(
        self, since: float, until: float, most: int, nodes: Collection[str] | None = None
    ) -> Iterator[Row]:
        """The newest windows of every direction, at most `most`, newest first, that start in since <= t < until.

        Of all nodes, or of those directions that begin or end at one of `nodes`. As `mesh` gives them; both
        directions of a pair one after the other. They come one by one: of a thousand nodes they would fill the memory.
        """
        wanted = None if nodes is None else json.dumps(sorted(nodes))
        with self._mapped():
            found = self._db.execute(_LATEST, {"since": since, "until": until, "most": most, "nodes": wanted})
            for row in found:
                yield from_row(row)

    def mesh_answered(self, node: str) -> int | None:
        """When the newest window ended in which a peer had an answer from `node`; None: not in those that are kept."""
        newest = """
            SELECT start + seconds AS ended FROM mesh
            WHERE src = ? AND dst = ? AND received > 0 AND start <= ? ORDER BY start DESC LIMIT 1
        """
        now = self._clock()
        ends = [
            row["ended"]
            for (peer,) in self._all("SELECT src FROM mesh_heard")
            for row in self._all(newest, peer, node, now)
        ]
        return max(ends, default=None)
