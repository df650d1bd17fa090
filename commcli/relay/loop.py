"""A small epoll loop: sockets with callbacks, one tick, and a measure of its own lag."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Callable, Deque, Dict, Optional

# Keepalives go every 60 ms and failover must be seen within a few of them.
TICK_S = 0.02


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
        """`tick(now)` runs at least every TICK_S; it may return the monotonic time of its next wish."""
        self._epoll = select.epoll()
        self._callbacks: Dict[int, Callable[[int], None]] = {}
        self._tick, self._failed = tick, failed
        self._due = 0.0
        self._stopped = False
        self.turns = 0  # of `run` so far
        self.lag_ms: Deque[float] = deque(maxlen=512)

    def add(self, sock: socket.socket, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call `callback(events)` when `sock` is ready."""
        self._callbacks[sock.fileno()] = callback
        self._epoll.register(sock.fileno(), events)

    def change(self, sock: socket.socket, events: int) -> None:
        """Wait for other events of `sock`."""
        self._epoll.modify(sock.fileno(), events)

    def remove(self, sock: socket.socket) -> None:
        """Forget `sock`; call before it is closed."""
        self._epoll.unregister(sock.fileno())
        del self._callbacks[sock.fileno()]

    def stop(self) -> None:
        """Leave `run` after the present callback."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until `stop`."""
        self._due = time.monotonic()
        while not self._stopped:
            try:
                self._turn()
            except Exception as error:
                if self._failed is None:
                    raise
                self._failed(error)

    def _turn(self) -> None:
        self._tick_if_due()
        self.turns += 1
        monotonic, callbacks = time.monotonic, self._callbacks
        for fd, events in self._epoll.poll(max(0.0, self._due - monotonic())):
            callback = callbacks.get(fd)
            if callback is not None:
                callback(events)
            # Also between two sockets: a flood on a thousand of them must not hold the keepalives up.
            if monotonic() >= self._due:
                self._tick_if_due()

    def _tick_if_due(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self.lag_ms.append((now - self._due) * 1000)
        self._due = now + TICK_S  # set first: a tick that raises must wait for its next turn as well
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
