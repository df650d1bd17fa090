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
    """Runs callbacks until `stop`. A callback that raises ends the loop."""

    def __init__(self, tick: Callable[[float], Optional[float]]) -> None:
        """`tick(now)` runs at least every TICK_S; it may return the monotonic time of its next wish."""
        self._epoll = select.epoll()
        self._callbacks: Dict[int, Callable[[int], None]] = {}
        self._tick = tick
        self._stopped = False
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
        due = time.monotonic()
        while not self._stopped:
            now = time.monotonic()
            if now >= due:
                self.lag_ms.append((now - due) * 1000)
                wish = self._tick(now)
                due = now + TICK_S if wish is None else max(now, min(wish, now + TICK_S))
            for fd, events in self._epoll.poll(max(0.0, due - time.monotonic())):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)

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
