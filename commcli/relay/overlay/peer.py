"""One neighbour of the overlay: its keys, and what proves that a datagram is its own and new."""

from __future__ import annotations

import hashlib
import hmac
from typing import Callable, Optional, Set, Tuple

from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.overlay.arrivals import Arrivals
from commcli.relay.overlay.wire import (
    AGAIN,
    DATA,
    HEADER,
    HEADER_AT,
    HEADER_BYTES,
    TAG_BYTES,
    Addr,
    end_keyed,
    hop_keyed,
    kind_byte,
    node_number,
)

# Before a relay has heard anything from a neighbour it has no book of arrivals: an old recording would pass. So the
# first datagram must be this fresh by the clocks, or a hello must repeat a number that we have just made up.
FRESH_S = 60.0
# A neighbour whose clock was ahead, was set right and then restarted, numbers lower than before. After so long
# without an accepted word from it, a fresh one begins a new book. No recording is that fresh: whatever was
# accepted before the silence was sent longer ago than FRESH_S, also by clocks that are FRESH_S apart.
SILENCE_S = 2 * FRESH_S
MAX_OVERTAKEN = 64
MOST_NOTED = 128  # of the numbers that one packet skips: later than that, a copy is of no use
_AGAIN, _AS_DATA = kind_byte(AGAIN), bytes((kind_byte(DATA),))
Maker = Callable[[], hashlib.blake2b]


class Numbers:
    """The end-to-end numbers of one other edge: each packet once, also if it came over two paths."""

    __slots__ = ("_before", "_heard", "arrivals", "sent")

    def __init__(self) -> None:
        self.arrivals: Optional[Arrivals] = None
        self._before: Set[int] = set()  # not seen, of those just before the first
        self._heard = float("-inf")
        self.sent = 0  # the last number of ours

    def next(self, unix: float) -> int:
        """The number of our next packet to it."""
        self.sent = self.sent + 1 if self.sent else int(unix * 1e6)
        return self.sent

    def highest(self) -> Optional[int]:
        """Of those that came."""
        return None if self.arrivals is None else self.arrivals.highest

    def resume(self, highest: int, now: float) -> None:
        """Go on where an earlier process of this relay was."""
        self.arrivals, self._heard = Arrivals(highest, MOST_NOTED), now

    def begin_anew(self) -> None:
        """The edge has begun again, and its numbers with it: the next one may be lower."""
        self.arrivals = None
        self._before = set()

    def accept(self, number: int, now: float, unix: float) -> bool:
        """Whether this is the packet's first copy, and no recording of a relay on the way."""
        if self.arrivals is None or not self.arrivals.accept(number, now):
            if number in self._before:
                self._before.discard(number)
                return True
            # Its clock may have been set back before it began again, and no hello of it reaches us.
            is_fresh = now - self._heard >= SILENCE_S and abs(unix - number / 1e6) < FRESH_S
            if self.arrivals is not None and not is_fresh:
                return False
            self.arrivals = Arrivals(number, MOST_NOTED)
            # The first one may have overtaken others.
            self._before = set(range(number - MAX_OVERTAKEN, number))
        self._heard = now
        return True


