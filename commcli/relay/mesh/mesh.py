"""The STAMP mesh of one node: a Session-Sender towards every known peer, and the Session-Reflector for them.

Pure: packets and the time in, packets and closed windows out. `now` is monotonic seconds, `unix` wall clock. The
sender's socket must not be the reflector's, since the two kinds of packet look alike.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

from commcli.relay.mesh import neighbours, stamp
from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.mesh.window import (
    NEW_SESSION,
    Jitter,
    Record,
    WindowCounts,
    forget,
    judge,
    spread_ms,
    summary,
)

Addr = Tuple[str, int]

WINDOW_S = 10
MAX_WINDOWS = 60
DEFAULT_RATE = 5.0  # packets per second and peer
MAX_PACKETS_A_SECOND = 1000.0  # of all peers together
# An answer later than this is a lost one. Also how long a window waits for the answers to what came after it, which
# tell in which direction its last packets were lost.
GRACE_S = 2.0
MAX_RECORDS_S = 60.0
# How many of its latest packets of a session the reflector knows again.
MEMORY = 256
MAX_SESSIONS = 4  # a peer's: it takes a new source port when it restarts
UNKNOWN_TTL = 255


class _Session:
    """The Session-Sender's side of one peer."""

    def __init__(self, peer: Neighbour, node: str, first_at: float) -> None:
        self.next_at = first_at
        self.sequence = 0
        self.records: "OrderedDict[int, Record]" = OrderedDict()  # from `mark` on, by sequence
        self.mark = NEW_SESSION
        self.open: Deque[WindowCounts] = deque()
        self.closed: Deque[Tuple[int, Dict[str, object]]] = deque(maxlen=MAX_WINDOWS)  # by start
        self.answers = 0
        self.highest_answered = -1
        self.forward, self.back = Jitter(), Jitter()
        self.use(peer, node)

    def use(self, peer: Neighbour, node: str) -> None:
        """Take over the peer's address and keys; what was measured stays."""
        self.peer = peer
        self.addr: Addr = (peer.address, peer.stamp_port)
        self.request_key = stamp.session_key(peer.keys[0], node, reply=False) if peer.keys else None
        self.reply_keys: List[Optional[bytes]] = [
            stamp.session_key(key, node, reply=True) for key in peer.keys
        ] or [None]

    def window(self, now: float, unix: float) -> WindowCounts:
        """The open window that a packet sent now belongs to."""
        start = int(unix // WINDOW_S) * WINDOW_S
        if not self.open or self.open[-1].start_unix != start:
            self.open.append(WindowCounts(start, now + start + WINDOW_S - unix + GRACE_S))
        return self.open[-1]

    def window_of(self, sequence: int) -> Optional[WindowCounts]:
        """The open window that holds this packet; None: closed already."""
        for window in self.open:
            if window.records[0].sequence <= sequence <= window.records[-1].sequence:
                return window
        return None

    def latest_rtt_ms(self) -> Optional[float]:
        """The median of the last closed window, before there is one of all answers so far; None: no answer."""
        if self.closed:
            spread = self.closed[-1][1]["rtt_ms"]
        else:
            spread = spread_ms([r.rtt_s for r in self.records.values() if r.number is not None])
        return spread["p50"] if isinstance(spread, dict) else None


class Mesh:
    """The Session-Sender. `clock`: what is known of our clock, written into every packet."""

    def __init__(
        self, node: str, random_bytes: Callable[[int], bytes], rate: float = DEFAULT_RATE,
        clock: stamp.ErrorEstimate = stamp.UNKNOWN_CLOCK,
    ) -> None:  # fmt: skip
        """rate: packets per second to each peer."""
        self._node, self._random, self._rate = node, random_bytes, rate
        self.clock = clock
        self._sessions: Dict[str, _Session] = {}
        self._by_addr: Dict[Addr, _Session] = {}
        self.drops: Counter[str] = Counter()

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        known.pop(self._node, None)
        kept: Dict[str, _Session] = {}
        for node, peer in known.items():
            session = self._sessions.get(node)
            if session is None:
                session = _Session(peer, self._node, float("-inf"))
            session.use(peer, self._node)
            kept[node] = session
        self._sessions = kept
        self._by_addr = {session.addr: session for session in kept.values()}

    def kept(self) -> Dict[str, List[Tuple[int, Dict[str, object]]]]:
        """The closed windows by peer, for the next process of this relay (JSON). It begins a new one by itself."""
        return {node: list(session.closed) for node, session in self._sessions.items()}

    def take(self, kept: Mapping[str, Sequence[Tuple[int, Dict[str, object]]]]) -> None:
        """Go on with what another process `kept`, after the peers are known. Raises ValueError or TypeError."""
        for node, windows in kept.items():
            session = self._sessions.get(node)
            if session is not None:
                session.closed.extend((int(start), dict(row)) for start, row in windows)

    @property
    def interval_s(self) -> float:
        """Between two packets to one peer."""
        return max(1 / self._rate, len(self._sessions) / MAX_PACKETS_A_SECOND)

    def tick(self, now: float, unix: float) -> List[Tuple[str, Addr, bytes]]:
        """(peer id, where to, packet) of all that is due; closes windows. Call it every 10 to 20 ms."""
        due = []
        interval_s = self.interval_s
        for node, session in self._sessions.items():
            while session.open and session.open[0].close_at <= now:
                self._close(session)
            if session.next_at == float("-inf"):
                # A phase of its own for each peer, so that a fleet started at once does not beat in step.
                session.next_at = now + interval_s * int.from_bytes(self._random(2), "big") / 65536
            if session.next_at <= now:
                # What a stall made us miss is not made up for: it would measure our own burst.
                missed = (now - session.next_at) // interval_s
                session.next_at += (missed + 1) * interval_s
                due.append((node, session.addr, self._packet(session, now, unix)))
        return due

    def _packet(self, session: _Session, now: float, unix: float) -> bytes:
        record = Record(session.sequence, stamp.to_timestamp(unix), unix, now)
        session.sequence += 1
        session.records[record.sequence] = record
        session.window(now, unix).records.append(record)
        if len(session.records) > self._rate * MAX_RECORDS_S:
            session.records.popitem(last=False)
            session.mark = session.mark._replace(highest=None)  # a long outage: what came before is forgotten
        return stamp.pack_request(record.sequence, unix, self.clock, session.request_key)

    def receive_reply(self, data: bytes, source: Addr, now: float, unix: float) -> None:
        """A packet that came to the sender's socket. Takes only the first answer to what was really asked."""
        session = self._by_addr.get(source)
        if session is None:
            self.drops["unknown_peer"] += 1
            return
        reply = None
        for key in session.reply_keys:
            reply = reply or stamp.unpack_reply(data, key)
        if reply is None:
            self.drops["forged"] += 1
            return
        self._answered(session, reply, now, unix)

    def _answered(self, session: _Session, reply: stamp.Reply, now: float, unix: float) -> None:
        record = session.records.get(reply.request.sequence)
        # The timestamp comes back as it went, so without keys it still is a nonce that only the peer saw.
        if record is None or record.stamp != reply.request.stamp:
            self.drops["unasked"] += 1
            return
        window = session.window_of(record.sequence)
        if window is None:
            self.drops["late"] += 1
            return
        if record.number is not None:
            window.duplicates += 1
            return
        elapsed_s = now - record.sent_now
        dwell_s = reply.sent_unix - reply.received_unix
        # A reflector whose clock steps between T2 and T3 would make the round trip negative or endless.
        record.rtt_s = elapsed_s - dwell_s if 0 <= dwell_s <= elapsed_s else elapsed_s
        record.number, record.t2, record.t3, record.t4 = (
            reply.sequence,
            reply.received_unix,
            reply.sent_unix,
            unix,
        )
        record.arrival = session.answers = session.answers + 1
        window.reordered += record.sequence < session.highest_answered
        session.highest_answered = max(session.highest_answered, record.sequence)

    def _close(self, session: _Session) -> None:
        window = session.open.popleft()
        records = list(session.records.values())
        judge(records, session.mark, window.records[-1].sequence)
        row: Dict[str, object] = {"peer": session.peer.id, "start": window.start_unix, "seconds": WINDOW_S}
        row.update(summary(window, session.forward, session.back))
        session.closed.append((window.start_unix, row))
        # This window's records stay until the next one is closed: its first packets may have overtaken them.
        count, session.mark = forget(records, session.mark, window.records[0].sequence)
        for record in records[:count]:
            del session.records[record.sequence]

    def windows(self, since: float = 0) -> List[Dict[str, object]]:
        """The closed windows that start at `since` (unix) or later, oldest first; the last 60 of each peer are kept."""
        rows = [
            closed for session in self._sessions.values() for closed in session.closed if closed[0] >= since
        ]
        return [row for _, row in sorted(rows, key=lambda closed: closed[0])]

    def latest(self) -> Dict[str, Dict[str, Optional[float]]]:
        """{peer: {"rtt_ms": latest median, None: no answer}}."""
        return {node: {"rtt_ms": session.latest_rtt_ms()} for node, session in self._sessions.items()}


class _Answers:
    """The Session-Reflector's side of one session."""

    def __init__(self) -> None:
        self._numbers: "OrderedDict[int, int]" = OrderedDict()  # ours by theirs
        self._next = 0
        self._highest, self._newest = -1, 0  # the highest sequence and its timestamp

    def is_over(self, request: stamp.Request) -> bool:
        """Whether the sender has begun again: this was sent later, but is numbered lower."""
        return request.sequence <= self._highest and request.stamp > self._newest

    def number(self, request: stamp.Request) -> Optional[int]:
        """Our number for a request; None: too old to know whether it was answered before.

        A packet that the network (or an attacker) repeats gets the number it had, so that it makes no hole that
        the sender would take for a loss.
        """
        if request.sequence in self._numbers:
            return self._numbers[request.sequence]
        if request.sequence <= self._highest - MEMORY:
            return None
        if request.sequence > self._highest:
            self._highest, self._newest = request.sequence, request.stamp
        if len(self._numbers) >= MEMORY:
            self._numbers.popitem(last=False)
        number = self._numbers[request.sequence] = self._next
        self._next += 1
        return number


class _Asker:
    """A peer that may ask. keys: (of its requests, of our replies), [(None, None)] if it has none."""

    def __init__(self, peer: Neighbour) -> None:
        self.peer = peer
        self.keys: List[Tuple[Optional[bytes], Optional[bytes]]] = [
            (stamp.session_key(key, peer.id, reply=False), stamp.session_key(key, peer.id, reply=True))
            for key in peer.keys
        ] or [(None, None)]
        self._sessions: "OrderedDict[int, _Answers]" = OrderedDict()  # by source port, the latest last

    def number(self, request: stamp.Request, port: int) -> Optional[int]:
        """Our number in the session from this port; a new session takes the place of the oldest."""
        session = self._sessions.pop(port, None)
        if session is None or session.is_over(request):
            session = _Answers()
        if len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[port] = session
        return session.number(request)


class Reflector:
    """The stateful Session-Reflector (RFC 8762 s. 4.3): answers known peers, and never with more than it was asked."""

    def __init__(self, node: str, clock: stamp.ErrorEstimate = stamp.UNKNOWN_CLOCK) -> None:
        self._node = node
        self.clock = clock
        self._askers: Dict[str, List[_Asker]] = {}
        self.drops: Counter[str] = Counter()

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        before = {asker.peer: asker for askers in self._askers.values() for asker in askers}
        self._askers = {}
        for node, peer in known.items():
            if node != self._node:
                self._askers.setdefault(peer.address, []).append(before.get(peer) or _Asker(peer))

    def receive(
        self, data: bytes, source: Addr, received_unix: float, sent_unix: float, ttl: int = UNKNOWN_TTL
    ) -> Optional[bytes]:
        """The answer to what came from `source` (any port: senders use a port of their own), None for no answer."""
        askers = self._askers.get(source[0])
        if askers is None:
            self.drops["unknown_peer"] += 1
            return None
        for asker in askers:
            for request_key, reply_key in asker.keys:
                request = stamp.unpack_request(data, request_key)
                if request is None:
                    continue
                number = asker.number(request, source[1])
                if number is None:
                    self.drops["replayed"] += 1
                    return None
                reply = stamp.pack_reply(
                    number, received_unix, sent_unix, self.clock, request, ttl, reply_key
                )
                return reply[: len(data)]
        self.drops["forged"] += 1
        return None
