from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from aiortc import RTCDtlsTransport, RTCSctpTransport
from aiortc.rtcsctptransport import InitAckChunk, RTCSctpCapabilities, parse_packet
from pyee.asyncio import AsyncIOEventEmitter

from commcli.probe.association import mend


class Wire(AsyncIOEventEmitter):
    """The part of aiortc's RTCDtlsTransport that SCTP uses; loses the first INIT ACK that it is given."""

    state = "connected"

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role
        self.transport = SimpleNamespace(role=role)
        self.up = asyncio.Event()
        self.on_the_way: set[asyncio.Future[None]] = set()
        self.other: Wire | None = None
        self.receiver: RTCSctpTransport | None = None
        self.lost = 0

    def _register_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        (chunk,) = parse_packet(data)[3]
        if isinstance(chunk, InitAckChunk) and not self.lost:
            self.lost += 1
        elif self.other is not None:
            arriving = asyncio.ensure_future(self.other.arrives(data))
            self.on_the_way.add(arriving)
            arriving.add_done_callback(self.on_the_way.discard)

    async def arrives(self, data: bytes) -> None:
        if self.receiver is not None:
            await self.receiver._handle_data(data)
            if self.receiver._association_state == RTCSctpTransport.State.ESTABLISHED:
                self.up.set()


async def test_an_association_comes_up_though_both_init_acks_are_lost() -> None:
    wires = Wire("server"), Wire("client")
    wires[0].other, wires[1].other = wires[1], wires[0]
    ends = [
        RTCSctpTransport(cast(RTCDtlsTransport, wire), port) for wire, port in zip(wires, (1, 2), strict=True)
    ]
    for end in ends:
        mend(end)
        end._rto = 0.02
    for end, other in (ends, ends[::-1]):
        await end.start(RTCSctpCapabilities(maxMessageSize=65536), other.port)
    async with asyncio.timeout(10):
        for wire in wires:
            await wire.up.wait()
    assert [wire.lost for wire in wires] == [1, 1]
    for end in ends:
        await end.stop()
