"""An hour of one direction of the mesh out of its windows: what is kept when the windows have made room. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HOUR_S = 3600
COLUMNS = (
    *("src", "dst", "hour", "windows", "seconds", "down_seconds", "sent", "received"),
    *("rtt_min_ms", "rtt_p50_ms", "rtt_p95_ms", "rtt_p99_ms"),
    *("loss", "loss_fwd", "loss_back", "worst_loss", "jitter_fwd_ms", "jitter_back_ms"),
)
# What of a window it takes.
NEEDED = (
    *("seconds", "sent", "received", "rtt_min_ms", "rtt_p50_ms", "rtt_p95_ms", "rtt_p99_ms"),
    *("loss", "loss_fwd", "loss_back", "jitter_fwd_ms", "jitter_back_ms"),
)
# Of 100 answers of a window, so many are within its p50, between that and its p95, and beyond.
_SHARES = (("rtt_p50_ms", 50), ("rtt_p95_ms", 45), ("rtt_p99_ms", 5))
Points = Iterable[tuple[float, int]]


def hour_of(unix: float) -> int:
    """When the hour of this time began."""
    return int(unix // HOUR_S) * HOUR_S


def rolled(src: str, dst: str, hour: int, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of table `mesh_hours` of this direction's `windows` (rows of table `mesh`).

    Losses and jitter are means in which a window counts by its packets; `worst_loss` is that of one window;
    `down_seconds` are those of windows without any answer. RTT percentiles are of answers, at most a little too high.
    """
    p50, p95, p99 = percentiles(rtt_points(windows))
    return {
        **{"src": src, "dst": dst, "hour": hour, "windows": len(windows)},
        "seconds": sum(window["seconds"] for window in windows),
        "down_seconds": sum(
            window["seconds"] for window in windows if window["sent"] and not window["received"]
        ),
        "sent": sum(window["sent"] for window in windows),
        "received": sum(window["received"] for window in windows),
        "rtt_min_ms": min((w["rtt_min_ms"] for w in windows if w["rtt_min_ms"] is not None), default=None),
        **{"rtt_p50_ms": p50, "rtt_p95_ms": p95, "rtt_p99_ms": p99},
        **{key: mean(windows, key) for key in ("loss", "loss_fwd", "loss_back")},
        "worst_loss": max((w["loss"] for w in windows if w["loss"] is not None), default=None),
        **{key: mean(windows, key) for key in ("jitter_fwd_ms", "jitter_back_ms")},
    }


def rtt_points(rows: Iterable[Mapping[str, Any]]) -> Points:
    """(RTT, how many answers took that long or less) of windows or of hours, so that their percentiles add up."""
    for row in rows:
        for key, share in _SHARES:
            if row[key] is not None:
                yield row[key], row["received"] * share


def percentiles(points: Points, ranks: Sequence[float] = (50, 95, 99)) -> list[float | None]:
    """The nearest-rank percentiles of (value, weight), weights being whole numbers; None each when there are none.

    `ranks` ascend.
    """
    ordered = sorted(point for point in points if point[1] > 0)
    total, reached, found = sum(weight for _, weight in ordered), 0, []
    todo = list(ranks)
    for value, weight in ordered:
        reached += weight
        while todo and 100 * reached >= todo[0] * total:
            found.append(value)
            todo.pop(0)
    return [*found, *(None for _ in todo)]


def mean(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """The mean of what was measured, each row counting by its packets."""
    known = [(row[key], row["sent"]) for row in rows if row[key] is not None]
    packets = sum(sent for _, sent in known)
    return sum(value * sent for value, sent in known) / packets if packets else None
