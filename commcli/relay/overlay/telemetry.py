"""What really happened on each directed segment, as its receiver saw it: the REPORT, and what a sender makes of it.

Every 200 ms a relay tells each neighbour, in one REPORT, what came over the segment between them, and passes on
what it was told of the segments further down, so that an ingress knows all segments of its paths. The counters are
cumulative (mod 2**32): a lost report costs freshness and nothing else.

A row is 38 bytes, big endian: u32 from, u32 to (node numbers), u16 age in ms, then u32 expected, lost, repaired,
reordered, runs (as `arrivals`), queue_us, jitter_us. A body is u8 count and the rows.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from typing import Deque, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.overlay.arrivals import Arrivals

INTERVAL_S = 0.2
MAX_ROWS = 30  # 1141 bytes: a REPORT fits the smallest path MTU
MAX_AGE_MS = 65535
_ROW = struct.Struct(">IIHIIIIIII")
_WRAP = 1 << 32


class Row(NamedTuple):
    """One directed segment, seen by the relay at its end."""

    from_number: int
    to_number: int
    age_ms: int  # since its receiver wrote it, at most 65535
    expected: int
    lost: int
    repaired: int
    reordered: int
    runs: int
    queue_us: int
    jitter_us: int

    def aged(self, seconds: float) -> "Row":
        """The same row, passed on so much later."""
        return self._replace(age_ms=min(MAX_AGE_MS, self.age_ms + max(0, round(seconds * 1000))))


def pack(rows: Sequence[Row]) -> bytes:
    """The body of a REPORT with at most MAX_ROWS rows."""
    return bytes((len(rows),)) + b"".join(_ROW.pack(*row) for row in rows)


def unpack(body: bytes) -> List[Row]:
    """The rows of a REPORT. Raises ValueError if it has another form."""
    if not body or body[0] > MAX_ROWS or len(body) != 1 + body[0] * _ROW.size:
        raise ValueError("not a report")
    return [Row._make(fields) for fields in _ROW.iter_unpack(body[1:])]


# --- the receiver ------------------------------------------------------------------------------------------

# Long enough to see the path empty, short enough that two clocks drift apart by no more than a ms (100 ppm). A path
# that has become longer looks like a queue for so long, and no longer.
BASE_S = 10.0
_BASE_SLOTS = 10
_JITTER_GAIN = 16  # RFC 3550 s. 6.4.1


class Delays:
    """The queue and the jitter in the delays of one directed segment.

    Delays are differences of two clocks, so only what they have over their own minimum means anything. The queue is
    the least delay of a window, over the least of the last BASE_S: what stands there also between bursts (CoDel,
    RFC 8289 s. 3). Neither jitter nor a burst that waits for itself makes it grow.
    """

    __slots__ = ("_last_us", "_seen", "_slots", "jitter_us", "queue_us")

    def __init__(self) -> None:
        self._slots: Deque[Tuple[int, int]] = deque(maxlen=_BASE_SLOTS)  # (number of the second, least of it)
        self._last_us: Optional[int] = None
        self._seen = float("-inf")
        self.queue_us = 0
        self.jitter_us = 0.0

    def add(self, samples_us: Iterable[int], now: float) -> None:
        """The delays of one window, in order of arrival."""
        least: Optional[int] = None
        last, jitter = self._last_us, self.jitter_us
        for sample in samples_us:
            if least is None or sample < least:
                least = sample
            if last is not None:
                jitter += (abs(sample - last) - jitter) / _JITTER_GAIN
            last = sample
        self._last_us, self.jitter_us = last, jitter
        if least is not None:
            self._seen = now
            self.queue_us = least - self._base(least, now)
        elif now - self._seen > 5 * INTERVAL_S:
            self.queue_us = 0  # nobody knows, and nothing flows

    def _base(self, least: int, now: float) -> int:
        slot = math.floor(now * _BASE_SLOTS / BASE_S)
        slots = self._slots
        while slots and slots[0][0] <= slot - _BASE_SLOTS:
            slots.popleft()
        if slots and slots[-1][0] == slot:
            slots[-1] = (slot, min(slots[-1][1], least))
        else:
            slots.append((slot, least))
        return min(value for _slot, value in slots)


def summary(arrivals: Arrivals, delays: Delays, from_number: int, to_number: int, now: float) -> Row:
    """The row of one incoming segment. Takes the delay samples that have gathered since the last time."""
    delays.add(arrivals.samples, now)
    arrivals.samples.clear()
    return Row(
        from_number,
        to_number,
        age_ms=0,
        expected=arrivals.expected % _WRAP,
        lost=arrivals.lost % _WRAP,
        repaired=arrivals.repaired % _WRAP,
        reordered=arrivals.reordered % _WRAP,
        runs=arrivals.runs % _WRAP,
        queue_us=min(delays.queue_us, _WRAP - 1),
        jitter_us=min(round(delays.jitter_us), _WRAP - 1),
    )


# --- the sender --------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """What a directed segment is like now. Loss is before any repair; 0..1."""

    loss_1s: float
    loss_worst_10s: float  # of the worst second, less what chance alone may have added
    p: float  # the loss to protect against
    burst: float  # mean length of a run of losses, >= 1
    queue_ms: float
    queue_grows: bool  # a queue stands where there was none
    jitter_ms: float
    rtt_s: Optional[float]
    age_s: float
    packets_per_s: float = 0.0  # of all classes, in the last second
    proven: float = 0.0  # loss that is hardly chance, now or in the worst second of ten


class _Point(NamedTuple):
    made: float
    expected: int
    lost: int
    runs: int


MEMORY_S = 10.0
CLEAN_S = 5.0
# A queue: more than what a relay's own batching and a busy CPU make, and than the jitter of the segment.
QUEUE_MS = 10.0
# Lost less so many standard deviations of what chance makes of it. Short windows are many and are noisy: without
# the deduction 3 % looks like 6 % in one second out of ten, and costs twice the parity.
_SCANS = ((0.2, 2.0), (0.4, 2.0), (0.8, 2.0), (1.6, 1.5), (3.2, 1.5), (6.4, 1.0))  # seconds, deviations
_PROOF_SIGMAS = 2.0
# Bursts are estimated as if two single losses had come before, so that one run is not yet a burst.
_PRIOR_RUNS = 2
_BACKWARDS = 3  # so many rows with lower counters in a row: the receiver began again


class Estimator:
    """Makes an Estimate of the rows of one directed segment."""

    __slots__ = ("_backwards", "_points")

    def __init__(self) -> None:
        self._points: Deque[_Point] = deque()
        self._backwards = 0

    def row(self, row: Row, now: float, rtt_s: Optional[float] = None) -> Optional[Estimate]:
        """None: the row tells nothing new, or too little yet. rtt_s: of the segment, if known."""
        point = self._unwrapped(row, now - row.age_ms / 1000)
        if point is None:
            return None
        points = self._points
        points.append(point)
        while point.made - points[0].made > MEMORY_S + INTERVAL_S / 2 or len(points) > 500:
            points.popleft()
        if len(points) < 2 or point.expected == points[0].expected:
            return None
        return self._estimate(row, now, rtt_s)

    def _unwrapped(self, row: Row, made: float) -> Optional[_Point]:
        """The row with counters that never wrap; None for one that came late."""
        if not self._points:
            return _Point(made, row.expected, _signed(row.lost), row.runs)
        last = self._points[-1]
        ahead = _signed(row.expected - last.expected)
        if ahead < 0:
            self._backwards += 1
            if self._backwards < _BACKWARDS:
                return None
            self._points.clear()
            self._backwards = 0
            return self._unwrapped(row, made)
        self._backwards = 0
        return _Point(
            max(made, last.made),
            last.expected + ahead,
            last.lost + _signed(row.lost - last.lost),
            last.runs + _signed(row.runs - last.runs),
        )

    def _estimate(self, row: Row, now: float, rtt_s: Optional[float]) -> Estimate:
        points = self._points
        first, last = points[0], points[-1]
        lost, runs = last.lost - first.lost, last.runs - first.runs
        burst = max(1.0, (max(lost, 0) + _PRIOR_RUNS) / (max(runs, 0) + _PRIOR_RUNS))
        second, worst = self._since(1.0), self._worst(burst)
        mean = _share(lost, last.expected - first.expected)
        jitter_ms, queue_ms = row.jitter_us / 1000, row.queue_us / 1000
        return Estimate(
            loss_1s=_share(last.lost - second.lost, last.expected - second.expected),
            loss_worst_10s=worst,
            p=0.0
            if self._is_clean()
            else max(worst, mean, *self._scan(burst, [sigmas for _, sigmas in _SCANS])),
            burst=burst,
            queue_ms=queue_ms,
            queue_grows=queue_ms > QUEUE_MS + jitter_ms,
            jitter_ms=jitter_ms,
            rtt_s=rtt_s,
            age_s=max(0.0, now - last.made),
            packets_per_s=(last.expected - second.expected) / max(last.made - second.made, INTERVAL_S),
            proven=max(worst, *self._scan(burst, [_PROOF_SIGMAS] * len(_SCANS))),
        )

    def _since(self, seconds: float) -> _Point:
        """The point that is at least so much older than the latest, or the first."""
        points = self._points
        edge = points[-1].made - seconds + INTERVAL_S / 4
        for point in reversed(points):
            if point.made <= edge:
                return point
        return points[0]

    def _scan(self, burst: float, sigmas: Sequence[float]) -> List[float]:
        """The loss that each window up to now proves: short ones notice soon, long ones know exactly."""
        last = self._points[-1]
        points = [self._since(seconds) for seconds, _ in _SCANS]
        return [
            _proven(last.lost - point.lost, last.expected - point.expected, burst, deviations)
            for point, deviations in zip(points, sigmas)
        ]

    def _worst(self, burst: float) -> float:
        points, most, begin = self._points, 0.0, 0
        listed = list(points)
        for end in listed:
            while end.made - listed[begin].made > 1.0 + INTERVAL_S / 2:
                begin += 1
            start = listed[begin]
            most = max(
                most, _proven(end.lost - start.lost, end.expected - start.expected, burst, _PROOF_SIGMAS)
            )
        return most

    def _is_clean(self) -> bool:
        """Nothing lost for CLEAN_S, and that is no chance: at the mean loss before, five would have been."""
        first, last, then = self._points[0], self._points[-1], self._since(CLEAN_S)
        if last.lost > then.lost or last.made - then.made < CLEAN_S - INTERVAL_S:
            return last.lost <= first.lost
        before = _share(then.lost - first.lost, then.expected - first.expected)
        return before * (last.expected - then.expected) >= 5 or last.lost <= first.lost


def _signed(difference: int) -> int:
    """A difference of two counters that wrap at 2**32."""
    return (difference + _WRAP // 2) % _WRAP - _WRAP // 2


def _share(part: int, whole: int) -> float:
    return min(1.0, max(0, part) / whole) if whole > 0 else 0.0


def _proven(lost: int, expected: int, burst: float, sigmas: float) -> float:
    """The loss less so many standard deviations; runs of `burst` on average scatter 2 burst - 1 times as much."""
    if lost <= 0:
        return 0.0
    return min(1.0, max(0.0, lost - sigmas * math.sqrt(lost * (2 * burst - 1))) / max(expected, 1))
