"""Pings over a data channel that neither orders nor repeats: round-trip time of the media's own way, and two clocks.

Times are taken as near to the socket as aiortc lets us, since what a message waits for inside is not the network's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, Protocol

from commcli.probe.clock import Exchange, bounds
from commcli.probe.stream import Window, spread

# With more than this waiting inside SCTP, a ping would measure our own queue.
_MAX_BUFFERED = 256


class DataChannel(Protocol):
    """The part of aiortc's RTCDataChannel that is used here."""

    @property
    def readyState(self) -> str: ...
    @property
    def bufferedAmount(self) -> int: ...
    def send(self, data: str) -> None: ...
    def on(self, event: str, f: Callable[[Any], None]) -> Any: ...


async def _leave_it() -> float:
    """For a channel that sends by itself, nobody knows when."""
    return 0.0


class Pinger:
    """Sends pings on `channel` and answers those of the other end.

    arrived_s: when the message in work came in (unix s). flush: has the channel send at once, where
    aiortc would when the event loop has done all else, and tells when the latest datagram went out (unix s).
    """

    def __init__(
        self,
        channel: DataChannel,
        interval_s: float = 0.1,
        *,
        arrived_s: Callable[[], float] = time.time,
        flush: Callable[[], Awaitable[float]] = _leave_it,
    ) -> None:
        self.sent: dict[int, float] = {}
        self.exchanges: list[Exchange] = []
        self._channel = channel
        self._interval_s = interval_s
        self._arrived_s, self._flush = arrived_s, flush
        self._pongs: set[asyncio.Future[None]] = set()
        channel.on("message", self._message)

    async def run(self) -> None:
        """Until cancelled."""
        number = 0
        while True:
            if self._channel.readyState == "open" and self._channel.bufferedAmount < _MAX_BUFFERED:
                number += 1
                self.sent[number] = now = time.time()
                self._channel.send(f"ping {number} {1000 * now:.3f}")
                self.sent[number] = max(now, await self._flush())
            await asyncio.sleep(self._interval_s)

    def _message(self, message: str | bytes) -> None:
        now_ms = 1000 * self._arrived_s()
        match str(message).split():
            case ["ping", number, t1]:
                pong = asyncio.ensure_future(self._answer(number, t1, now_ms))
                self._pongs.add(pong)
                pong.add_done_callback(self._pongs.discard)
            case ["pong", number, _, t2, t3] if int(number) in self.sent:
                t1_ms = 1000 * self.sent[int(number)]
                self.exchanges.append(Exchange(t1_ms, float(t2), float(t3), now_ms))

    async def _answer(self, number: str, t1: str, t2_ms: float) -> None:
        if self._channel.readyState == "open":
            self._channel.send(f"pong {number} {t1} {t2_ms:.3f} {1000 * time.time():.3f}")
            await self._flush()

    def rtt_s(self) -> float | None:
        """The median of the latest pings; None while none was answered."""
        return median(x.rtt_ms for x in self.exchanges[-9:]) / 1000 if self.exchanges else None

    def report(self, window: Window) -> dict[str, Any]:
        """{"sent", "answered", "rtt_ms": spread, "offset_bounds_ms": [low, high] | None} of the window's pings.

        A ping of the last second may still be on its way, so it is not counted as sent unless it was answered.
        """
        inside = [x for x in self.exchanges if window.holds(x.t1 / 1000)]
        due = [number for number, at in self.sent.items() if window.start_s <= at < window.end_s - 1]
        limits = bounds(self.exchanges)
        return {
            "sent": max(len(due), len(inside)),
            "answered": len(inside),
            "rtt_ms": spread([x.rtt_ms for x in inside]),
            "offset_bounds_ms": list(limits) if limits else None,
        }
