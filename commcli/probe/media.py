"""Test media: a video track with the sending time painted into every frame, and a cheap Opus track.

The stamp is 32 cells of 16x16 luma pixels, 235 for a one and 16 for a zero, most significant bit first, at the top
left: unix milliseconds modulo 2^32 on two rows of 16, or on four rows of 8 where a picture is too narrow for that. A
cell is a macroblock of VP8's, so that it survives at little bitrate.
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
BITS = 32
_ONE, _ZERO = 235, 16
# A cell's mean must be this near to one of the two, or the stamp is not believed.
_TOLERANCE = 70
# One pixel in this many is noise.
_GRAIN = 100

VIDEO_CLOCK = 90000
AUDIO_CLOCK = 48000
_AUDIO_SAMPLES_A_MS = AUDIO_CLOCK // 1000


# --- the stamp ------------------------------------------------------------------------------------------------------


def _cells_a_row(width: int) -> int:
    return 16 if width >= 16 * CELL else 8


def paint(frame: av.VideoFrame, unix_ms: int) -> None:
    """Write `unix_ms` modulo 2^32 into the luma of a yuv420p `frame` of at least 256x32 or 128x64."""
    plane = frame.planes[0]
    stride = plane.line_size
    luma = memoryview(plane)
    bits = f"{unix_ms & 0xFFFFFFFF:0{BITS}b}"
    columns = _cells_a_row(frame.width)
    for row in range(BITS // columns):
        cells = bits[row * columns : (row + 1) * columns]
        line = b"".join(bytes([_ONE if bit == "1" else _ZERO]) * CELL for bit in cells)
        for y in range(row * CELL, (row + 1) * CELL):
            luma[y * stride : y * stride + len(line)] = line


def read(frame: av.VideoFrame) -> int | None:
    """The painted milliseconds (0..2^32-1), or None when a cell is neither black nor white."""
    columns = _cells_a_row(frame.width)
    too_small = frame.width < columns * CELL or frame.height < BITS // columns * CELL
    if frame.format.name != "yuv420p" or too_small:
        return None
    plane = frame.planes[0]
    stride = plane.line_size
    luma = memoryview(plane)
    value = 0
    for cell in range(BITS):
        row, column = divmod(cell, columns)
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
        self.interval_s = profile.audio_packet_ms / 1000
        self._pace = Pace(self.interval_s)
        self._samples = profile.audio_packet_ms * _AUDIO_SAMPLES_A_MS
        self._packets = opus_loop(profile.audio_kbps, profile.audio_packet_ms)

    async def recv(self) -> av.Packet[av.stream.Stream]:
        if self.readyState != "live":
            raise MediaStreamError
        number, wait_s = self._pace.next()
        await asyncio.sleep(wait_s)
        packet = av.Packet(self._packets[number % len(self._packets)])
        packet.pts = number * self._samples
        packet.time_base = fractions.Fraction(1, AUDIO_CLOCK)
        self.sent += 1
        return packet


def opus_loop(kbps: int, packet_ms: int = 20, seconds: float = 1.0) -> list[bytes]:
    """Opus packets of `packet_ms` (20, 40 or 60), all of the same size, that sound for about `seconds`."""
    codec = av.CodecContext.create("libopus", "w")
    codec.bit_rate = 1000 * kbps
    codec.format = "s16"
    codec.layout = "mono"
    codec.sample_rate = AUDIO_CLOCK
    codec.time_base = fractions.Fraction(1, AUDIO_CLOCK)
    codec.options = {"application": "voip", "vbr": "off", "frame_duration": str(packet_ms)}
    packets: list[bytes] = []
    samples = packet_ms * _AUDIO_SAMPLES_A_MS
    for number in range(int(1000 * seconds / packet_ms)):
        packets += [bytes(packet) for packet in codec.encode(_tone(number * samples, samples))]
    return packets


def _tone(first_sample: int, samples: int) -> av.AudioFrame:
    wave = bytearray()
    for n in range(first_sample, first_sample + samples):
        level = math.sin(2 * math.pi * 440 * n / AUDIO_CLOCK) + math.sin(2 * math.pi * 1250 * n / AUDIO_CLOCK)
        wave += int(6000 * level).to_bytes(2, "little", signed=True)
    frame = av.AudioFrame(format="s16", layout="mono", samples=samples)
    frame.planes[0].update(bytes(wave))
    frame.sample_rate = AUDIO_CLOCK
    frame.pts = first_sample
    frame.time_base = fractions.Fraction(1, AUDIO_CLOCK)
    return frame
