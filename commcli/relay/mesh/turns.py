"""Whose turn it is: peers in a ring, evenly spread over the time between two turns of one. Pure."""

from __future__ import annotations

import math
from typing import Callable, List, Optional, Sequence

from commcli.relay.mesh.session import Session

# Missed turns of a stall that was longer than this are not made up for: they would measure our own burst.
STALL_S = 0.2


class Turns:
    """A ring of peers in a random order, so that nodes that start at the same moment do not beat in step, and what is
    due is found without a look at the others. `interval_s` is the time between two turns of one.
    """

    def __init__(self, random_bytes: Callable[[int], bytes], interval_s: float) -> None:
        self._random, self.interval_s = random_bytes, interval_s
        self.peers: List[Session] = []
        self._place = 0  # whose turn it is
        self._next_at: Optional[float] = None

    def seat(self, sessions: Sequence[Session]) -> None:
        """These from now on: those who left give up their turns, new ones get one anywhere; the order stays."""
        wanted = set(map(id, sessions))
        left = [id(session) not in wanted for session in self.peers]
        self._place -= sum(left[: self._place])
        peers = [session for session, is_gone in zip(self.peers, left) if not is_gone]
        seated = set(map(id, peers))
        for session in sessions:
            if id(session) not in seated:
                place = self._below(len(peers) + 1)
                peers.insert(place, session)
                self._place += place < self._place
        self.peers, self._place = peers, self._place % max(1, len(peers))

    def due(self, now: float) -> List[Session]:
        """Those whose turn has come."""
        count = len(self.peers)
        if not count:
            self._next_at = None
            return []
        turn_s = self.interval_s / count
        if self._next_at is None:
            self._next_at = now + turn_s * self._below(1 << 16) / 65536
        if self._next_at > now:
            return []
        missed = max(0, math.ceil((now - self._next_at - STALL_S) / turn_s))
        turns = int((now - self._next_at) / turn_s) + 1
        first, self._place = self._place + missed, (self._place + turns) % count
        self._next_at += turns * turn_s
        return [self.peers[place % count] for place in range(first, first + min(turns - missed, count))]

    def _below(self, bound: int) -> int:
        return int.from_bytes(self._random(4), "big") * bound >> 32
