"""The packets of calls, and what became of them: sizes and spacing of audio and video as WebRTC has them. Pure.

A packet: RTP's first byte, class, u16 call, u32 number, f64 unix seconds when sent, then noise, as SRTP would be.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

AUDIO, VIDEO = 1, 2
_HEADER = struct.Struct("!BBHId")
AUDIO_S, AUDIO_BYTES = 0.020, 122  # Opus at 40 kbit/s, with RTP's header and SRTP's tag
VIDEO_FPS, VIDEO_KBIT, VIDEO_PACKET_BYTES = 30, 900, 1100
KEY_FRAME_EVERY, KEY_FRAME_TIMES = 90, 4


def schedule(seconds: float, seed: int) -> Iterator[tuple[float, int, int]]:
    """One direction of a call: (seconds since its start, class, bytes) in order; packets of a frame leave together."""
    chance = random.Random(seed)
    usual = VIDEO_KBIT * 1000 / 8 / VIDEO_FPS
    audio, frame = 0, 0
    while True:
        audio_at, frame_at = audio * AUDIO_S, frame / VIDEO_FPS
        if min(audio_at, frame_at) >= seconds:
            return
        if audio_at <= frame_at:
            yield audio_at, AUDIO, AUDIO_BYTES
            audio += 1
            continue
        size = usual * chance.uniform(0.6, 1.4) * (KEY_FRAME_TIMES if frame % KEY_FRAME_EVERY == 0 else 1)
        frame += 1
        while size > 0:
            yield frame_at, VIDEO, max(100, min(VIDEO_PACKET_BYTES, round(size)))
            size -= VIDEO_PACKET_BYTES


NOISE = random.Random(1).randbytes(2000)


def packet(class_: int, call: int, number: int, size_bytes: int, unix: float) -> bytes:
    """A packet of `size_bytes`."""
    head = _HEADER.pack(0x80, class_, call, number, unix)
    return head + NOISE[: size_bytes - len(head)]


@dataclass(slots=True)
class Tally:
    """What one class of one direction came to. delays_s: of each that arrived, first copies only, in order.

    first: the number of the first packet that counts.
    """

    first: int = 0
    sent: int = 0
    sent_bytes: int = 0
    arrived: set[int] = field(default_factory=set)
    duplicates: int = 0
    damaged: int = 0
    delays_s: list[float] = field(default_factory=list)

    def came(self, payload: bytes, unix: float) -> None:
        """Count an arrival of this tally's class at `unix` (s)."""
        _, _, _, number, sent = _HEADER.unpack_from(payload)
        if number < self.first:
            return
        if payload[_HEADER.size :] != NOISE[: len(payload) - _HEADER.size]:
            self.damaged += 1
        elif number in self.arrived:
            self.duplicates += 1
        else:
            self.arrived.add(number)
            self.delays_s.append(unix - sent)

    @property
    def residual(self) -> float | None:
        """Share of the sent packets that never came, 0..1; None when none was sent."""
        return 1 - len(self.arrived) / self.sent if self.sent else None


def class_of(payload: bytes) -> int:
    """AUDIO or VIDEO. Raises ValueError for a packet of others."""
    if len(payload) < _HEADER.size or payload[0] != 0x80 or payload[1] not in (AUDIO, VIDEO):
        raise ValueError("not a packet of this load")
    return payload[1]
