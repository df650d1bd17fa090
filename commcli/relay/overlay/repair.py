"""What makes good for the losses of the two directed segments shared with one neighbour, by the plans of `protect`.

Outgoing: datagrams kept for retransmission, copies that follow later, parity. Incoming: requests for what is missing,
and what parity gives back. What a receiver rebuilds, or gets a second time, is verified as if it had just come.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from commcli.relay.overlay.peer import Peer
from commcli.relay.overlay.wire import AGAIN, CLASSES, DATA, HEADER_AT, IN_BLOCK, PLAIN, kind_byte
from commcli.relay.protect import plans, resend
from commcli.relay.protect.copies import Copies
from commcli.relay.protect.mending import Mending
from commcli.relay.protect.parity import Blocks, Rebuilder, protected
from commcli.relay.protect.plan import UNMEASURED, UNPROTECTED, Plan
from commcli.relay.protect.resend import Sent, Wanted

_AGAIN, _DATA = bytes((kind_byte(AGAIN),)), bytes((kind_byte(DATA),))

# (class, datagram with its tag)
Extra = Tuple[int, bytes]


def again(datagram: bytes) -> bytes:
    """A DATA datagram, marked as a repeat."""
    return datagram[:HEADER_AT] + _AGAIN + datagram[HEADER_AT + 1 :]


def _first(datagram: bytes) -> bytes:
    """A repeat as it was the first time."""
    return datagram[:HEADER_AT] + _DATA + datagram[HEADER_AT + 1 :]


class Guard:
    """What protects one class on its way to one neighbour."""

    __slots__ = ("blocks", "copies", "is_on", "may_ride", "plan")

    def __init__(self, word: int) -> None:
        # The first losses come before the first report of them, and call set-up is what they hit.
        self.plan = UNMEASURED
        self.blocks, self.copies = Blocks(), Copies()
        self.is_on = True
        # In trains, which lose all their packets with their head. Those of PLAIN are to meet what the network does.
        self.may_ride = False
        if word == PLAIN:
            self.plan, self.is_on = UNPROTECTED, False

    def use(self, plan: Plan) -> None:
        """Protect by this plan from now on."""
        if plan == self.plan:
            return
        self.plan = plan
        self.copies.use(*(plan.copies or (0, 0.0)))
        self.blocks.use(*(plan.parity or (1, 0, 0.0)))
        self.is_on = plan.resend or plan.copies is not None or plan.parity is not None
        self.may_ride = not self.is_on


class Repair:
    """Both directions of one neighbour."""

    __slots__ = ("_rebuilders", "_sent", "_wanted", "guards", "is_on", "mending", "rtt_s")

    def __init__(self) -> None:
        self.guards = {word: Guard(word) for word in CLASSES}
        self.is_on = True
        self.rtt_s: Optional[float] = None
        self.mending = Mending()
        self._sent: Optional[Sent] = None
        self._wanted: Optional[Wanted] = None
        self._rebuilders: Dict[int, Rebuilder] = {}

    # --- out -----------------------------------------------------------------------------------------------

    def use(self, word: int, plan: Plan) -> int:
        """Protect a class by this plan from now on; the flags of its datagrams."""
        self.guards[word].use(plan)
        self.is_on = any(guard.is_on for guard in self.guards.values())
        return IN_BLOCK if plan.parity is not None else 0

    def leaves(self, word: int, sequence: int, datagram: bytes, now: float) -> List[bytes]:
        """A DATA datagram leaves; the bodies of PARITY datagrams that are to leave behind it."""
        guard = self.guards[word]
        if guard.plan.resend:
            if self._sent is None:
                self._sent = Sent()
            self._sent.keep(sequence, datagram, now)
        if guard.plan.copies is not None:
            guard.copies.add(datagram, now)
        return guard.blocks.add(sequence, datagram, now) if guard.plan.parity is not None else []

    def parities_left(self, bodies: Sequence[bytes], sequences: Sequence[int]) -> None:
        """The bodies of parities have left under these sequences."""
        at = 0
        while at < len(bodies):
            data, count = protected(bodies[at])
            self.mending.block(data, sequences[at : at + count])
            at += count

    def due(self, now: float) -> "Tuple[List[Extra], List[Tuple[int, List[bytes]]]]":
        """(copies, bodies of parities by class) that are to leave now."""
        copies: List[Extra] = []
        parities: List[Tuple[int, List[bytes]]] = []
        for word, guard in self.guards.items():
            copies += [(word, again(datagram)) for datagram in guard.copies.due(now)]
            parities.append((word, guard.blocks.due(now)))
        return copies, parities

    def is_waiting(self) -> bool:
        """Will there be more of `due`?"""
        return any(
            guard.copies.wish() is not None or guard.blocks.wish() is not None
            for guard in self.guards.values()
        )

    def asked(self, body: bytes, now: float) -> List[Extra]:
        """The neighbour misses something (the body of a NACK): repeats to send now. Raises ValueError."""
        sequences = resend.unpack(body)
        if self.rtt_s is not None:
            sequences = self.mending.to_answer(sequences, now, self.rtt_s)
        if self._sent is None:
            return []
        return [
            (datagram[HEADER_AT + 1] >> 6, again(datagram)) for datagram in self._sent.again(sequences, now)
        ]

    # --- in ------------------------------------------------------------------------------------------------

    def wanted(self, peer: Peer, now: float) -> Optional[bytes]:
        """The body of a NACK for what is missing of the neighbour's, None if there is nothing to ask for now."""
        arrivals = peer.arrivals
        if arrivals is None or not (arrivals.missing or self._wanted):
            return None
        arrivals.forget(now)
        if self._wanted is None:
            self._wanted = Wanted()
        if self.rtt_s is not None:
            self._wanted.budget_s = plans.worth_s(self.rtt_s / 2)
        sequences = self._wanted.due(arrivals.missing, now, self.rtt_s)
        return resend.pack(sequences) if sequences else None

    def came(self, word: int, sequence: int, datagram: bytes, now: float) -> List[bytes]:
        """A datagram that is part of a parity block; those that it let us rebuild, as repeats."""
        if datagram[HEADER_AT] == _AGAIN[0]:
            datagram = _first(datagram)
        return [
            again(rebuilt)
            for rebuilt in self._rebuilder(word).keep(sequence, datagram, now)
            if _is_data(rebuilt)
        ]

    def parity(self, word: int, body: bytes, now: float) -> List[bytes]:
        """The body of a PARITY datagram; those that it let us rebuild, as repeats. Raises ValueError."""
        return [again(rebuilt) for rebuilt in self._rebuilder(word).parity(body, now) if _is_data(rebuilt)]

    def _rebuilder(self, word: int) -> Rebuilder:
        found = self._rebuilders.get(word)
        if found is None:
            found = self._rebuilders[word] = Rebuilder()
        return found

    def forget(self, now: float) -> None:
        """Free what is too old, for when nothing more flows. Call it every few seconds."""
        if self._sent is not None:
            self._sent.forget(now)
        for rebuilder in self._rebuilders.values():
            rebuilder.forget(now)

    # --- what it tells -------------------------------------------------------------------------------------

    def figures(self) -> Dict[str, List[Dict[str, int]]]:
        """{buffer: its figures, one for each there is}."""
        return {
            "sent": [] if self._sent is None else [self._sent.figures()],
            "blocks": [guard.blocks.figures() for guard in self.guards.values() if guard.plan.parity],
            "copies": [guard.copies.figures() for guard in self.guards.values() if guard.plan.copies],
            "rebuilders": [rebuilder.figures() for rebuilder in self._rebuilders.values()],
        }

    def counts(self) -> Dict[str, int]:
        """Cumulative: repeated, refused (asked for too often), asked (of the neighbour), rebuilt."""
        return {
            "repeated": self._sent.repeated if self._sent is not None else 0,
            "refused": self._sent.refused if self._sent is not None else 0,
            "asked": self._wanted.asked if self._wanted is not None else 0,
            "rebuilt": sum(rebuilder.rebuilt for rebuilder in self._rebuilders.values()),
        }


def _is_data(datagram: bytes) -> bool:
    return len(datagram) > HEADER_AT and datagram[HEADER_AT] == _DATA[0]
