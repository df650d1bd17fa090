"""Test media: a video track with the sending time painted into every frame, and a cheap Opus track.

The stamp is 32 cells of 16x16 luma pixels, 235 for a one and 16 for a zero, most significant bit first, on two rows
of 16 at the top left: unix milliseconds modulo 2^32 in 256x32 pixels, which survive VP8 at a few hundred kbit/s.
"""

from __future__ import annotations

import asyncio
import fractions
import math
import random
import time
from collections.abc import Callable

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from commcli.probe.profiles import Profile

CELL = 16
CELLS_PER_ROW = 16
ROWS = 2
BITS = CELLS_PER_ROW * ROWS
STAMP_WIDTH = CELLS_PER_ROW * CELL
STAMP_HEIGHT = ROWS * CELL
_ONE, _ZERO = 235, 16
# A cell's mean must be this near to one of the two, or the stamp is not believed.
_TOLERANCE = 70
# One pixel in this many is noise.
_GRAIN = 100

VIDEO_CLOCK = 90000
AUDIO_CLOCK = 48000
AUDIO_PACKET_S = 0.02
_AUDIO_SAMPLES = int(AUDIO_CLOCK * AUDIO_PACKET_S)


# --- the stamp ------------------------------------------------------------------------------------------------------


def paint(frame: av.VideoFrame, unix_ms: int) -> None:
    """Write `unix_ms` modulo 2^32 into the luma of a yuv420p `frame` of at least 256x32."""
    plane = frame.planes[0]
    stride = plane.line_size
    luma = memoryview(plane)
    bits = f"{unix_ms & 0xFFFFFFFF:0{BITS}b}"
    for row in range(ROWS):
        cells = bits[row * CELLS_PER_ROW : (row + 1) * CELLS_PER_ROW]
        line = b"".join(bytes([_ONE if bit == "1" else _ZERO]) * CELL for bit in cells)
        for y in range(row * CELL, (row + 1) * CELL):
            luma[y * stride : y * stride + STAMP_WIDTH] = line


def read(frame: av.VideoFrame) -> int | None:
    """The painted milliseconds (0..2^32-1), or None when a cell is neither black nor white."""
    if frame.format.name != "yuv420p" or frame.width < STAMP_WIDTH or frame.height < STAMP_HEIGHT:
        return None
    plane = frame.planes[0]
    stride = plane.line_size
    luma = memoryview(plane)
    value = 0
    for cell in range(BITS):
        row, column = divmod(cell, CELLS_PER_ROW)
        mean = _inner_mean(luma, stride, column * CELL, row * CELL)
        if abs(mean - _ONE) <= _TOLERANCE:
            value = value << 1 | 1
        elif abs(mean - _ZERO) <= _TOLERANCE:
            value <<= 1
        else:
            return None
    return value


def _inner_mean(luma: memoryview, stride: int, x: int, y: int) -> float:
    # The inner 8x8 pixels: the codec blurs the edges between cells.
    start = (y + 4) * stride + x + 4
    return sum(sum(luma[start + line * stride : start + line * stride + 8]) for line in range(8)) / 64


# --- tracks ---------------------------------------------------------------------------------------------------------


