"""Which relays a call's packets really passed, put together from what each relay counted. Pure.

Rows are those of the relays' `flows` answer: "flows" {"src", "dst": "ip:port", "role", "path", "packets", "bytes",
"first_unix", "last_unix"} and "segments", the directed segments that end at the relay, with what all their traffic
met ({"from", "to", "expected", "lost", "repaired", ...}, counted since `started_unix`). A relay reports only its own
part; a path is believed as far as its relays counted it. What a segment's sender repeated is in the sender's "sends".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Address = tuple[str, int]
Row = Mapping[str, Any]
Segment = tuple[str, str]

_Key = tuple[str, str, str, tuple[str, ...]]

# What a segment's receiver counts on and on; the rest of its row is how it is now.
COUNTED = ("expected", "lost", "repaired", "unrepaired", "reordered", "duplicates")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one relay counted so far. `segments` end at it, `sends` begin there; empty where a relay does not tell."""

    flows: Sequence[Row] = ()
    segments: Sequence[Row] = ()
    sends: Sequence[Row] = ()


# node -> what it told; None for a node that could not be asked.
Readings = Mapping[str, Reading | None]


@dataclass(frozen=True, slots=True)
class Hop:
    """One directed segment of a path: the call's own packets into and out of it, None where a relay was not asked.

    `segment` is what its receiver counted of all traffic during the call (JSON-able), None where it did not tell.
    """

    src: str
    dst: str
    sent: int | None
    came: int | None
    segment: Row | None

    @property
    def loss(self) -> float | None:
        """Share 0..1 of the call's packets that did not come, after repair; None: not counted at both ends."""
        if not self.sent or self.came is None:
            return None
        return max(0.0, 1 - self.came / self.sent)

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "from": self.src,
            "to": self.dst,
            "packets_in": self.sent,
            "packets_out": self.came,
            "loss": self.loss,
            "segment": self.segment,
        }


@dataclass(frozen=True, slots=True)
class PathUse:
    """One path that carried packets of a direction. `counted` holds each relay's own count, None where unasked."""

    path: tuple[str, ...]
    counted: Mapping[str, int | None]
    first_unix: float
    last_unix: float
    hops: tuple[Hop, ...] = field(default=())

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
            "hops": [hop.row() for hop in self.hops],
        }


def reconstruct(src: Address, dst: Address, before: Readings, after: Readings) -> list[PathUse]:
    """The paths from relayed address `src` to `dst` between two readings, the most used first.

    Empty when no relay counted overlay packets of that pair: they went straight from edge to edge, or not at all.
    """
    earlier = {node: _counts(told.flows if told else ()) for node, told in before.items()}
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for node, told in after.items():
        for row in told.flows if told else ():
            path = tuple(row["path"])
            if _is_between(row, src, dst) and node in path and _grew(node, row, earlier):
                found.setdefault(path, {})[node] = row
    segments = _segments(before, after)
    uses = [_use(path, rows, earlier, after, segments) for path, rows in found.items()]
    return sorted(uses, key=lambda use: (-use.packets, use.first_unix))


def _use(
    path: tuple[str, ...],
    rows: Mapping[str, Row],
    earlier: Mapping[str, Mapping[_Key, int]],
    after: Readings,
    segments: Mapping[Segment, Row],
) -> PathUse:
    counted: dict[str, int | None] = {}
    for node in path:
        if node in rows:
            counted[node] = _grown(node, rows[node], earlier)
        else:
            counted[node] = None if after.get(node) is None else 0
    first = min(float(row["first_unix"]) for row in rows.values())
    last = max(float(row["last_unix"]) for row in rows.values())
    hops = (Hop(a, b, counted[a], counted[b], segments.get((a, b))) for a, b in pairwise(path))
    return PathUse(path, counted, first, last, tuple(hops))


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


# --- segments -------------------------------------------------------------------------------------------------------


def _segments(before: Readings, after: Readings) -> dict[Segment, Row]:
    """What each directed segment met between the readings: counts since then, delays as they are."""
    earlier, repeated = _by_segment(before), _repeated(after)
    then = _repeated(before)
    return {
        key: {
            **_since(row, earlier.get(key)),
            "sent_again": _less(repeated.get(key), then.get(key, 0)),
        }
        for key, row in _by_segment(after).items()
    }


def _told(readings: Readings) -> Iterable[Reading]:
    return (reading for reading in readings.values() if reading is not None)


def _by_segment(readings: Readings) -> dict[Segment, Row]:
    return {(str(row["from"]), str(row["to"])): row for told in _told(readings) for row in told.segments}


def _repeated(readings: Readings) -> dict[Segment, int]:
    """How many datagrams each segment's sender has sent again since its start."""
    return {
        (str(row["from"]), str(row["to"])): int(row["sent_again"])
        for told in _told(readings)
        for row in told.sends
    }


def _since(row: Row, earlier: Row | None) -> dict[str, Any]:
    """`row` with its counts since `earlier`, which counts only if the relay has not begun anew meanwhile."""
    same_life = earlier is not None and earlier.get("started_unix") == row.get("started_unix")
    counts = {
        name: _less(row.get(name), earlier.get(name) if same_life and earlier else 0) for name in COUNTED
    }
    expected, lost = counts["expected"], counts["lost"]
    return {
        **counts,
        "loss": lost / expected if expected and lost is not None else None,
        "delay_ms": row.get("delay_ms"),
        "rtt_ms": row.get("rtt_ms"),
    }


def _less(now: int | None, then: int | None) -> int | None:
    """None: not counted, now or then. A repaired packet may leave `lost` again, so a count may fall a little."""
    return None if now is None or then is None else max(0, now - then)
