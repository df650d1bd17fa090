from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiortc import RTCIceTransport

from commcli.probe.arrival import Arrivals


class Connection:
    """The part of aioice's Connection that is watched."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def data_received(self, data: bytes, component: int) -> None:
        self.queue.put_nowait(data)


class Transport:
    """The part of aiortc's RTCIceTransport that is watched."""

    def __init__(self) -> None:
        self._connection = Connection()
        self.sent: list[bytes] = []

    async def _recv(self) -> bytes:
        return await self._connection.queue.get()

    async def _send(self, data: bytes) -> None:
        self.sent.append(data)


async def test_a_datagram_came_when_it_was_read_and_not_when_its_turn_was() -> None:
    transport, times = Transport(), iter([1.0, 2.0, 9.0])
    arrivals = Arrivals(cast(RTCIceTransport, transport), lambda: next(times))
    transport._connection.data_received(b"first", 1)
    transport._connection.data_received(b"second", 1)
    assert await transport._recv() == b"first"
    assert (arrivals.now(), arrivals.now()) == (1.0, 1.0)
    assert await transport._recv() == b"second"
    assert arrivals.now() == 2.0


async def test_what_waited_before_the_watch_came_now() -> None:
    transport = Transport()
    transport._connection.data_received(b"early", 1)
    arrivals = Arrivals(cast(RTCIceTransport, transport), lambda: 5.0)
    assert await transport._recv() == b"early"
    assert arrivals.now() == pytest.approx(5.0)


async def test_it_knows_when_the_latest_datagram_left() -> None:
    transport, times = Transport(), iter([1.0, 2.0])
    arrivals = Arrivals(cast(RTCIceTransport, transport), lambda: next(times))
    await transport._send(b"one")
    await transport._send(b"two")
    assert (transport.sent, arrivals.left_s) == ([b"one", b"two"], 2.0)
