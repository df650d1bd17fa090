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

from commcli.probe.assembly import Assembly
from commcli.probe.description import repair_ssrcs
from commcli.probe.feedback import Feedback
from commcli.probe.stream import Frame, Packet, Received

_ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_CLOCK_RATES = {"audio": 48000, "video": 90000}


class Tap:
    """Records what `receiver` is given, before aiortc does anything with it.

    `feedback`: who asks for what is lost; `assembly`: who takes out what is whole.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        kind: str,
        feedback: Feedback | None = None,
        assembly: Assembly | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.received = Received(kind, _CLOCK_RATES[kind])
        self.feedback = feedback
        if feedback is not None:
            self.received.nacks, self.received.plis = feedback.nacks, feedback.plis
        self.first_packet_s: float | None = None
        self.first_packet = asyncio.Event()
        self._receiver = receiver
        self._repair_ssrcs: frozenset[int] = frozenset()
        self._ssrc: int | None = None
        self._payload_type: int | None = None
        self._assembly = assembly
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

    def frame(self, frame: Frame) -> None:
        """A picture came out of the decoder."""
        if self.feedback is None or self.feedback.frame():
            self.received.frames.append(frame)

    async def _packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        now = self._clock()
        if self.first_packet_s is None:
            self.first_packet_s = now
            self.first_packet.set()
        size = len(packet.payload) + packet.padding_size
        sent, repair = packet.extensions.abs_send_time, packet.ssrc in self._repair_ssrcs
        original = int.from_bytes(packet.payload[:2], "big") if repair else None
        record = Packet(now, packet.sequence_number, packet.timestamp, size, sent, original)
        (self.received.repair if repair else self.received.primary).append(record)
        self._tell_feedback(packet, original)
        if original is not None and self.feedback is not None and self.feedback.is_past(original):
            return
        await self._inner(packet, arrival_time_ms)
        if self._assembly is not None and self._payload_type is not None:
            self._assembly.release(self._payload_type)

    def _tell_feedback(self, packet: RtpPacket, original: int | None) -> None:
        if original is None:
            self._ssrc, self._payload_type = packet.ssrc, packet.payload_type
        if self.feedback is None or self._ssrc is None:
            return
        if original is None:
            self.feedback.packet(self._ssrc, packet.sequence_number, packet.payload)
        else:
            # RFC 4588 4: the payload begins with the number that the packet had at first.
            self.feedback.packet(self._ssrc, original, packet.payload[2:])


def send_times_on_audio() -> None:
    """Have aiortc write abs-send-time on audio packets too, so that audio's one-way delay can be measured.

    Must run before a peer connection is made; the identifier is the one that aiortc gives it on video (BUNDLE
    shares the numbers).
    """
    video = next(extension for extension in HEADER_EXTENSIONS["video"] if extension.uri == _ABS_SEND_TIME)
    if video not in HEADER_EXTENSIONS["audio"]:
        HEADER_EXTENSIONS["audio"].append(video)
