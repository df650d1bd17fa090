"""Which relays a call's packets really passed, put together from what each relay counted. Pure.

Rows are those of the relays' `flows` answer: {"src", "dst": "ip:port", "role", "path", "packets", "bytes",
"first_unix", "last_unix"}. A relay reports only its own part; a path is believed as far as its relays counted it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Address = tuple[str, int]
Row = Mapping[str, Any]
# node -> its rows; None for a node that could not be asked.
Flows = Mapping[str, Sequence[Row] | None]

_Key = tuple[str, str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PathUse:
    """One path that carried packets of a direction. `counted` holds each relay's own count, None where unasked."""

    path: tuple[str, ...]
    counted: Mapping[str, int | None]
    first_unix: float
    last_unix: float

    @property
    def packets(self) -> int:
        """What reached the furthest relay that could be asked."""
        return next((count for node in reversed(self.path) if (count := self.counted[node]) is not None), 0)

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "path": list(self.path),
            "packets": self.packets,
            "counted": dict(self.counted),
            "first_unix": self.first_unix,
            "last_unix": self.last_unix,
        }


def reconstruct(src: Address, dst: Address, before: Flows, after: Flows) -> list[PathUse]:
    """The paths from relayed address `src` to `dst` between two readings, the most used first.

    Empty when no relay counted overlay packets of that pair: they went straight from edge to edge, or not at all.
    """
    earlier = {node: _counts(rows or ()) for node, rows in before.items()}
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for node, rows in after.items():
        for row in rows or ():
            path = tuple(row["path"])
            if _is_between(row, src, dst) and node in path and _grew(node, row, earlier):
                found.setdefault(path, {})[node] = row
    uses = [_use(path, rows, earlier, after) for path, rows in found.items()]
    return sorted(uses, key=lambda use: (-use.packets, use.first_unix))


def _use(
    path: tuple[str, ...], rows: Mapping[str, Row], earlier: Mapping[str, Mapping[_Key, int]], after: Flows
) -> PathUse:
    counted: dict[str, int | None] = {}
    for node in path:
        if node in rows:
            counted[node] = _grown(node, rows[node], earlier)
        else:
            counted[node] = None if after.get(node) is None else 0
    first = min(float(row["first_unix"]) for row in rows.values())
    last = max(float(row["last_unix"]) for row in rows.values())
    return PathUse(path, counted, first, last)


def _is_between(row: Row, src: Address, dst: Address) -> bool:
    return bool(row["src"] == f"{src[0]}:{src[1]}" and row["dst"] == f"{dst[0]}:{dst[1]}")


def _key(row: Row) -> _Key:
    return str(row["src"]), str(row["dst"]), str(row["role"]), tuple(row["path"])


def _counts(rows: Sequence[Row]) -> dict[_Key, int]:
    return {_key(row): int(row["packets"]) for row in rows}


def _grown(node: str, row: Row, earlier: Mapping[str, Mapping[_Key, int]]) -> int:
    """Packets since the earlier reading. A count that fell belongs to a relay that started anew."""
    now, then = int(row["packets"]), earlier.get(node, {}).get(_key(row), 0)
    return now - then if now >= then else now


def _grew(node: str, row: Row, earlier: Mapping[str, Mapping[_Key, int]]) -> bool:
    return _grown(node, row, earlier) > 0
