"""One direction of the mesh between two nodes, out of the windows that both measured. Pure; `now` is unix s.

A window is 10 s long or, where a node may send little to each of many peers, up to 300 s. What is shown is taken from
as many of the newest as make up SPAN_S, so that it is of now and yet of enough packets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, takewhile
from typing import Any

from commcli.store.windows import AHEAD_S

SPAN_S = 50
MOST_WINDOWS = 5
# Of windows that ended longer ago nothing is shown.
MAX_AGE_S = 900.0
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}
# The share of a window's packets that is beyond the value; what is beyond p99 counts as p99.
_BEYOND = (("min", 1.0), ("p50", 0.5), ("p95", 0.05), ("p99", 0.01))
# From a range of a second to less than a microsecond.
_HALVINGS = 21

Window = Mapping[str, Any]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Direction:
    """Of the round trip are `samples` (packets sent), `received`, `rtt_*` and `duplicates`; all else is of this
    direction alone. `told_by`: who measured it; `seconds` of windows that it is of; `age_s` is the newest's.
    `unanswered_s`: of the newest windows in a row in which nothing came back. None: unmeasured.

    pdv: delay variation over the window's smallest (RFC 5481). delay: one-way, true within +-clock_error_ms.
    """

    told_by: str
    rtt_ms: float | None
    rtt_min_ms: float | None
    rtt_p95_ms: float | None
    rtt_p99_ms: float | None
    loss: float | None
    jitter_ms: float | None
    pdv_p50_ms: float | None
    pdv_p95_ms: float | None
    pdv_p99_ms: float | None
    delay_min_ms: float | None
    delay_p50_ms: float | None
    delay_p95_ms: float | None
    delay_p99_ms: float | None
    clock_error_ms: float | None
    reordered: int | None
    duplicates: int | None
    bursts: int | None
    longest_burst: int | None
    samples: int
    received: int
    seconds: int
    unanswered_s: int
    age_s: float

    def row(self) -> dict[str, Any]:
        # Not asdict: it copies deep, which is half of all the work of a large mesh.
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(Direction))


def directions(windows: Iterable[Window], now: float) -> dict[Pair, Direction]:
    """The latest of every ordered pair (from, to) that anybody measured, from windows in any order."""
    ordered = sorted(windows, key=lambda window: (*_unordered(window), window["node"], -window["start"]))
    return dict(in_order(ordered, now))


def in_order(windows: Iterable[Window], now: float) -> Iterator[tuple[Pair, Direction]]:
    """As `directions`, from windows of which both directions of a pair follow each other, newest first each."""
    for _, both in groupby(windows, key=_unordered):
        by_pair: dict[Pair, list[Window]] = defaultdict(list)
        for window in both:
            age_s = now - (window["start"] + window["seconds"])
            if -AHEAD_S <= age_s <= MAX_AGE_S:
                by_pair[window["node"], window["peer"]].append(window)
        shown = {pair: _shown(found) for pair, found in by_pair.items()}
        for a, b in set(shown) | {pair[::-1] for pair in shown}:
            yield (a, b), _direction(shown.get((a, b), []), shown.get((b, a), []), now)


def _unordered(window: Window) -> Pair:
    a, b = window["node"], window["peer"]
    return (a, b) if a < b else (b, a)


def _shown(newest_first: Sequence[Window]) -> list[Window]:
    taken: list[Window] = []
    for window in newest_first:
        if len(taken) >= MOST_WINDOWS or sum(each["seconds"] for each in taken) >= SPAN_S:
            break
        taken.append(window)
    return taken


def _end(windows: Sequence[Window]) -> float:
    return float(windows[0]["start"] + windows[0]["seconds"])


def _is_stale(own: Sequence[Window], reverse: Sequence[Window]) -> bool:
    """Whether the other end goes on telling of this direction and this one does not: it is away, or was just read."""
    longest: int = max(own[0]["seconds"], reverse[0]["seconds"])
    return _end(own) + 2 * longest < _end(reverse)


def _direction(own: Sequence[Window], reverse: Sequence[Window], now: float) -> Direction:
    """What its sender measured forward; where it has nothing, or nothing new, what the other end measured backward."""
    if not own or (reverse and _is_stale(own, reverse)):
        first, way, second, other = reverse, "back", own, "fwd"
    else:
        first, way, second, other = own, "fwd", reverse, "back"
    # A loss that has no direction yet may have one by what the other end counted, if that is as fresh.
    second = [] if not second or _is_stale(second, first) else second
    loss, jitter = _mean(first, f"loss_{way}"), _mean(first, f"jitter_{way}_ms")
    rtt = _spread(first, "rtt_ms") or _spread(second, "rtt_ms")
    pdv, delay = _spread(first, f"pdv_{way}_ms"), _spread(first, f"delay_{way}_ms")
    return Direction(
        told_by=first[0]["node"],
        rtt_ms=rtt.get("p50"),
        rtt_min_ms=rtt.get("min"),
        rtt_p95_ms=rtt.get("p95"),
        rtt_p99_ms=rtt.get("p99"),
        loss=_mean(second, f"loss_{other}") if loss is None else loss,
        jitter_ms=_mean(second, f"jitter_{other}_ms") if jitter is None else jitter,
        **{f"pdv_{name}_ms": pdv.get(name) for name in ("p50", "p95", "p99")},
        **{f"delay_{name}_ms": delay.get(name) for name in ("min", "p50", "p95", "p99")},
        clock_error_ms=max(_known(first, "clock_error_ms"), default=None),
        reordered=_sum(first, f"reordered_{way}"),
        duplicates=_sum(first, "duplicates"),
        bursts=_sum(first, f"bursts_{way}"),
        longest_burst=max(_known(first, f"longest_burst_{way}"), default=None),
        samples=sum(window["sent"] for window in first),
        received=sum(window["received"] for window in first),
        seconds=sum(window["seconds"] for window in first),
        unanswered_s=sum(window["seconds"] for window in takewhile(_is_unanswered, first)),
        age_s=max(0.0, now - _end(first)),
    )


def _is_unanswered(window: Window) -> bool:
    return bool(window["sent"]) and not window["received"]


def _known(windows: Sequence[Window], key: str) -> list[Any]:
    return [value for window in windows if (value := window.get(key)) is not None]


def _sum(windows: Sequence[Window], key: str) -> int | None:
    known = _known(windows, key)
    return sum(known) if known else None


def _mean(windows: Sequence[Window], key: str) -> float | None:
    """Of what was measured, each window counting by its packets."""
    known = [(window[key], window["sent"]) for window in windows if window.get(key) is not None]
    packets = sum(sent for _, sent in known)
    return sum(value * sent for value, sent in known) / packets if packets else None


def _spread(windows: Sequence[Window], key: str) -> dict[str, float | None]:
    """Minimum and percentiles of all packets together; {} where none was measured."""
    known = [(window[key], window["received"]) for window in windows if window.get(key)]
    if len(known) == 1:
        return dict(known[0][0])
    if not known:
        return {}
    least = [spread["min"] for spread, _ in known if spread.get("min") is not None]
    return {
        "min": min(least, default=None),
        **{name: percentile(known, share) for name, share in PERCENTILES.items()},
    }


def percentile(spreads: Sequence[tuple[Mapping[str, float | None], float]], q: float) -> float:
    """The percentile of the whole of which (minimum (0 if it has none) and percentiles, packets) are the parts."""
    parts = [([spread.get(name) or 0.0 for name, _ in _BEYOND], packets) for spread, packets in spreads]
    rank = q / 100 * sum(packets for _, packets in parts)
    low, high = min(points[0] for points, _ in parts), max(points[-1] for points, _ in parts)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if sum(packets * _share(points, middle) for points, packets in parts) < rank:
            low = middle
        else:
            high = middle
    return round(high, 3)


def _share(points: Sequence[float], value: float) -> float:
    """How much of a part is not beyond `value`. Between known points the tail grows thinner as delays' tails do."""
    if value >= points[-1]:
        return 1.0
    place = bisect_right(points, value)
    if place == 0:
        return 0.0
    low, high, (_, before), (_, beyond) = points[place - 1], points[place], *_BEYOND[place - 1 : place + 1]
    return float(1 - before * (beyond / before) ** ((value - low) / (high - low)))
