"""A mesh window as a node reports it (relay/mesh/mesh.py) and as a row of the table `mesh`, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.errors import BadInput

COLUMNS = (
    *("src", "dst", "start", "seconds", "sent", "received"),
    *("rtt_min_ms", "rtt_p50_ms", "rtt_p95_ms", "rtt_p99_ms"),
    *("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms", "reordered", "duplicates"),
)
_COUNTED = ("start", "seconds", "sent", "received")
_MEASURED = ("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms", "reordered", "duplicates")
# No figure of a window comes near it; SQLite's integers end beyond it. NaN is not within it either.
_MOST = 10**15
_RTT = ("min", "p50", "p95", "p99")


def to_row(src: str, window: Mapping[str, Any]) -> tuple[object, ...]:
    """A window's row. What is missing or null was not measured; raises BadInput where that can not be so."""
    peer = window.get("peer")
    if not isinstance(peer, str) or not peer:
        raise BadInput(f"node {src}: a mesh window without a peer")
    counted = [_whole(src, window, key) for key in _COUNTED]
    rtt = window.get("rtt_ms")
    if rtt is not None and not isinstance(rtt, Mapping):
        raise BadInput(f"node {src}: a mesh window whose rtt_ms is no mapping")
    times = [_number(src, rtt or {}, key) for key in _RTT]
    return (src, peer, *counted, *times, *(_number(src, window, key) for key in _MEASURED))


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The window again, with "node": who measured it."""
    rtt = {key: row[f"rtt_{key}_ms"] for key in _RTT}
    return {
        "node": row["src"],
        "peer": row["dst"],
        **{key: row[key] for key in _COUNTED},
        "rtt_ms": None if rtt["p50"] is None else rtt,
        **{key: row[key] for key in _MEASURED},
    }


def _whole(src: str, window: Mapping[str, Any], key: str) -> int:
    value = window.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise BadInput(f"node {src}: a mesh window whose {key} is no count")
    return value


def _number(src: str, window: Mapping[str, Any], key: str) -> float | None:
    value = window.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise BadInput(f"node {src}: a mesh window whose {key} is no number")
    return value
