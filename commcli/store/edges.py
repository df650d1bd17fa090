"""How the TURN transports of the edges were met: a row for each, whenever somebody looked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from commcli.store.door import Door, Row, to_json

EDGES_KEPT_S = 90 * 86_400.0


class Edges(Door):
    """The table `edges`."""

    def record_edges(self, document: Mapping[str, Any]) -> int:
        """Keep the doors of a `probe.edge` document ({"unix", "from", "valid", "doors": [...]}); returns how many.

        Those of an edge whose own market's data may not be stored here are left out.
        """
        head = (document["unix"], document["from"])
        rows = [
            (*head, *_columns(document, door))
            for door in document["doors"]
            if self._permits(door.get("node"), door.get("node"))
        ]
        with self._writing() as db:
            db.executemany(
                "INSERT INTO edges (unix, seen_from, node, transport, valid, verdict, total_ms, days_left, document)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            db.execute("DELETE FROM edges WHERE unix < ?", (self._clock() - EDGES_KEPT_S,))
            return len(rows)

    def edges_since(self, since: float, until: float | None = None) -> list[Row]:
        """The doors that were looked at in since <= t < until, the oldest first.

        Each is the door's row with "id", "unix", "from" (None: this machine), "valid" and "days_left".
        """
        query = "SELECT * FROM edges WHERE unix >= ? AND unix < ? ORDER BY unix, id"
        rows = self._all(query, since, float("inf") if until is None else until)
        return [
            {
                **json.loads(row["document"]),
                "id": row["id"],
                "unix": row["unix"],
                "from": row["seen_from"],
                "valid": None if row["valid"] is None else bool(row["valid"]),
                "days_left": row["days_left"],
            }
            for row in rows
        ]


def _columns(document: Mapping[str, Any], door: Mapping[str, Any]) -> tuple[object, ...]:
    certificate = door.get("certificate") or {}
    return (
        *(door["node"], door["transport"], document.get("valid"), door["verdict"]),
        *(door.get("total_ms"), certificate.get("days_left"), to_json(door)),
    )
