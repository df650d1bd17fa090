"""What came over one directed segment: each sequence once, which are missing, and how long they took.

Only what is missing is remembered, not what came: in order, a datagram costs one comparison. A sequence that is not
above the highest and not known to be missing was here before or is too old to tell, and is refused (as RFC 4303
s. 3.4.3 does with a window).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Deque, List, Optional

MAX_MISSING = 8192
MOST_NOTED = 1024  # 10 ms of 100 000 a second; each costs a quarter of a microsecond
# A gap that is wider is not loss: the sender has begun again, at its unix time in us.
MAX_GAP = 65536
MAX_SAMPLES = 1024
# What came no later than this after its successor was only overtaken.
FORGET_S = 2.0


class Arrivals:
    """The receiver's book of one directed segment, from its first sequence on.

    Cumulative: expected, lost (gaps, less what came late by itself), repaired (of those lost, by a copy, a
    retransmission or parity), reordered, duplicates, runs (of consecutive losses), restarts of the sender.
    samples: arrival less sending time in us, by two clocks, of the latest datagrams; only differences mean anything.
    """

    __slots__ = (
        "_first",
        "_most_noted",
        "_skipped",
        "duplicates",
        "highest",
        "lost",
        "missing",
        "reordered",
        "repaired",
        "restarts",
        "runs",
        "samples",
    )  # fmt: skip

    def __init__(self, first: int, most_noted: int = MOST_NOTED) -> None:
        """first: the first sequence. It and all before it are taken as seen, so that no recording comes in behind.

        most_noted: of the sequences that one datagram skips, so many of the latest may still come; the others are lost.
        """
        self._most_noted = most_noted
        self.highest = first
        self._first, self._skipped = first, 0
        # sequence -> when it was noticed (monotonic seconds), oldest first. Not a dict: that looks for its first one
        # past all that were ever deleted before it.
        self.missing: "OrderedDict[int, float]" = OrderedDict()
        self.lost = self.repaired = self.reordered = self.duplicates = self.runs = self.restarts = 0
        self.samples: Deque[int] = deque(maxlen=MAX_SAMPLES)

    @property
    def expected(self) -> int:
        """How many were sent up to the highest that came."""
        return self.highest - self._first + 1 - self._skipped

    def accept(self, sequence: int, now: float) -> bool:
        """True the first time; False for a repeat or what is too old to know."""
        ahead = sequence - self.highest
        if ahead == 1:
            self.highest = sequence
            return True
        if ahead > 1:
            self._jump(sequence, ahead, now)
            return True
        if self.missing.pop(sequence, None) is None:
            self.duplicates += 1
            return False
        self.reordered += 1
        self.lost -= 1
        if sequence - 1 not in self.missing and sequence + 1 not in self.missing:
            self.runs -= 1
        return True

    def accept_again(self, sequence: int, now: float) -> bool:
        """As `accept`, for a copy, a retransmission or what parity rebuilt: the sequence itself counts as lost."""
        ahead = sequence - self.highest
        if ahead > 0:  # the last one before a pause was lost, and nothing came after it that would have told
            self.runs += ahead == 1
            if ahead > 1:
                self._jump(sequence, ahead, now)
            self.highest = sequence
            self.lost += 1
        elif self.missing.pop(sequence, None) is None:
            self.duplicates += 1
            return False
        self.repaired += 1
        return True

    def accept_train(self, sequences: List[int]) -> bool:
        """Whether these, in order and without a gap, are just the next ones; if not, `accept` each."""
        if sequences[0] != self.highest + 1:
            return False
        self.highest = sequences[-1]
        return True

    def _jump(self, sequence: int, ahead: int, now: float) -> None:
        gap = ahead - 1
        if gap > MAX_GAP:
            self.restarts += 1
            self._skipped += gap
            self.missing.clear()
        else:
            self.runs += 1
            self.lost += gap
            missing = self.missing
            for absent in range(max(self.highest + 1, sequence - self._most_noted), sequence):
                missing[absent] = now
            for _ in range(len(missing) - MAX_MISSING):
                missing.popitem(last=False)
        self.highest = sequence

    def forget(self, now: float) -> None:
        """Give up what has been missing for too long."""
        missing = self.missing
        while missing:
            oldest = next(iter(missing))
            if now - missing[oldest] < FORGET_S:
                return
            missing.popitem(last=False)

    def latest_delay_us(self) -> Optional[int]:
        """Arrival less sending time of the latest, None before there is one."""
        return self.samples[-1] if self.samples else None
