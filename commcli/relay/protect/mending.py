"""Which requests to answer where there is parity: not those for what the parity of a block mends by itself.

The sender knows its blocks, and hears of every loss in them by the requests, which also name lost parities. As long as
no more of a block is lost than it has parities, the receiver has, or is about to have, what it needs: no answer. With
one more the receiver can not do it alone, and all that it asked for goes out. So parity and retransmission together
cost little more than parity, and what parity can not mend comes as soon as by retransmission alone.

A request that comes again after a round trip is answered anyway: others may have been lost on their way.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, List, Sequence, Set

MOST_BLOCKS = 512
PATIENCE = 0.9  # round trips


class _Block:
    """One block that has gone out."""

    __slots__ = ("answered", "data", "lost", "parities")

    def __init__(self, data: Sequence[int], parities: Sequence[int]) -> None:
        self.data, self.parities = frozenset(data), frozenset(parities)
        self.lost: Dict[int, float] = {}  # asked for: when first
        self.answered: Set[int] = set()

    def asked(self, sequence: int, now: float, rtt_s: float) -> None:
        """Count a request."""
        first = self.lost.setdefault(sequence, now)
        if now - first >= PATIENCE * rtt_s and now > first:
            self.answered.discard(sequence)
            self.lost[sequence] = float("-inf")  # no more waiting for parity

    def to_answer(self) -> Set[int]:
        """What must go out again, of what was asked for and not answered."""
        if len(self.lost) > len(self.parities):
            wanted = set(self.lost)
        else:
            wanted = {sequence for sequence, first in self.lost.items() if first == float("-inf")}
        wanted = (wanted & self.data) - self.answered
        self.answered |= wanted
        return wanted


class Mending:
    """The blocks of one directed segment that went out lately, and what of them was asked for."""

    __slots__ = ("_at", "_blocks", "left_alone")

    def __init__(self) -> None:
        self._at: Dict[int, _Block] = {}  # by each sequence, of data and of parity
        self._blocks: Deque[_Block] = deque()
        self.left_alone = 0  # requests not answered, cumulative

    def block(self, data: Sequence[int], parities: Sequence[int]) -> None:
        """A block has gone out: the sequences of its datagrams and of its parities."""
        block = _Block(data, parities)
        self._blocks.append(block)
        self._at.update(dict.fromkeys(data, block))
        self._at.update(dict.fromkeys(parities, block))
        if len(self._blocks) > MOST_BLOCKS:
            oldest = self._blocks.popleft()
            for sequence in (*oldest.data, *oldest.parities):
                self._at.pop(sequence, None)

    def to_answer(self, sequences: Sequence[int], now: float, rtt_s: float) -> List[int]:
        """Of those asked for, now or before in the same blocks: what to send again, ascending."""
        answer: Set[int] = set()
        touched: Dict[int, _Block] = {}
        for sequence in sequences:
            block = self._at.get(sequence)
            if block is None:
                answer.add(sequence)
            elif sequence in block.answered and now - block.lost[sequence] < PATIENCE * rtt_s:
                answer.add(sequence)  # the receiver asks twice where there is time for one round only
            else:
                block.asked(sequence, now, rtt_s)
                touched[id(block)] = block
        for block in touched.values():
            answer |= block.to_answer()
        self.left_alone += sum(sequence not in answer for sequence in sequences)
        return sorted(answer)

    def figures(self) -> Dict[str, int]:
        """{"entries", "most_entries"}: blocks."""
        return {"entries": len(self._blocks), "most_entries": MOST_BLOCKS}
