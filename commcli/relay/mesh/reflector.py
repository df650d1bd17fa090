"""The Session-Reflector of the STAMP mesh, for the peers' senders. Pure."""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from typing import Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from commcli.relay.mesh import neighbours, stamp
from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.mesh.session import Addr

# How many of its latest packets of a session the reflector knows again.
MEMORY = 256
MAX_SESSIONS = 4  # a peer's: it takes a new source port when it restarts
UNKNOWN_TTL = 255

Pair = Tuple[Optional[stamp.Seal], Optional[stamp.Seal]]


class _Answers:
    """One session. In rings: a thousand of them are to fit into a few megabytes."""

    __slots__ = ("_highest", "_newest", "_next", "_numbers", "_sequences")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        # Ours and theirs of the latest packets, each at the place of its sequence modulo MEMORY. Where there was none
        # yet stands a sequence that can not be there.
        self._sequences = array("I", range(1, MEMORY + 1))
        self._numbers = array("I", bytes(4 * MEMORY))
        self._next = 0
        self._highest, self._newest = -1, 0  # the highest sequence and its timestamp

    def number(self, request: stamp.Request) -> Optional[int]:
        """Our number for a request; None: too old to know whether it was answered before.

        A packet that the network (or an attacker) repeats gets the number it had, so that it makes no hole that
        the sender would take for a loss. A sender that has begun again is a new session.
        """
        sequence, sent, _ = request
        place = sequence % MEMORY
        if sequence > self._highest:
            self._highest, self._newest = sequence, sent
        elif sent > self._newest:
            self._begin()  # sent later, but numbered lower
            return self.number(request)
        elif self._sequences[place] == sequence:
            return self._numbers[place]
        elif sequence <= self._highest - MEMORY:
            return None
        number = self._next
        self._next = (number + 1) & 0xFFFFFFFF
        self._sequences[place], self._numbers[place] = sequence, number
        return number


class _Asker:
    """A peer that may ask. pairs: the seals of its requests and of our replies, [(None, None)] if it has no keys."""

    def __init__(self, peer: Neighbour) -> None:
        self.peer = peer
        self.pairs: List[Pair] = [
            (
                stamp.Seal(stamp.session_key(key, peer.id, reply=False)),
                stamp.Seal(stamp.session_key(key, peer.id, reply=True)),
            )
            for key in peer.keys
        ] or [(None, None)]
        self._sessions: "OrderedDict[int, _Answers]" = OrderedDict()  # by source port, the latest last

    def session(self, port: int) -> _Answers:
        """Of the sender at this port; a new one takes the place of the oldest."""
        session = self._sessions.pop(port, None) or _Answers()
        if len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[port] = session
        return session


class _Line(NamedTuple):
    """A sender that was heard, and the seals it goes by."""

    session: _Answers
    theirs: Optional[stamp.Seal]
    ours: Optional[stamp.Seal]


class Reflector:
    """The stateful Session-Reflector (RFC 8762 s. 4.3): answers known peers, and never with more than it was asked."""

    def __init__(self, node: str, clock: stamp.ErrorEstimate = stamp.UNKNOWN_CLOCK) -> None:
        self._node = node
        self.set_clock(clock)
        self._askers: Dict[str, List[_Asker]] = {}
        self._reflectors: Set[Addr] = set()  # the peers' own
        self._lines: Dict[Addr, _Line] = {}  # those heard before, by their source
        self.drops: Counter[str] = Counter()

    def set_clock(self, clock: stamp.ErrorEstimate) -> None:
        """What is known of our clock now: it is written into every packet."""
        self._error = clock.pack()

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        before = {asker.peer: asker for askers in self._askers.values() for asker in askers}
        self._askers, self._lines = {}, {}
        self._reflectors = {(peer.address, peer.stamp_port) for peer in known.values()}
        for node, peer in known.items():
            if node != self._node:
                self._askers.setdefault(peer.address, []).append(before.get(peer) or _Asker(peer))

    def receive(
        self, data: bytes, source: Addr, received_unix: float, sent_unix: float, ttl: int = UNKNOWN_TTL
    ) -> Optional[bytes]:
        """The answer to what came from `source`, None for no answer.

        Senders use a port of their own. What seems to come from a peer's reflector is forged: without keys a reply is
        as good as a request, so that reflector would take our answer for one, and the two would never end.
        """
        if source in self._reflectors:
            self.drops["from_reflector"] += 1
            return None
        line, request = self._lines.get(source), None
        if line is not None:
            request = stamp.unpack_request(data, line.theirs)
        if line is None or request is None:
            line, request = self._new_line(data, source)
            if line is None or request is None:
                return None
        number = line.session.number(request)
        if number is None:
            self.drops["replayed"] += 1
            return None
        times = stamp.to_timestamp(received_unix), stamp.to_timestamp(sent_unix)
        return stamp.pack_reply(number, *times, self._error, request, ttl, line.ours)[: len(data)]

    def _new_line(self, data: bytes, source: Addr) -> Tuple[Optional[_Line], Optional[stamp.Request]]:
        """Who asks what; None: nobody who may, which is counted."""
        askers = self._askers.get(source[0])
        if askers is None:
            self.drops["unknown_peer"] += 1
            return None, None
        for asker in askers:
            for theirs, ours in asker.pairs:
                request = stamp.unpack_request(data, theirs)
                if request is not None:
                    if len(self._lines) >= MAX_SESSIONS * len(self._askers):
                        self._lines.clear()  # ports without end
                    line = self._lines[source] = _Line(asker.session(source[1]), theirs, ours)
                    return line, request
        self.drops["forged"] += 1
        return None, None
