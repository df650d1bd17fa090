"""The figures of one received stream, from packets and frames that were made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.probe.stream import Frame, Packet, Received, Window, one_way_raw_ms, summarize

START = 1_700_000_000.0
WINDOW = Window(START, START + 10)


def abs_send(unix: float) -> int:
    return int(unix % 64 * (1 << 18)) & 0xFFFFFF


def audio(delay_s: float = 0.05, drop: frozenset[int] = frozenset(), count: int = 500) -> Received:
    received = Received("audio", 48000)
    for number in range(count):
        sent = START + 0.02 * number
        if number not in drop:
            received.primary.append(
                Packet(sent + delay_s, 65000 + number & 0xFFFF, 960 * number, 100, abs_send(sent))
            )
    return received


def video(delay_s: float = 0.08, count: int = 150, stamp_slip_ms: int = 0) -> Received:
    received = Received("video", 90000)
    for number in range(count):
        sent, timestamp = START + number / 15, (0xFFFF0000 + 6000 * number) & 0xFFFFFFFF
        for part in range(2):
            at = sent + delay_s + 0.001 * part
            received.primary.append(Packet(at, (2 * number + part) & 0xFFFF, timestamp, 500, abs_send(sent)))
        stamp = (int(sent * 1000) - (stamp_slip_ms if number == 70 else 0)) & 0xFFFFFFFF
        received.frames.append(Frame(timestamp, sent + delay_s + 0.07, stamp))
    return received


def summary(received: Received, window: Window = WINDOW) -> dict[str, Any]:
    got = summarize(received, window)
    assert got is not None
    return got


def test_audio() -> None:
    got = summary(audio(drop=frozenset({100, 101, 102, 300})))
    assert (got["expected"], got["lost"], got["longest_loss_burst"]) == (498, 4, 3)
    assert got["loss"] == pytest.approx(4 / 498)
    assert got["one_way_raw_ms"]["p50"] == pytest.approx(50, abs=0.01)
    assert got["longest_gap"]["ms"] == pytest.approx(80, abs=0.01)
    assert got["longest_gap"]["at_s"] == pytest.approx(START + 0.05 + 0.02 * 99)
    assert got["bitrate_kbps"] == pytest.approx(8 * 494 * 100 / 10 / 1000)


def test_nothing_of_the_other_time_counts() -> None:
    assert summarize(audio(), Window(START - 100, START - 90)) is None
    assert summary(audio(), Window(START, START + 1.05))["expected"] == 50


def test_a_stream_that_dies_shows_its_silence() -> None:
    got = summary(audio(count=100))
    assert got["longest_gap"]["ms"] == pytest.approx(10_000 - 50 - 99 * 20, abs=1)
    assert got["gaps_over_200_ms"]["count"] == 1


def test_video_frame_delay_runs_to_the_last_packet() -> None:
    got = summary(video())
    # The stamp is cut to whole milliseconds, so half of one either way.
    assert got["frame_raw_ms"]["p50"] == pytest.approx(81, abs=0.6)
    assert got["decoded_raw_ms"]["p50"] == pytest.approx(150, abs=0.6)
    assert got["stamps_unreadable"] == 0
    assert got["freezes"]["webrtc"]["count"] == 0


def test_a_repaired_frame_is_complete_when_the_repair_came() -> None:
    received = video()
    late = received.primary.pop(21)  # the second packet of frame 10
    received.repair.append(Packet(late.arrival_s + 0.2, 7, late.timestamp, late.size, None))
    got = summary(received)
    assert (got["lost"], got["repaired"]) == (1, 1)
    assert got["frame_raw_ms"]["max"] == pytest.approx(281, abs=0.6)


def test_a_stamp_from_a_damaged_picture_is_not_believed() -> None:
    got = summary(video(stamp_slip_ms=5000))
    assert got["stamps_unreadable"] == 1
    assert got["frame_raw_ms"]["max"] < 100


def test_frames_without_a_readable_stamp_still_count_as_frames() -> None:
    received = video()
    received.frames = [Frame(frame.timestamp, frame.decoded_s, None) for frame in received.frames]
    got = summary(received)
    assert got["frames"] == got["stamps_unreadable"] == 148
    assert got["frame_raw_ms"] == {
        "samples": 0,
        "min": None,
        "p50": None,
        "p95": None,
        "p99": None,
        "max": None,
    }


@settings(deadline=None)  # time is no property
@given(st.floats(1e9, 2e9), st.floats(-31, 31))
def test_the_24_bit_send_time_gives_the_delay_within_32_s(sent: float, delay: float) -> None:
    got = one_way_raw_ms(Packet(sent + delay, 0, 0, 0, abs_send(sent)))
    assert got == pytest.approx(1000 * delay, abs=0.05)


def test_without_a_send_time_there_is_no_delay() -> None:
    assert one_way_raw_ms(Packet(5.0, 0, 0, 0, None)) is None
