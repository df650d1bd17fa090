"""Pictures to the decoder as soon as they are whole, as browsers do.

aiortc gives out a frame when the next one's first packet is there, and one for each packet: every picture comes a frame
late, and where a frame is one packet, those that piled up behind a loss stay late for the rest of the call.
"""

from __future__ import annotations

from typing import Any

from aiortc.jitterbuffer import JitterFrame


class Assembly:
    """Takes whole frames out of the jitter buffer of `receiver` (an RTCRtpReceiver of video) and has them decoded."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver

    def release(self, payload_type: int) -> None:
        """After aiortc has had a packet; `payload_type`: of the video itself, also where that packet was sent again."""
        receiver = self._receiver
        codec = receiver._RTCRtpReceiver__codecs.get(payload_type)
        while codec is not None and (frame := whole(receiver._RTCRtpReceiver__jitter_buffer)) is not None:
            if receiver._RTCRtpReceiver__decoder_thread is None:
                return
            frame.timestamp = receiver._RTCRtpReceiver__timestamp_mapper.map(frame.timestamp)
            receiver._RTCRtpReceiver__decoder_queue.put((codec, frame))


def whole(buffer: Any) -> JitterFrame | None:
    """The first frame of a jitter buffer, taken out, if all of it is there: its last packet has the marker (RFC 3551),
    or the next frame follows.
    """
    packets: list[Any] = []
    for place in range(buffer.capacity if buffer._origin is not None else 0):
        packet = buffer._packets[(buffer._origin + place) % buffer.capacity]
        if packet is None:
            return None
        ended = bool(packets) and packet.timestamp != packets[0].timestamp
        if not ended:
            packets.append(packet)
        if ended or packet.marker:
            break
    else:
        return None
    buffer.remove(len(packets))
    return JitterFrame(b"".join(packet._data for packet in packets), packets[0].timestamp)
