"""A small epoll loop: sockets with callbacks, one tick, and a measure of its own lag."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

# Keepalives go every 60 ms and failover must be seen within a few of them.
TICK_S = 0.02
# Few enough that a flood on all of them is over in a tick; the kernel takes those left out first next time.
MOST_EVENTS = 64
# A poll that takes longer found nothing at first.
SLEPT_S = 0.00005


def _nothing(_: object) -> None:
    """Nobody waits for the end of a turn."""


class Loop:
    """Runs callbacks until `stop`.

    What a callback or the tick raises goes to `failed` and ends nothing: one datagram that finds a bug of ours must
    not end everybody's calls. Without `failed` it ends the loop.
    """

    def __init__(
        self,
        tick: Callable[[float], Optional[float]],
        failed: Optional[Callable[[Exception], None]] = None,
    ) -> None:
        """`tick(now)` runs at least every `tick_s`; it may return the monotonic time of its next wish."""
        self.tick_s = TICK_S  # may be changed at any time: who has little to do need not be woken so often
        self._epoll = select.epoll()
        self._callbacks: Dict[int, Callable[[int], None]] = {}
        self._members: Dict[int, Any] = {}
        self._tick, self._failed = tick, failed
        self._due = 0.0
        self._stopped = False
        self.turns = 0  # grows by one a turn of `run`, by two if it had to wait
        self.now = 0.0  # monotonic seconds when the present callback was called
        # Called at the end of each turn, with the members (see `join`) whose sockets are ready.
        self.turn_ends: Callable[[List[Any]], None] = _nothing
        # Called after that, with `now`: sends what all of them have gathered.
        self.settle: Callable[[float], None] = _nothing
        self.lag_ms: Deque[float] = deque(maxlen=512)
        self._between: Optional[Callable[[], None]] = None

    def add(self, sock: socket.socket, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call `callback(events)` when `sock` is ready."""
        self._callbacks[sock.fileno()] = callback
        self._epoll.register(sock.fileno(), events)

    def join(self, sock: socket.socket, member: object) -> None:
        """Hand `member` to `turn_ends` when `sock` can be read: many sockets, one call a turn."""
        self._members[sock.fileno()] = member
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def change(self, sock: socket.socket, events: int) -> None:
        """Wait for other events of `sock`."""
        self._epoll.modify(sock.fileno(), events)

    def remove(self, sock: socket.socket) -> None:
        """Forget `sock`; call before it is closed. A member may still be among those of the present turn."""
        fd = sock.fileno()
        self._epoll.unregister(fd)
        del (self._members if fd in self._members else self._callbacks)[fd]

    def between(self, act: Callable[[], None]) -> None:
        """Call `act()` once, after the present turn has ended: then nothing is on its way in here."""
        self._between = act

    def hurry(self, when: float) -> None:
        """Tick at monotonic `when` at the latest."""
        self._due = min(self._due, when)

    @property
    def stopped(self) -> bool:
        """Is `run` at its end?"""
        return self._stopped

    def stop(self) -> None:
        """Leave `run` after the present callback."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until `stop`."""
        self._due = time.monotonic()
        while not self._stopped:
            try:
                self._turn()
                if self._between is not None:
                    act, self._between = self._between, None
                    act()
            except Exception as error:
                if self._failed is None:
                    raise
                self._failed(error)

    def _turn(self) -> None:
        self._tick_if_due()
        self.turns += 1
        monotonic, callbacks = time.monotonic, self._callbacks
        gathered: List[Any] = []
        began = monotonic()
        polled = self._epoll.poll(max(0.0, self._due - began), MOST_EVENTS)
        self.now = monotonic()
        if self.now - began > SLEPT_S:
            self.turns += 1  # what is ready now was not when the last turn ended
        for fd, events in polled:
            member = self._members.get(fd)
            if member is not None:
                gathered.append(member)
                continue
            callback = callbacks.get(fd)
            if callback is None:
                continue
            self.now = monotonic()
            # Also between two sockets: a flood on many of them must not hold the keepalives up.
            if self.now >= self._due:
                self._tick_if_due()
            callback(events)
        self.turn_ends(gathered)
        self.settle(self.now)

    def _tick_if_due(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self.lag_ms.append((now - self._due) * 1000)
        self.now = now
        self._due = now + self.tick_s  # set first: a tick that raises must wait for its next turn as well
        wish = self._tick(now)
        if wish is not None:
            self._due = max(now, min(wish, self._due))

    def close(self) -> None:
        """Free the epoll descriptor."""
        self._epoll.close()

    def lag(self) -> "Dict[str, Optional[float]]":
        """How late ticks were, in milliseconds."""
        if not self.lag_ms:
            return {"p50": None, "p99": None}
        ordered = sorted(self.lag_ms)
        pick = [ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.99)]
        return {"p50": round(pick[0], 3), "p99": round(pick[1], 3)}
