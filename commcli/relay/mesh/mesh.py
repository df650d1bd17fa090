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
from commcli.relay.mesh.turns import STALL_S, Turns

# So much of the budget goes to the peers that are explored, and so many they may be.
EXPLORED, MOST_EXPLORED = 0.2, 8
# Windows of all peers end together. They are closed within this part of their length, so that no tick takes long.
CLOSING = 0.5
# Of all peers together: what goes along to the next process of this relay, which nobody may wait for.
MOST_KEPT = 3000


class Mesh:
    """The Session-Sender. All peers take turns; those that are explored take turns of their own besides."""

    def __init__(
        self,
        node: str,
        random_bytes: Callable[[int], bytes],
        budget: Budget = USUAL,
        clock: stamp.ErrorEstimate = stamp.UNKNOWN_CLOCK,
    ) -> None:
        self._node = node
        self._budget = budget
        self._turns = Turns(random_bytes, 1 / budget.per_peer)
        self._explored = Turns(random_bytes, 1 / budget.per_peer)
        self.set_clock(clock)
        self._sessions: Dict[str, Session] = {}
        self._by_addr: Dict[Addr, Session] = {}
        self._open: List[Tuple[float, int, Session]] = []  # a heap of open windows, by the time to close them
        self._opened, self._ticked, self._more = 0, 0.0, 0.0
        self.drops: Counter[str] = Counter()

    def set_clock(self, clock: stamp.ErrorEstimate) -> None:
        """What is known of our clock now: it is written into every packet."""
        self._error, self._error_s = clock.pack(), clock.known_s

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        known.pop(self._node, None)
        for node, peer in known.items():
            session = self._sessions.get(node)
            if session is None:
                self._sessions[node] = Session(peer, self._node)
            elif session.peer != peer:
                session.use(peer, self._node)
        for node in set(self._sessions) - set(known):
            del self._sessions[node]
        self._by_addr = {session.addr: session for session in self._sessions.values()}
        self._turns.seat(list(self._sessions.values()))
        self._explored.seat([s for s in self._explored.peers if self._sessions.get(s.peer.id) is s])
        self.spend(self._budget)

    def explore(self, peers: Sequence[str]) -> None:
        """Look closer at these from now on, as far as they are known: EXPLORED of the budget goes to them besides.

        Raises ValueError for more than MOST_EXPLORED, or what is no list of names.
        """
        if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
            raise ValueError("explore must be a list of peers")
        if len(peers) > MOST_EXPLORED:
            raise ValueError(f"explore has {len(peers)} peers, more than {MOST_EXPLORED}")
        known = [self._sessions[peer] for peer in dict.fromkeys(peers) if peer in self._sessions]
        self._explored.seat(known)
        self.spend(self._budget)

    def spend(self, budget: Budget) -> None:
        """So much from now on. While all peers together take less than the budget, nobody is to be looked at closer."""
        self._budget = budget
        count, explored = len(self._turns.peers), len(self._explored.peers)
        whole, most = budget.packets_a_second, budget.per_peer
        left = 1 - EXPLORED if explored and count * most > whole else 1.0
        self._turns.interval_s = max(1 / most, count / (left * whole))
        more = min(most - 1 / self._turns.interval_s, (1 - left) * whole / max(1, explored))
        self._more = more if more > 0 else 0.0
        self._explored.interval_s = 1 / self._more if self._more else math.inf

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
        return self._turns.interval_s

    def due(self, now: float) -> List[Session]:
        """Whose turn it is: send each a `request`. Closes windows. Call it every 20 to 50 ms."""
        self._close(now)
        due = self._turns.due(now)
        return [*due, *self._explored.due(now)] if self._more else due

    def request(self, session: Session, now: float, unix: float) -> bytes:
        """The packet to this peer (`session.addr`); the times are those of its leaving."""
        rate = 1 / self._turns.interval_s
        if self._more and session in self._explored.peers:
            rate += self._more
        data, begun = session.request(now, unix, rate, self._error)
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
        most = math.ceil(len(self._turns.peers) * elapsed_s / (CLOSING * seconds))
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
