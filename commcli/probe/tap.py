"""A tap on the RTP input of an aiortc receiver: every packet's sequence, timestamp and arrival, per SSRC.

aiortc's own statistics share one row among all SSRCs of a receiver (after the first repair packet the video row is
the repair stream's), count jitter in clock units, and see packets after the loop's work on them. So we look first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiortc import RTCRtpReceiver
from aiortc.codecs import HEADER_EXTENSIONS
from aiortc.rtp import RtpPacket

from commcli.probe.description import repair_ssrcs
from commcli.probe.stream import Packet, Received

_ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_CLOCK_RATES = {"audio": 48000, "video": 90000}


class Tap:
    """Records what `receiver` is given, before aiortc does anything with it."""

    def __init__(self, receiver: RTCRtpReceiver, kind: str, clock: Callable[[], float] = time.time) -> None:
        self.received = Received(kind, _CLOCK_RATES[kind])
        self.first_packet_s: float | None = None
        self.first_packet = asyncio.Event()
        self._receiver = receiver
        self._repair_ssrcs: frozenset[int] = frozenset()
        self._clock = clock
        self._inner = receiver._handle_rtp_packet
        # The transport looks the method up on the receiver for each packet, so an instance attribute is enough.
        receiver._handle_rtp_packet = self._packet  # type: ignore[method-assign]

    def expect_repair(self, sdp: str) -> None:
        """Learn from the remote description which SSRCs carry retransmissions."""
        self._repair_ssrcs = repair_ssrcs(sdp)

    def rtp_timestamp(self, pts: int) -> int:
        """The RTP timestamp of a decoded frame: aiortc counts `pts` from the first frame that it decoded."""
        mapper = self._receiver._RTCRtpReceiver__timestamp_mapper  # type: ignore[attr-defined]
        origin: int = mapper._origin or 0
        return (pts + origin) & 0xFFFFFFFF

    async def _packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        now = self._clock()
        if self.first_packet_s is None:
            self.first_packet_s = now
            self.first_packet.set()
        size = len(packet.payload) + packet.padding_size
        record = Packet(now, packet.sequence_number, packet.timestamp, size, packet.extensions.abs_send_time)
        repair = packet.ssrc in self._repair_ssrcs
        (self.received.repair if repair else self.received.primary).append(record)
        await self._inner(packet, arrival_time_ms)


def send_times_on_audio() -> None:
    """Have aiortc write abs-send-time on audio packets too, so that audio's one-way delay can be measured.

    Must run before a peer connection is made; the identifier is the one that aiortc gives it on video (BUNDLE
    shares the numbers).
    """
    video = next(extension for extension in HEADER_EXTENSIONS["video"] if extension.uri == _ABS_SEND_TIME)
    if video not in HEADER_EXTENSIONS["audio"]:
        HEADER_EXTENSIONS["audio"].append(video)
