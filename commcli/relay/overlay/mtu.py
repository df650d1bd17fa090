"""How long a datagram the path to one neighbour carries whole: DPLPMTUD (RFC 8899), for one direction.

Sizes are bytes of UDP payload: the path's MTU less the IP and UDP headers. A probe is a datagram of just that size
that must not be fragmented; the neighbour says that it came. All else may be fragmented, so that what is longer than
a narrow path still arrives, only dearer. No clock, no socket in here.

Beside the RFC: what does not even carry the base size is left to IP's fragments (s. 5.2 allows it), so there is no
phase ERROR; and a mere suspicion is enough to send no more than the base until the size in use is confirmed again.
"""

from __future__ import annotations

import math
from typing import Dict, List, Optional, Set

# IP without options, and UDP.
HEADER_BYTES = {4: 28, 6: 48}
# RFC 8899 s. 5.1.2 recommends it, and IPv6 promises that it fits (1280 less 48, RFC 8200 s. 5).
BASE_BYTES = 1200
ETHERNET_MTU, JUMBO_MTU = 1500, 9000
# MTUs that exist: the least of IPv6, tunnels (WireGuard 1420), PPPoE 1492, Ethernet, and those inside clouds.
_MTUS = (
    1280,
    1360,
    1400,
    1420,
    1440,
    1460,
    1480,
    ETHERNET_MTU - 8,
    ETHERNET_MTU,
    3900,
    8500,
    8896,
    JUMBO_MTU,
)

# Never under a second (s. 5.1.1), and longer than any round trip on earth.
PROBE_TIMEOUT_S = 2.0
MAX_PROBES = 3  # s. 5.1.2
RAISE_S = 600.0  # PMTU_RAISE_TIMER
# CONFIRMATION_TIMER, while datagrams flow: 1.5 kB in so long. An idle path confirms when it is time to raise.
CONFIRM_S = 15.0
# Neighbours that are away, or too old to answer, are asked ever less often.
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 60.0
# A path that merely loses a lot looks like a black hole again and again.
SUSPICION_EVERY_S = 10.0

BASE, SEARCHING, COMPLETE = "base", "searching", "complete"


