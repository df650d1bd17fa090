"""A mesh window as a node reports it (relay/mesh/window.py) and as a row of the table `mesh`, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.errors import BadInput

_COUNTED = ("start", "seconds", "sent", "received")
# Spreads of times by name, with the percentiles that each has.
_SPREADS = {
    "rtt_ms": ("min", "p50", "p95", "p99"),
    "pdv_fwd_ms": ("p50", "p95", "p99"),
    "pdv_back_ms": ("p50", "p95", "p99"),
    "delay_fwd_ms": ("min", "p50", "p95", "p99"),
    "delay_back_ms": ("min", "p50", "p95", "p99"),
}
_MEASURED = (
    *("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms"),
    *("reordered", "reordered_fwd", "reordered_back", "duplicates"),
    *("bursts_fwd", "bursts_back", "longest_burst_fwd", "longest_burst_back", "clock_error_ms"),
)
# Between two clocks a delay may come out negative.
_SIGNED = ("delay_fwd_ms", "delay_back_ms")
# A window that ends later than this from now was stamped by a clock that is wrong: it would look newest for ever.
AHEAD_S = 60.0
# No figure of a window comes near it; SQLite's integers end beyond it. NaN is not within it either.
_MOST = 10**15


def _column(spread: str, key: str) -> str:
    return f"{spread.removesuffix('_ms')}_{key}_ms"


_SPREAD_COLUMNS = {
    spread: tuple((key, _column(spread, key)) for key in keys) for spread, keys in _SPREADS.items()
}
COLUMNS = (
    *("src", "dst", *_COUNTED),
    *(column for columns in _SPREAD_COLUMNS.values() for _, column in columns),
    *_MEASURED,
)


def to_row(src: str, window: Mapping[str, Any]) -> tuple[object, ...]:
    """A window's row. What is missing or null was not measured; raises BadInput where that can not be so."""
    peer = window.get("peer")
    if not isinstance(peer, str) or not peer:
        raise BadInput(f"node {src}: a mesh window without a peer")
    counted = [_whole(src, window, key) for key in _COUNTED]
    times = [time for spread in _SPREADS for time in _times(src, window, spread)]
    return (src, peer, *counted, *times, *(_number(src, window, key) for key in _MEASURED))


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The window again, with "node": who measured it."""
    return {
        "node": row["src"],
        "peer": row["dst"],
        **{key: row[key] for key in _COUNTED},
        **{spread: _spread(row, spread) for spread in _SPREADS},
        **{key: row[key] for key in _MEASURED},
    }


def _spread(row: Mapping[str, Any], spread: str) -> dict[str, Any] | None:
    times = {key: row[column] for key, column in _SPREAD_COLUMNS[spread]}
    return None if times["p50"] is None else times


def _times(src: str, window: Mapping[str, Any], spread: str) -> list[float | None]:
    times = window.get(spread)
    if times is not None and not isinstance(times, Mapping):
        raise BadInput(f"node {src}: a mesh window whose {spread} is no mapping")
    least = -_MOST if spread in _SIGNED else 0
    return [_number(src, times or {}, key, least) for key in _SPREADS[spread]]


def _whole(src: str, window: Mapping[str, Any], key: str) -> int:
    value = window.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise BadInput(f"node {src}: a mesh window whose {key} is no count")
    return value


def _number(src: str, window: Mapping[str, Any], key: str, least: int = 0) -> float | None:
    value = window.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _MOST:
        raise BadInput(f"node {src}: a mesh window whose {key} is no number")
    return value
