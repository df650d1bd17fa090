"""From a Session-Sender's packets to windows: loss of each direction, RTT, jitter, reordering.

A stateful Session-Reflector numbers what it answers (RFC 8762 s. 4.3), so a hole in its numbers is a reply lost on
the way back, and what is missing without a hole never arrived. That makes both losses exact, without any clock.
"""

from __future__ import annotations

import math
import statistics
from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Tuple

FORWARD, BACK, UNCERTAIN = "forward", "back", "uncertain"


class Record:
    """One test packet and its answer. Unix times t1..t4, of which t2 and t3 are on the reflector's clock.

    number: the reflector's, None while unanswered. lost: FORWARD, BACK, or UNCERTAIN while nothing sent later was
    answered; None if answered. guess: the number that a BACK one probably had, counted as in `Mark`.
    """

    __slots__ = (
        "arrival", "guess", "lost", "number", "rtt_s", "sent_now", "sequence", "stamp", "t1", "t2", "t3", "t4",
    )  # fmt: skip

    def __init__(self, sequence: int, stamp: int, t1: float, sent_now: float) -> None:
        self.sequence, self.stamp, self.t1, self.sent_now = sequence, stamp, t1, sent_now
        self.number: Optional[int] = None
        self.t2 = self.t3 = self.t4 = self.rtt_s = 0.0
        self.arrival = 0  # counts the answers of the session
        self.lost: Optional[str] = UNCERTAIN
        self.guess: Optional[int] = None


class Mark(NamedTuple):
    """What is known of the reflector's numbers before the records at hand.

    highest: of those used so far, None if unknown; t2: when that one came. base: to be added to its numbers, since
    it begins again at 0 when it restarts.
    """

    base: int = 0
    highest: Optional[int] = -1
    t2: float = -math.inf


NEW_SESSION = Mark()


class _Point(NamedTuple):
    number: int
    t2: float


def judge(records: Sequence[Record], mark: Mark, last: int) -> None:
    """Writes `lost` into the unanswered records up to sequence `last`; what came after them helps to tell.

    records: in order of sending, the first one right after `mark`.
    """
    for record in records:
        if record.number is not None:
            record.lost = None
    numbers = _unwrapped(records, mark)
    answered = sorted(_Point(numbers[r.sequence][0], r.t2) for r in records if r.number is not None)
    if not answered:
        return
    newest = max(r.sequence for r in records if r.number is not None)
    oldest = min(r.sequence for r in records if r.number is not None) if mark.highest is None else 0
    open_ones = [r for r in records if r.lost == UNCERTAIN and r.sequence >= oldest]
    guesses = {r.guess for r in records if r.guess is not None}
    transit_s = statistics.median(r.t2 - r.t1 for r in records if r.number is not None)
    holes = _holes(answered, guesses, mark, records[0].t1 + transit_s, len(open_ones))
    matched = None if holes is None else _matched(holes, open_ones, transit_s)
    if matched is None:
        return  # it numbers something else than our packets: the missing stay uncertain
    for record in open_ones:
        if record.sequence <= min(last, newest):
            record.guess = matched.get(record.sequence)
            record.lost = FORWARD if record.guess is None else BACK


def _unwrapped(records: Sequence[Record], mark: Mark) -> Dict[int, Tuple[int, int]]:
    """(number, base) by our sequence, where number counts on across restarts of the reflector.

    It numbers in the order of arrival: in the order of t2 they only grow. Where they do not, it has restarted.
    """
    numbers: Dict[int, Tuple[int, int]] = {}
    base, last = mark.base, mark.highest
    for record in sorted((r for r in records if r.number is not None), key=lambda r: (r.t2, r.number)):
        assert record.number is not None
        number = record.number + base
        if record.t2 > mark.t2:
            if last is not None and number <= last:
                base = last + 1
                number = record.number + base
            last = number
        numbers[record.sequence] = (number, base)
    return numbers


def _holes(
    answered: Sequence[_Point], guesses: AbstractSet[int], mark: Mark, began: float, bearable: int
) -> Optional[List[_Point]]:
    """The numbers that no answer brought, with about when each was given; None if there are more than bearable.

    began: when the first record came, or would have.
    """
    found: List[_Point] = []
    before = None if mark.highest is None else _Point(mark.highest, max(mark.t2, began))
    for point in answered:
        if before is not None and point.number > before.number:
            size = point.number - before.number
            if size - 1 > bearable + len(guesses):
                return None
            per_number_s = (point.t2 - before.t2) / size
            missing = (n for n in range(before.number + 1, point.number) if n not in guesses)
            found += [_Point(n, before.t2 + (n - before.number) * per_number_s) for n in missing]
        if before is None or point.number > before.number:
            before = point
    return found


def _matched(
    holes: Sequence[_Point], missing: Sequence[Record], transit_s: float
) -> Optional[Dict[int, int]]:
    """{sequence: number}: for each hole the missing packet that would have come nearest; None if one finds none.

    Which one it really was, nobody can tell, and for the sums it does not matter. In order, and with the least sum
    of squared distances: a nearest one for each alone would leave the last holes to packets still under way.
    """
    spare = len(missing) - len(holes)
    if spare < 0:
        return None
    # costs[skipped]: of the best way to match the holes so far when so many packets were passed over.
    costs: List[float] = [0.0] * (spare + 1)
    chosen: List[List[int]] = []
    for place, hole in enumerate(holes):
        gaps = [missing[place + skipped].t1 + transit_s - hole.t2 for skipped in range(spare + 1)]
        best, row = 0, []
        for skipped in range(spare + 1):
            if costs[skipped] < costs[best]:
                best = skipped
            row.append(best)
        costs = [costs[row[skipped]] + gaps[skipped] ** 2 for skipped in range(spare + 1)]
        chosen.append(row)
    matched: Dict[int, int] = {}
    skipped = min(range(spare + 1), key=costs.__getitem__)
    for place in range(len(holes) - 1, -1, -1):
        matched[missing[place + skipped].sequence] = holes[place].number
        skipped = chosen[place][skipped]
    return matched


def forget(records: Sequence[Record], mark: Mark, first: int) -> Tuple[int, Mark]:
    """How many records from the start are no longer needed when those from sequence `first` on are, and the mark.

    Unanswered ones with no answer after them are needed until there is one: it tells where they were lost.
    """
    count = 0
    for place, record in enumerate(records):
        if record.sequence >= first:
            break
        if record.number is not None:
            count = place + 1
    if not count:
        return 0, mark
    numbers = _unwrapped(records, mark)
    newest = max((r for r in records[:count] if r.number is not None), key=lambda r: numbers[r.sequence])
    highest, base = numbers[newest.sequence]
    kept = min((numbers[r.sequence][0] for r in records[count:] if r.number is not None), default=math.inf)
    # A guess above a number that is yet to be seen would make that one look like a restart.
    guesses = [r.guess for r in records[:count] if r.guess is not None and r.guess < kept]
    return count, Mark(base, max([highest, *guesses]), newest.t2)


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
