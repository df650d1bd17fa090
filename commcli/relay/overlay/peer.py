"""One neighbour of the overlay, with the two directed segments that we share with it: sealing and opening."""

from __future__ import annotations

import hmac
from typing import Optional

from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.overlay.wire import SEQUENCE_AND_TIME, TAG_BYTES, Addr, ReplayWindow, keyed, node_number

# Before a relay has heard anything from a neighbour, its replay window is empty: an old recording would pass.
# So the first datagram must be this fresh. Nothing later depends on the clocks agreeing.
FRESH_S = 60.0
# A neighbour whose clock was ahead, was set right and then restarted, numbers lower than before. After so long
# without an accepted word from it, a fresh one begins a new window. No recording is that fresh: whatever was
# accepted before the silence was sent longer ago than FRESH_S, also by clocks that are FRESH_S apart.
SILENCE_S = 2 * FRESH_S


class Peer:
    """Keys, sequence and replay window. The neighbour must have at least one key."""

    __slots__ = ("_heard", "_keys", "_seal", "_sequence", "_window", "addr", "id", "number")

    def __init__(self, known: Neighbour) -> None:
        self.id = known.id
        self.number = node_number(known.id)
        self._sequence = 0  # the last one sent
        self._window: Optional[ReplayWindow] = None
        self._heard = float("-inf")
        self.use(known)

    def use(self, known: Neighbour) -> None:
        """Take its address and keys. The window outlives them: sequences only grow, recordings stay refused."""
        self.addr: Addr = (known.address, known.overlay_port)
        self._keys = tuple(keyed(key) for key in known.keys)
        self._seal = self._keys[0]

    def sealed(self, front: bytes, rest: bytes, payload: bytes, unix: float) -> bytes:
        """The datagram of these parts, numbered, timed and tagged. front: the first eight bytes."""
        now_us = int(unix * 1e6)
        self._sequence = self._sequence + 1 if self._sequence else now_us
        message = front + SEQUENCE_AND_TIME.pack(self._sequence, now_us) + rest + payload
        tag = self._seal()
        tag.update(message)
        return message + tag.digest()

    def refusal(self, data: bytes, now: float, unix: float) -> Optional[str]:
        """Why what came from its address is not from it, or was here before: forged, stale or replayed; or None."""
        message, received = data[:-TAG_BYTES], data[-TAG_BYTES:]
        for key in self._keys:
            tag = key()
            tag.update(message)
            if hmac.compare_digest(tag.digest(), received):
                break
        else:
            return "forged"
        sequence, sent_us = SEQUENCE_AND_TIME.unpack_from(data, 8)
        if self._window is None or not self._window.accept(sequence):
            word = self._begin(sequence, abs(unix - sent_us / 1e6), now)
            if word is not None:
                return word
        self._heard = now
        return None

    def _begin(self, sequence: int, age_s: float, now: float) -> Optional[str]:
        if self._window is not None and now - self._heard < SILENCE_S:
            return "replayed"
        if age_s > FRESH_S:
            return "stale" if self._window is None else "replayed"
        self._window = ReplayWindow(sequence)
        return None
