"""Asking for lost packets again, and for a key frame when that does not help."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
from collections.abc import Awaitable, Callable

import av
import pytest
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from commcli.probe import media
from commcli.probe.feedback import (
    FRAME_WAIT_S,
    MOST_PACKETS,
    MOST_TIMES,
    Feedback,
    Missing,
    Stall,
    starts_key_frame,
)
from commcli.probe.profiles import PROFILES


def fed(*numbers: int) -> Missing:
    missing = Missing()
    for number in numbers:
        missing.came(number)
    return missing


def test_a_loss_is_asked_for_at_once_and_then_once_a_round_trip() -> None:
    missing = fed(10, 13)
    assert missing.due(5.0, 0.2) == [11, 12]
    assert missing.due(5.1, 0.2) == []
    assert missing.due(5.26, 0.2) == [11, 12]
    assert not missing.came(12)
    assert missing.due(5.6, 0.2) == [11]
    missing.came(11)
    assert not missing


def test_nothing_is_asked_for_for_ever() -> None:
    missing = fed(1, 3)
    asked = [missing.due(float(second), 0.1) for second in range(30)]
    assert asked[: MOST_TIMES + 1] == [[2]] * MOST_TIMES + [[]]
    assert not missing


def test_an_endless_gap_is_not_kept_whole() -> None:
    missing = fed(0, 30_000)
    assert len(missing.due(0.0, 0.1)) == MOST_PACKETS


@given(st.integers(0, 65535), st.lists(st.booleans(), min_size=1, max_size=200))
def test_what_is_missing_is_what_did_not_come(first: int, came: list[bool]) -> None:
    fates = [True, *came, True]
    missing = fed(*(first + place & 0xFFFF for place, here in enumerate(fates) if here))
    assert missing.due(0.0, 0.1) == sorted(
        first + place & 0xFFFF for place, here in enumerate(fates) if not here
    )


def test_a_key_frame_is_asked_for_when_no_picture_came_for_long() -> None:
    stall = Stall(100.0)
    assert not stall.due(100.0 + FRAME_WAIT_S - 0.01)
    stall.moved(102.0)
    assert not stall.due(104.9)
    assert [stall.due(105.0), stall.due(105.1), stall.due(105.2)] == [True, False, True]
    stall.moved(105.3)
    assert not stall.waiting and not stall.due(105.4)


def test_a_key_frame_is_known_by_its_first_packet() -> None:
    track, encoder = media.VideoTrack(PROFILES["hd"]), Vp8Encoder()
    key, delta = (encoder.encode(track.picture(number))[0] for number in (0, 1))
    assert len(key) > 1
    assert [starts_key_frame(payload) for payload in key] == [True] + [False] * (len(key) - 1)
    assert not any(starts_key_frame(payload) for payload in delta)
    assert not starts_key_frame(b"")


class Receiver:
    """The parts of aiortc's RTCRtpReceiver that are reached into."""

    def __init__(self) -> None:
        self._RTCRtpReceiver__nack_generator = object()
        self._RTCRtpReceiver__jitter_buffer = JitterBuffer(capacity=512, is_video=True)
        self.nacks: asyncio.Queue[list[int]] = asyncio.Queue()
        self.plis: asyncio.Queue[int] = asyncio.Queue()

    async def _send_rtcp_nack(self, ssrc: int, lost: list[int]) -> None:
        self.nacks.put_nowait(lost)

    async def _send_rtcp_pli(self, ssrc: int) -> None:
        self.plis.put_nowait(ssrc)

    def add(self, number: int, timestamp: int, payload: bytes) -> object:
        packet = RtpPacket(sequence_number=number, timestamp=timestamp)
        packet._data = payload  # type: ignore[attr-defined]
        return self._RTCRtpReceiver__jitter_buffer.add(packet)[1]


def test_aiortcs_parts_are_where_we_reach_for_them() -> None:
    from aiortc import RTCRtpReceiver

    known = vars(RTCRtpReceiver)
    assert {"_send_rtcp_nack", "_send_rtcp_pli"} <= known.keys()
    names = known["__init__"].__code__.co_names
    assert {"_RTCRtpReceiver__nack_generator", "_RTCRtpReceiver__jitter_buffer"} <= set(names)


async def running(feedback: Feedback, wait: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(feedback.run())
    try:
        await asyncio.wait_for(wait(), 10)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_loss_goes_out_and_is_counted() -> None:
    receiver = Receiver()
    feedback = Feedback(receiver, lambda: 60.0)
    for number in (1, 2, 5):
        feedback.packet(77, number, b"")
    await running(feedback, receiver.nacks.get)
    assert [count for _, count in feedback.nacks] == [2]
    assert receiver._RTCRtpReceiver__nack_generator is None


async def test_a_key_frame_frees_the_jitter_buffer() -> None:
    now = [0.0]
    receiver = Receiver()
    feedback = Feedback(receiver, lambda: None, clock=lambda: now[0])
    feedback.packet(77, 9, b"")
    receiver.add(9, 900, b"a")
    # 10 is lost for good; frames pile up behind it.
    for number in (11, 12):
        feedback.packet(77, number, b"")
        assert receiver.add(number, 100 * number, b"b") is None or number == 11
    now[0] = FRAME_WAIT_S
    await running(feedback, receiver.plis.get)
    key = key_frame()
    feedback.packet(77, 13, key)
    receiver.add(13, 1300, key)
    out = receiver.add(14, 1400, b"c")
    assert getattr(out, "timestamp", None) == 1300
    assert len(feedback.plis) == 1


def test_what_was_given_up_does_not_start_the_stream_anew() -> None:
    receiver = Receiver()
    feedback = Feedback(receiver, lambda: None)
    assert not feedback.is_past(5)
    feedback.packet(77, 65535, b"")
    receiver.add(65535, 900, b"a")
    assert [feedback.is_past(number) for number in (65534, 65535, 0, 400)] == [True, False, False, False]


def test_pictures_made_from_others_that_never_came_do_not_count() -> None:
    now = [0.0]
    receiver = Receiver()
    feedback = Feedback(receiver, lambda: None, clock=lambda: now[0])
    feedback.packet(77, 9, b"")
    receiver.add(9, 900, b"a")
    assert feedback.frame()
    feedback.packet(77, 9 + 512, b"")
    receiver.add(9 + 512, 1900, b"b")
    assert not feedback.frame()
    feedback.packet(77, 9 + 513, key_frame())
    assert feedback.frame()


def key_frame() -> bytes:
    frame = av.VideoFrame(160, 120, "yuv420p")
    frame.pts, frame.time_base = 0, fractions.Fraction(1, 90000)
    payloads, _ = Vp8Encoder().encode(frame)
    return payloads[0]


@pytest.mark.parametrize("payload", [b"\x90", b"\x90\x80", b"\x10\x01"])
def test_a_damaged_payload_is_no_key_frame(payload: bytes) -> None:
    assert not starts_key_frame(payload)