class PathMtu:
    """One neighbour's. `bytes`: the longest payload to make up.

    phase: base (nothing of that size has come through yet), searching, or complete (the size found is confirmed
    again and again).
    """

    __slots__ = (
        "_deadline", "_next", "_next_raise", "_next_suspicion", "_proven", "_refused", "_retry_s", "_sent", "_sizes",
        "_tries", "black_holes", "bytes", "header_bytes", "lost", "phase", "probes",
    )  # fmt: skip

    def __init__(self, family: int = 4, largest_mtu: int = ETHERNET_MTU) -> None:
        """family: 4 or 6. largest_mtu: nothing beyond is tried (JUMBO_MTU inside a cloud)."""
        self.header_bytes = HEADER_BYTES[family]
        self._sizes: List[int] = [mtu - self.header_bytes for mtu in _MTUS if mtu <= largest_mtu]
        self.probes = self.lost = self.black_holes = 0
        self._next_suspicion = -math.inf
        self._retry_s = FIRST_RETRY_S
        self._begin(-math.inf)

    def _begin(self, now: float) -> None:
        """Nothing is proven from now on."""
        self.phase, self.bytes = BASE, BASE_BYTES
        self._proven, self._refused = 0, math.inf  # what came; what did not, in this search
        self._sent: Set[int] = set()  # sizes that may still be answered
        self._deadline: Optional[float] = None  # of the probe under way
        self._tries = 0
        self._next = self._next_raise = now

    # --- probes ----------------------------------------------------------------------------------------------

    def due(self, now: float, busy: bool = True) -> Optional[int]:
        """The size to probe now, None if it is not time. busy: datagrams flow (an idle path is asked less often)."""
        if self._deadline is not None:
            if now < self._deadline:
                return None
            self._miss(now)
        return self._goal() if now >= self._next_look(busy) else None

    def wish(self, busy: bool = True) -> float:
        """When `due` may have something new."""
        return self._next_look(busy) if self._deadline is None else self._deadline

    def _next_look(self, busy: bool) -> float:
        is_at_rest = self.phase == COMPLETE and not self._tries and self.bytes == self._proven
        return self._next_raise if is_at_rest and not busy else self._next

    def _goal(self) -> Optional[int]:
        if self.phase == SEARCHING:
            return self._candidate()
        return BASE_BYTES if self.phase == BASE else self._proven

    def _candidate(self) -> Optional[int]:
        """Ethernet's size first, since it is nearly always the answer, then the largest, then by halves."""
        left = [size for size in self._sizes if self._proven < size < self._refused]
        if not left:
            return None
        if self._refused == math.inf:
            ethernet = ETHERNET_MTU - self.header_bytes
            return ethernet if ethernet in left else left[-1]
        return left[len(left) // 2]

    def sent(self, size: int, now: float) -> None:
        """A probe of this size has left."""
        self.probes += 1
        self._sent.add(size)
        self._deadline = now + PROBE_TIMEOUT_S

    # --- what is learnt --------------------------------------------------------------------------------------

    def confirmed(self, size: int, now: float) -> bool:
        """The neighbour got a probe of this size; False if that is no news. A late answer is as good."""
        if size not in self._sent or size < self._proven:
            return False
        self._sent.discard(size)
        self._proven = self.bytes = size
        if size >= self._refused:
            self._refused = math.inf  # it was only lost
        self._deadline, self._tries, self._retry_s = None, 0, FIRST_RETRY_S
        if self.phase == COMPLETE and now < self._next_raise:
            self._rest(now)
        else:
            self._search(now)
        return True

    def _search(self, now: float) -> None:
        """Go on with the search, or begin one if the last is complete."""
        if self.phase != SEARCHING:
            self.phase, self._refused = SEARCHING, math.inf
        self._next = self._next_raise = now
        if self._candidate() is None:
            self.phase, self._next_raise = COMPLETE, now + RAISE_S
            self._rest(now)

    def _rest(self, now: float) -> None:
        self._next = min(now + CONFIRM_S, self._next_raise)

    def too_big(self, size: int, now: float) -> None:
        """Our own interface does not take this size: no use to try again."""
        if size == self._goal():
            self._give_up(size, now)

    def suspicious(self, now: float) -> None:
        """Long datagrams seem to vanish where short ones arrive: no long ones until one is confirmed again."""
        if self.phase == BASE or now < self._next_suspicion:
            return
        self._next_suspicion = now + SUSPICION_EVERY_S
        self.phase, self.bytes, self._next = COMPLETE, BASE_BYTES, now
        self._sent.clear()
        self._deadline, self._tries = None, 0

    def _miss(self, now: float) -> None:
        """The probe under way was not answered in time."""
        self.lost += 1
        self._tries += 1
        self._deadline, self._next = None, now
        if self._tries >= MAX_PROBES:
            goal = self._goal()
            assert goal is not None
            self._give_up(goal, now)

    def _give_up(self, size: int, now: float) -> None:
        self._deadline, self._tries = None, 0
        if self.phase == SEARCHING:
            self._refused = size
            self._search(now)
        elif self.phase == COMPLETE:
            self.black_holes += 1
            self._begin(now)
        else:
            self._next = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    # --- what it tells ---------------------------------------------------------------------------------------

    def figures(self) -> Dict[str, object]:
        """JSON-able: bytes and mtu (with the headers) in use, the phase, and counts since the start."""
        return {
            "bytes": self.bytes,
            "mtu": self.bytes + self.header_bytes,
            "phase": self.phase,
            "probes": self.probes,
            "lost": self.lost,
            "black_holes": self.black_holes,
        }
