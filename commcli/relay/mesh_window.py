"""From a Session-Sender's packets to windows: loss of each direction, RTT, jitter, reordering.

A stateful Session-Reflector numbers what it answers (RFC 8762 s. 4.3), so a hole in its numbers is a reply lost on
the way back, and what is missing without a hole never arrived. That makes both losses exact, without any clock.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

FORWARD, BACK, UNCERTAIN = "forward", "back", "uncertain"


class Record:
    """One test packet and its answer. Unix times t1..t4, of which t2 and t3 are on the reflector's clock.

    number: the reflector's, None while unanswered. lost: FORWARD, BACK, or UNCERTAIN while nothing sent later was
    answered; None if answered.
    """

    __slots__ = (
        "arrival",
        "lost",
        "number",
        "rtt_s",
        "sent_now",
        "sequence",
        "stamp",
        "t1",
        "t2",
        "t3",
        "t4",
    )

    def __init__(self, sequence: int, stamp: int, t1: float, sent_now: float) -> None:
        self.sequence, self.stamp, self.t1, self.sent_now = sequence, stamp, t1, sent_now
        self.number: Optional[int] = None
        self.t2 = self.t3 = self.t4 = self.rtt_s = 0.0
        self.arrival = 0  # counts the answers of the session
        self.lost: Optional[str] = UNCERTAIN


class Mark(NamedTuple):
    """What is known of the reflector's numbers before some record.

    base: to be added to its numbers, since it begins again at 0 when it restarts. highest: of those used so far,
    None if unknown. A new session is (0, -1).
    """

    base: int
    highest: Optional[int]


class Cut(NamedTuple):
    """So many records from the start can be forgotten; the rest goes on from `mark`."""

    size: int
    mark: Mark


def judge(records: Sequence[Record], mark: Mark) -> List[Cut]:
    """Writes `lost` into every record. records: in order of sending, the first one right after `mark`.

    Returns the places where every later number is higher than every earlier one. Between two of them packets
    overtook each other, and only the sums can be told.
    """
    numbers = _numbers_from_the_start(records, mark)
    lowest_after = _lowest_after(records, numbers)
    highest = mark.highest
    cuts: List[Cut] = []
    seen: List[Tuple[int, int]] = []
    start = 0
    for place, record in enumerate(records):
        record.lost = UNCERTAIN if record.number is None else None
        if record.number is None:
            continue
        seen.append(numbers[record.sequence])
        top = max(seen)
        if top[0] < lowest_after[place]:
            _label([r for r in records[start:place] if r.number is None], _holes(top[0], highest, len(seen)))
            highest, start, seen = top[0], place + 1, []
            cuts.append(Cut(start, Mark(top[1], highest)))
    return cuts


def _numbers_from_the_start(records: Sequence[Record], mark: Mark) -> Dict[int, Tuple[int, int]]:
    """(number, base) by our sequence, where number counts on across restarts of the reflector.

    It numbers in the order of arrival: in the order of t2 they only grow. Where they do not, it has restarted.
    """
    numbers: Dict[int, Tuple[int, int]] = {}
    base, last = mark.base, mark.highest
    for record in sorted((r for r in records if r.number is not None), key=lambda r: r.t2):
        assert record.number is not None
        if last is not None and record.number + base <= last:
            base = last + 1
        last = record.number + base
        numbers[record.sequence] = (last, base)
    return numbers


def _lowest_after(records: Sequence[Record], numbers: Dict[int, Tuple[int, int]]) -> List[float]:
    lowest, found = math.inf, []
    for record in reversed(records):
        found.append(lowest)
        if record.number is not None:
            lowest = min(lowest, numbers[record.sequence][0])
    return found[::-1]


def _holes(highest: int, before: Optional[int], answered: int) -> Optional[int]:
    return None if before is None else highest - before - answered


def _label(missing: Sequence[Record], holes: Optional[int]) -> None:
    """`holes` of the missing came as far as the reflector. Which, nobody can tell: they are spread evenly."""
    if holes is None or not 0 <= holes <= len(missing):
        return  # it numbers something else than our packets: leave them uncertain
    for place, record in enumerate(missing):
        is_back = (place + 1) * holes // len(missing) > place * holes // len(missing)
        record.lost = BACK if is_back else FORWARD


class Jitter:
    """RFC 3550 s. 6.4.1 (and A.8): running over a session; times in seconds."""

    __slots__ = ("_transit_s", "value_s")

    def __init__(self) -> None:
        self.value_s = 0.0
        self._transit_s: Optional[float] = None

    def add(self, sent: float, received: float) -> None:
        """A packet, in the order of arrival. The two clocks need not agree."""
        transit_s = received - sent
        if self._transit_s is not None:
            self.value_s += (abs(transit_s - self._transit_s) - self.value_s) / 16
        self._transit_s = transit_s


class WindowCounts:
    """What is counted while a window is open."""

    __slots__ = ("close_at", "duplicates", "records", "reordered", "start_unix")

    def __init__(self, start_unix: int, close_at: float) -> None:
        self.start_unix, self.close_at = start_unix, close_at
        self.records: List[Record] = []
        self.reordered = self.duplicates = 0


def summary(counts: WindowCounts, forward: Jitter, back: Jitter) -> Dict[str, object]:
    """What the judged packets of one window say; None where nothing was measured.

    loss: of the round trip; loss_fwd: share of the sent that did not arrive; loss_back: share of the arrived whose
    answers did not. Both are None while some loss is uncertain, as in an outage that goes on.
    """
    records = counts.records
    answered = [record for record in records if record.number is not None]
    for record in sorted(answered, key=lambda r: r.t2):
        forward.add(record.t1, record.t2)
    for record in sorted(answered, key=lambda r: r.arrival):
        back.add(record.t3, record.t4)
    forward_loss, back_loss = _losses(records)
    is_enough = len(answered) >= 2
    return {
        "sent": len(records),
        "received": len(answered),
        "rtt_ms": spread_ms([record.rtt_s for record in answered]),
        "loss": round(1 - len(answered) / len(records), 6) if records else None,
        "loss_fwd": forward_loss,
        "loss_back": back_loss,
        "jitter_fwd_ms": round(forward.value_s * 1000, 3) if is_enough else None,
        "jitter_back_ms": round(back.value_s * 1000, 3) if is_enough else None,
        "reordered": counts.reordered,
        "duplicates": counts.duplicates,
    }


def _losses(records: Sequence[Record]) -> Tuple[Optional[float], Optional[float]]:
    labels = [record.lost for record in records]
    if not records or UNCERTAIN in labels:
        return None, None
    arrived = len(records) - labels.count(FORWARD)
    back = round(labels.count(BACK) / arrived, 6) if arrived else None
    return round(labels.count(FORWARD) / len(records), 6), back


def spread_ms(rtts_s: Sequence[float]) -> Optional[Dict[str, float]]:
    """Minimum and nearest-rank percentiles."""
    if not rtts_s:
        return None
    ordered = sorted(rtts_s)
    spread = {"min": ordered[0]}
    for percent in (50, 95, 99):
        spread["p%d" % percent] = ordered[math.ceil(len(ordered) * percent / 100) - 1]
    return {name: round(value_s * 1000, 3) for name, value_s in spread.items()}
