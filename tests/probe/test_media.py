"""The painted time through a real codec, and the tracks' pace."""

from __future__ import annotations

import random

import av
import pytest
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.probe import media
from commcli.probe.profiles import PROFILES

# Bits that change all at once, that are all alike, and that look like nothing.
STAMPS = [0, 0xFFFFFFFF, 0x55555555, 0xAAAAAAAA, 0x0000FFFF, 0xFFFF0000, 1, 0x80000000]


def blank(width: int = 320, height: int = 180) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([100]) * plane.buffer_size)
    return frame


@settings(deadline=None)  # time is no property
@given(st.integers(0, 2**50), st.sampled_from([(320, 180), (256, 32), (160, 120), (128, 64)]))
def test_a_painted_time_reads_back_modulo_2_to_the_32(unix_ms: int, size: tuple[int, int]) -> None:
    frame = blank(*size)
    media.paint(frame, unix_ms)
    assert media.read(frame) == unix_ms & 0xFFFFFFFF


def test_a_picture_without_a_stamp_is_not_read_as_one() -> None:
    assert media.read(blank()) is None
    assert media.read(blank(160, 120)) is None
    assert media.read(blank(64, 48)) is None


def test_one_grey_cell_spoils_the_stamp() -> None:
    frame = blank()
    media.paint(frame, 0x12345678)
    luma, stride = memoryview(frame.planes[0]), frame.planes[0].line_size
    for y in range(16, 32):
        luma[y * stride + 48 : y * stride + 64] = bytes([125]) * 16
    assert media.read(frame) is None


@pytest.mark.parametrize("name", ["weak", "sd", "hd"])
def test_the_stamp_survives_vp8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = PROFILES[name]
    # aiortc offers no other way to set the bitrate than these (the endpoint does the same).
    for limit in ("MIN_BITRATE", "DEFAULT_BITRATE", "MAX_BITRATE"):
        monkeypatch.setattr(f"aiortc.codecs.vpx.{limit}", 1000 * profile.video_kbps)
    track = media.VideoTrack(profile)
    encoder, decoder = Vp8Encoder(), Vp8Decoder()
    chooser = random.Random(7)
    stamps = STAMPS + [chooser.getrandbits(32) for _ in range(60)]
    read: list[int | None] = []
    for number, stamp in enumerate(stamps):
        frame = track.picture(number)
        media.paint(frame, stamp)
        payloads, timestamp = encoder.encode(frame)
        encoded = JitterFrame(b"".join(vp8_depayload(payload) for payload in payloads), timestamp)
        for decoded in decoder.decode(encoded):
            assert isinstance(decoded, av.VideoFrame)
            read.append(media.read(decoded))
    assert read == stamps


@pytest.mark.parametrize("name", ["weak", "sd"])
def test_the_video_costs_about_the_bitrate_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = PROFILES[name]
    for limit in ("MIN_BITRATE", "DEFAULT_BITRATE", "MAX_BITRATE"):
        monkeypatch.setattr(f"aiortc.codecs.vpx.{limit}", 1000 * profile.video_kbps)
    track, encoder = media.VideoTrack(profile), Vp8Encoder()
    sizes = []
    for number in range(6 * profile.fps):
        frame = track.picture(number)
        media.paint(frame, 1000 * number // profile.fps)
        sizes.append(sum(map(len, encoder.encode(frame)[0])))
    assert 8 * sum(sizes) / 6 / 1000 == pytest.approx(profile.video_kbps, rel=0.15)


@pytest.mark.parametrize(("kbps", "packet_ms", "octets"), [(40, 20, 100), (16, 60, 120)])
def test_opus_packets_are_all_of_the_size_that_the_bitrate_asks(
    kbps: int, packet_ms: int, octets: int
) -> None:
    packets = media.opus_loop(kbps, packet_ms)
    assert len(packets) == 1000 // packet_ms
    assert {len(packet) for packet in packets} == {octets}
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", 48000
    decoded = decoder.decode(av.Packet(packets[3]))
    assert [frame.samples for frame in decoded if isinstance(frame, av.AudioFrame)] == [48 * packet_ms]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_keeps_its_schedule_and_does_not_drift() -> None:
    clock = Clock()
    pace = media.Pace(0.1, clock)
    due = []
    for _ in range(5):
        number, wait_s = pace.next()
        clock.now += wait_s + 0.03  # sending takes a while
        due.append((number, round(clock.now - 0.03, 6)))
    assert due == [(0, 100.0), (1, 100.1), (2, 100.2), (3, 100.3), (4, 100.4)]
    assert pace.skipped == 0


def test_a_late_pace_skips_and_does_not_catch_up_in_a_burst() -> None:
    clock = Clock()
    pace = media.Pace(0.1, clock)
    assert pace.next() == (0, 0.0)
    clock.now += 0.35
    assert pace.next() == (3, 0.0)
    assert pace.skipped == 2
    number, wait_s = pace.next()
    assert number == 4
    assert wait_s == pytest.approx(0.05)
