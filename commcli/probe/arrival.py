"""When a datagram came from the socket and went to it, rather than when aiortc got round to it or was asked to send.

Between lie a queue, encryption, and all that the event loop had to do first: half a millisecond each way beside a
video encoder. None of that is the network's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiortc import RTCIceTransport


class _Datagram(bytes):
    """A datagram that knows when it was read in."""

    arrived_s: float


class Arrivals:
    """Watches one ICE transport: aiortc works on its datagrams one after the other."""

    def __init__(self, transport: RTCIceTransport, clock: Callable[[], float] = time.time) -> None:
        connection = transport._connection
        self._clock = clock
        self._arrived_s: float | None = None
        self.left_s = 0.0  # when the latest datagram went out (unix s)
        self._put, self._get, self._give = connection.data_received, transport._recv, transport._send
        # All are looked up on the instance for each datagram, so instance attributes are enough.
        connection.data_received = self._data_received  # type: ignore[method-assign]
        transport._recv, transport._send = self._recv, self._send

    def now(self) -> float:
        """When the datagram in work came in (unix s); the present before the first one."""
        return self._clock() if self._arrived_s is None else self._arrived_s

    def _data_received(self, data: bytes, component: int) -> None:
        datagram = _Datagram(data)
        datagram.arrived_s = self._clock()
        self._put(datagram, component)

    async def _send(self, data: bytes) -> None:
        self.left_s = self._clock()
        await self._give(data)

    async def _recv(self) -> bytes:
        data = await self._get()
        # What waited in the queue when the watch began does not know.
        self._arrived_s = data.arrived_s if isinstance(data, _Datagram) else None
        return data