class Peer:
    """Keys, sequences and arrivals. The neighbour must have at least one key; the first one seals, all verify."""

    __slots__ = (
        "_doubted_at", "_end_keys", "_hop_keys", "_own_number", "_seal", "_sequence", "addr", "arrivals", "end_seal",
        "heard", "id", "nonce", "number", "numbers", "row",
    )  # fmt: skip

    def __init__(self, known: Neighbour, own_number: int, nonce: int) -> None:
        self.id = known.id
        self._own_number = own_number
        self.number = node_number(known.id)
        self._sequence = 0  # the last one sent
        self.arrivals: Optional[Arrivals] = None
        self.numbers = Numbers()
        self.heard = float("-inf")  # the last authentic datagram
        self.nonce = nonce  # who repeats it has heard us since we made it up
        self._doubted_at = float("-inf")  # when a hello made us doubt the book, and so make up another nonce
        self.row = known
        self.use(known)

    def use(self, known: Neighbour) -> None:
        """Take its address and keys. The books outlive them: sequences only grow, recordings stay refused."""
        self.row = known
        self.addr: Addr = (known.address, known.overlay_port)
        own, other = self._own_number, self.number
        self._hop_keys: Tuple[Maker, ...] = tuple(hop_keyed(key, other, own) for key in known.keys)
        self._end_keys: Tuple[Maker, ...] = tuple(map(end_keyed, known.keys))
        self._seal = hop_keyed(known.keys[0], own, other)
        self.end_seal = self._end_keys[0]

    # --- hop by hop ----------------------------------------------------------------------------------------

    def sealed(self, kind: int, marks: int, covered: bytes, rest: bytes, unix_us: int) -> "Tuple[int, bytes]":
        """(sequence, datagram). kind: as of `kind_byte`; marks: class and flags; rest: what the tag leaves out."""
        self._sequence = sequence = self._sequence + 1 if self._sequence else unix_us
        message = HEADER.pack(kind, marks, len(covered), sequence, unix_us) + covered
        tag = self._seal()
        tag.update(message)
        return sequence, tag.digest() + message + rest

    def is_from(self, data: bytes, covered: int) -> bool:
        """Whether it has the tag of one of our keys. data: at least HEADER_BYTES + covered."""
        if data[HEADER_AT] == _AGAIN:
            message = _AS_DATA + data[HEADER_AT + 1 : HEADER_BYTES + covered]
        else:
            message = data[HEADER_AT : HEADER_BYTES + covered]
        received = data[:TAG_BYTES]
        for key in self._hop_keys:
            tag = key()
            tag.update(message)
            if hmac.compare_digest(tag.digest(), received):
                return True
        return False

    def begin(self, sequence: int, sent_us: int, now: float, unix: float) -> Optional[str]:
        """A datagram that the book refuses, or the first: begin a new book with it, or say why not."""
        if self.arrivals is not None and now - self.heard < SILENCE_S:
            return "replayed"
        if abs(unix - sent_us / 1e6) > FRESH_S:
            return "stale" if self.arrivals is None else "replayed"
        self._begin(sequence)
        return None

    def resume(self, highest: int, number: Optional[int], now: float) -> None:
        """Go on with the books of an earlier process of this relay."""
        self.arrivals, self.heard = Arrivals(highest), now
        if number is not None:
            self.numbers.resume(number, now)

    def proves(self, repeated: int) -> bool:
        """Whether a hello that the book refuses, or the first one, comes from a neighbour that has begun again.

        It must repeat a nonce that we made up after the first such hello, or the first nonce of all; and nothing that
        the book takes may have come since, as it would from a neighbour that goes on. So neither a hello that
        was recorded proves anything, nor one that was held back.
        """
        is_asked = self.arrivals is None or self.heard <= self._doubted_at
        return is_asked and repeated == self.nonce

    def doubt(self, now: float, nonce: int) -> None:
        """A hello that the book refuses has proved nothing: if its sender is there, it will repeat this nonce."""
        if self.arrivals is not None and self.heard > self._doubted_at:
            self._doubted_at, self.nonce = now, nonce

    def begin_proven(self, sequence: int, nonce: int) -> None:
        """A new book with a hello that `proves`; `nonce` is the next one, so that none counts twice."""
        self._begin(sequence)
        self.nonce = nonce

    def _begin(self, sequence: int) -> None:
        self.arrivals = Arrivals(sequence)
        self._doubted_at = float("-inf")
        self.numbers.begin_anew()

    # --- end to end ----------------------------------------------------------------------------------------

    def ends_with(self, message: bytes, payload: bytes, received: bytes) -> bool:
        """Whether `received` is the end tag of a section's head with one entry, and its payload."""
        for key in self._end_keys:
            tag = key()
            tag.update(message)
            tag.update(payload)
            if hmac.compare_digest(tag.digest(), received):
                return True
        return False
