"""The STAMP mesh of one node: a Session-Sender (RFC 8762) towards every known peer. `reflector` answers.

Pure: packets and the time in, packets and closed windows out. `now` is monotonic seconds, `unix` wall clock. The
sender's socket must not be the reflector's, since the two kinds of packet look alike.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from commcli.relay.mesh import neighbours, stamp
from commcli.relay.mesh.budget import USUAL, Budget
from commcli.relay.mesh.session import Addr, Session

# Missed turns of a stall that was longer than this are not made up for: they would measure our own burst.
STALL_S = 0.2
# Windows of all peers end together. They are closed within this part of their length, so that no tick takes long.
CLOSING = 0.5
# Of all peers together: what goes along to the next process of this relay, which nobody may wait for.
MOST_KEPT = 3000


class Mesh:
    """The Session-Sender. Peers take turns in a random order, evenly spread over the time between two turns of one.

    So nodes that start at the same moment do not beat in step, and what is due is found without a look at the others.
    """

    def __init__(
        self,
        node: str,
        random_bytes: Callable[[int], bytes],
        budget: Budget = USUAL,
        clock: stamp.ErrorEstimate = stamp.UNKNOWN_CLOCK,
    ) -> None:
        self._node, self._random = node, random_bytes
        self._budget = budget
        self._interval_s = 1 / budget.per_peer
        self.set_clock(clock)
        self._sessions: Dict[str, Session] = {}
        self._by_addr: Dict[Addr, Session] = {}
        self._turns: List[Session] = []  # in the order of their turns
        self._place = 0  # whose turn it is
        self._next_at: Optional[float] = None
        self._open: List[Tuple[float, int, Session]] = []  # a heap of open windows, by the time to close them
        self._opened, self._ticked = 0, 0.0
        self.drops: Counter[str] = Counter()

    def set_clock(self, clock: stamp.ErrorEstimate) -> None:
        """What is known of our clock now: it is written into every packet."""
        self._error, self._error_s = clock.pack(), clock.known_s

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        known.pop(self._node, None)
        new = []
        for node, peer in known.items():
            session = self._sessions.get(node)
            if session is None:
                session = self._sessions[node] = Session(peer, self._node)
                new.append(session)
            elif session.peer != peer:
                session.use(peer, self._node)
        for node in set(self._sessions) - set(known):
            del self._sessions[node]
        self._by_addr = {session.addr: session for session in self._sessions.values()}
        self._reseat(new)

    def _reseat(self, new: Sequence[Session]) -> None:
        """Those who left give up their turns, new ones get one anywhere; for all others the order stays."""
        left = [self._sessions.get(session.peer.id) is not session for session in self._turns]
        self._place -= sum(left[: self._place])
        turns = [session for session, is_gone in zip(self._turns, left) if not is_gone]
        for session in new:
            place = self._below(len(turns) + 1)
            turns.insert(place, session)
            self._place += place < self._place
        self._turns, self._place = turns, self._place % max(1, len(turns))
        self.spend(self._budget)

    def spend(self, budget: Budget) -> None:
        """So much from now on."""
        self._budget = budget
        self._interval_s = max(1 / budget.per_peer, len(self._turns) / budget.packets_a_second)

    def _below(self, bound: int) -> int:
        return int.from_bytes(self._random(4), "big") * bound >> 32

    # --- from one process to the next ------------------------------------------------------------------------

    def kept(self) -> Dict[str, List[Tuple[int, Dict[str, object]]]]:
        """The latest closed windows by peer, for the next process of this relay (JSON), which begins a new one."""
        most = -(-MOST_KEPT // max(1, len(self._sessions)))
        kept: Dict[str, List[Tuple[int, Dict[str, object]]]] = {}
        for node, session in self._sessions.items():
            rows = [json.loads(text) for _, text in list(session.closed)[-most:]]
            kept[node] = [(row["start"], row) for row in rows]
        return kept

    def take(self, kept: Mapping[str, Sequence[Tuple[int, Dict[str, object]]]]) -> None:
        """Go on with what another process `kept`, after the peers are known.

        Raises ValueError, KeyError or TypeError.
        """
        for node, windows in kept.items():
            session = self._sessions.get(node)
            if session is not None:
                for _, row in windows:
                    session.keep(dict(row))

    # --- the sender ------------------------------------------------------------------------------------------

    @property
    def interval_s(self) -> float:
        """Between two packets to one peer."""
        return self._interval_s

    def due(self, now: float) -> List[Session]:
        """Whose turn it is: send each a `request`. Closes windows. Call it every 20 to 50 ms."""
        self._close(now)
        count = len(self._turns)
        if not count:
            return []
        turn_s = self._interval_s / count
        if self._next_at is None:
            self._next_at = now + turn_s * self._below(1 << 16) / 65536
        if self._next_at > now:
            return []
        missed = max(0, math.ceil((now - self._next_at - STALL_S) / turn_s))
        turns = int((now - self._next_at) / turn_s) + 1
        first, self._place = self._place + missed, (self._place + turns) % count
        self._next_at += turns * turn_s
        return [self._turns[place % count] for place in range(first, first + min(turns - missed, count))]

    def request(self, session: Session, now: float, unix: float) -> bytes:
        """The packet to this peer (`session.addr`); the times are those of its leaving."""
        data, begun = session.request(now, unix, 1 / self._interval_s, self._error)
        if begun is not None:
            self._opened += 1
            heapq.heappush(self._open, (begun.close_at, self._opened, session))
        return data

    def tick(self, now: float, unix: float) -> List[Tuple[str, Addr, bytes]]:
        """(peer id, where to, packet) of all that is due, as if they left at once."""
        return [
            (session.peer.id, session.addr, self.request(session, now, unix)) for session in self.due(now)
        ]

    def receive_reply(self, data: bytes, source: Addr, now: float, unix: float) -> None:
        """A packet that came to the sender's socket. Takes only the first answer to what was really asked."""
        session = self._by_addr.get(source)
        if session is None:
            self.drops["unknown_peer"] += 1
            return
        for seal in session.reply_seals:
            reply = stamp.unpack_reply(data, seal)
            if reply is not None:
                refused = session.answered(reply, now, unix, self._error_s)
                if refused is not None:
                    self.drops[refused] += 1
                return
        self.drops["forged"] += 1

    def _close(self, now: float) -> None:
        """Close windows whose time has come, a few at once."""
        elapsed_s, self._ticked = min(now - self._ticked, STALL_S), now
        if not self._open or self._open[0][0] > now:
            return
        seconds = self._open[0][2].open[0].seconds if self._open[0][2].open else 1
        most = math.ceil(len(self._turns) * elapsed_s / (CLOSING * seconds))
        while most > 0 and self._open and self._open[0][0] <= now:
            _, _, session = heapq.heappop(self._open)
            session.close()
            most -= 1

    # --- what was measured -----------------------------------------------------------------------------------

    def rows(self, since: float = 0) -> List[str]:
        """The closed windows that end after `since` (unix), each as a JSON object, those that ended first first.

        Those that end and not those that start then: where lengths differ, a long one may close after a short one that
        started later.
        """
        rows = [row for session in self._sessions.values() for row in session.closed if row[0] > since]
        rows.sort(key=_end)
        return [text for _, text in rows]

    def latest(self) -> Dict[str, Dict[str, Optional[float]]]:
        """{peer: {"rtt_ms": median of the last closed window, at first of the answers so far; None: no answer}}."""
        return {node: {"rtt_ms": session.rtt_ms} for node, session in self._sessions.items()}


def _end(row: Tuple[int, str]) -> int:
    return row[0]