class Pace:
    """When the next frame is due, on a schedule of its own: a late frame is skipped, not sent in a burst."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = interval_s
        self.skipped = 0
        self._clock = clock
        self._start: float | None = None
        self._number = -1

    def next(self) -> tuple[int, float]:
        """(number of the next frame, seconds until it is due)."""
        now = self._clock()
        if self._start is None:
            self._start = now
        self._number += 1
        late = int((now - self._start) / self.interval_s - self._number)
        if late > 0:
            self.skipped += late
            self._number += late
        return self._number, max(0.0, self._start + self._number * self.interval_s - now)


class VideoTrack(MediaStreamTrack):
    """A moving test picture; `sent` holds (unix seconds when painted, ms until aiortc asked for the next)."""

    kind = "video"

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.sent: list[tuple[float, float | None]] = []
        self._pace = Pace(1 / profile.fps)
        self._ticks = VIDEO_CLOCK // profile.fps
        self._pictures = _pictures(profile.width, profile.height)
        self._size = (profile.width, profile.height)

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        # aiortc encodes and sends a frame before it asks for the next: that time is the sender's share of the delay.
        if self.sent and self.sent[-1][1] is None:
            painted = self.sent[-1][0]
            self.sent[-1] = (painted, 1000 * (time.time() - painted))
        number, wait_s = self._pace.next()
        await asyncio.sleep(wait_s)
        frame = self.picture(number)
        now = time.time()
        paint(frame, int(now * 1000))
        self.sent.append((now, None))
        return frame

    def picture(self, number: int) -> av.VideoFrame:
        """Picture `number` of the video, without a stamp."""
        frame = av.VideoFrame(*self._size, "yuv420p")
        for plane, content in zip(frame.planes, self._pictures[number % len(self._pictures)], strict=True):
            plane.update(content)
        frame.pts = number * self._ticks
        frame.time_base = fractions.Fraction(1, VIDEO_CLOCK)
        return frame


def _pictures(width: int, height: int, count: int = 8) -> list[list[bytes]]:
    """`count` pictures' planes: a gradient with grain that changes, so that the encoder has its bitrate to spend."""
    grain = random.Random(1)
    ramp = bytes(40 + n % 160 for n in range(width + height + 16 * count))
    pictures = []
    for number in range(count):
        frame = av.VideoFrame(width, height, "yuv420p")
        stride = frame.planes[0].line_size
        luma = bytearray(stride * height)
        for y in range(height):
            luma[y * stride : y * stride + width] = ramp[y + 16 * number :][:width]
        for _ in range(width * height // _GRAIN):
            luma[grain.randrange(len(luma))] = grain.randrange(16, 236)
        chroma = [bytes([128]) * plane.buffer_size for plane in frame.planes][1:]
        pictures.append([bytes(luma), *chroma])
    return pictures


class AudioTrack(MediaStreamTrack):
    """A two-tone signal, encoded once at constant bitrate and played in a loop: a packet costs next to nothing."""

    kind = "audio"

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.sent = 0
        self._pace = Pace(AUDIO_PACKET_S)
        self._packets = opus_loop(profile.audio_kbps)

    async def recv(self) -> av.Packet[av.stream.Stream]:
        if self.readyState != "live":
            raise MediaStreamError
        number, wait_s = self._pace.next()
        await asyncio.sleep(wait_s)
        packet = av.Packet(self._packets[number % len(self._packets)])
        packet.pts = number * _AUDIO_SAMPLES
        packet.time_base = fractions.Fraction(1, AUDIO_CLOCK)
        self.sent += 1
        return packet


def opus_loop(kbps: int, seconds: float = 1.0) -> list[bytes]:
    """Opus packets of 20 ms, all of the same size, that sound for `seconds`."""
    codec = av.CodecContext.create("libopus", "w")
    codec.bit_rate = 1000 * kbps
    codec.format = "s16"
    codec.layout = "mono"
    codec.sample_rate = AUDIO_CLOCK
    codec.time_base = fractions.Fraction(1, AUDIO_CLOCK)
    codec.options = {"application": "voip", "vbr": "off"}
    packets: list[bytes] = []
    for number in range(int(seconds / AUDIO_PACKET_S)):
        packets += [bytes(packet) for packet in codec.encode(_tone(number * _AUDIO_SAMPLES))]
    return packets


def _tone(first_sample: int) -> av.AudioFrame:
    samples = bytearray()
    for n in range(first_sample, first_sample + _AUDIO_SAMPLES):
        level = math.sin(2 * math.pi * 440 * n / AUDIO_CLOCK) + math.sin(2 * math.pi * 1250 * n / AUDIO_CLOCK)
        samples += int(6000 * level).to_bytes(2, "little", signed=True)
    frame = av.AudioFrame(format="s16", layout="mono", samples=_AUDIO_SAMPLES)
    frame.planes[0].update(bytes(samples))
    frame.sample_rate = AUDIO_CLOCK
    frame.pts = first_sample
    frame.time_base = fractions.Fraction(1, AUDIO_CLOCK)
    return frame
