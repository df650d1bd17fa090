"""In which direction each unanswered test packet was lost.

A stateful Session-Reflector numbers what it answers (RFC 8762 s. 4.3), so a hole in its numbers is a reply lost on
the way back, and what is missing without a hole never arrived. That makes both losses exact, without any clock.
"""

from __future__ import annotations

import math
import statistics
from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

FORWARD, BACK, UNCERTAIN = "forward", "back", "uncertain"


class Record:
    """One test packet. Unix times t1 and t2, on the sender's and on the reflector's clock.

    number: the reflector's, None while unanswered. lost: FORWARD, BACK, or UNCERTAIN while nothing sent later was
    answered; None if answered. guess: the number that a BACK one probably had, counted as in `Mark`.
    """

    __slots__ = ("guess", "lost", "number", "sequence", "t1", "t2")

    def __init__(self, sequence: int, t1: float, number: Optional[int] = None, t2: float = 0.0) -> None:
        self.sequence, self.t1, self.number, self.t2 = sequence, t1, number, t2
        self.lost: Optional[str] = UNCERTAIN if number is None else None
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
    numbers = unwrapped(records, mark)
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


def unwrapped(records: Sequence[Record], mark: Mark) -> Dict[int, Tuple[int, int]]:
    """(number, base) by our sequence, where number counts on across restarts of the reflector.

    It numbers in the order of arrival: in the order of t2 they only grow. Where they do not, it has restarted, or a
    packet came twice: the second has the number of the first. Then the number is still to be had, or the next ones go
    on as before.
    """
    rows = sorted(
        (record.t2, record.number, record.sequence) for record in records if record.number is not None
    )
    numbers: Dict[int, Tuple[int, int]] = {}
    base, last = mark.base, mark.highest
    had: Set[int] = set()
    for place, (t2, raw, sequence) in enumerate(rows):
        number = raw + base
        if t2 > mark.t2 and last is not None and number <= last:
            is_free = number not in had and (mark.highest is None or number > mark.highest)
            is_alone = place + 1 < len(rows) and rows[place + 1][1] + base > last
            if not is_free and not is_alone:
                base = last + 1
                number = raw + base
        if t2 > mark.t2:
            last = number if last is None else max(last, number)
        had.add(number)
        numbers[sequence] = (number, base)
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
    numbers = unwrapped(records, mark)
    newest = max((r for r in records[:count] if r.number is not None), key=lambda r: numbers[r.sequence])
    highest, base = numbers[newest.sequence]
    kept = min((numbers[r.sequence][0] for r in records[count:] if r.number is not None), default=math.inf)
    # A guess above a number that is yet to be seen would make that one look like a restart.
    guesses = [r.guess for r in records[:count] if r.guess is not None and r.guess < kept]
    return count, Mark(base, max([highest, *guesses]), newest.t2)
