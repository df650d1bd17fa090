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
    # Its sender thought that both had been lost, and sends with numbers of its own.
    for number in (20, 21):
        received.repair.append(
            Packet(late.arrival_s + 0.2, 7 + number, late.timestamp, late.size, None, number)
        )
    received.nacks += [(START + 1, 2), (START + 30, 5)]
    received.plis += [START - 5, START + 5]
    got = summary(received)
    assert (got["lost"], got["retransmitted"], got["repaired"], got["unrepaired"]) == (1, 2, 1, 0)
    assert (got["nacks_sent"], got["plis_sent"]) == (2, 1)
    assert got["frame_raw_ms"]["max"] == pytest.approx(281, abs=0.6)


def test_where_a_frames_time_went() -> None:
    received = video()
    # The first packet left 12 ms after the painting, by the sender's own clock, which is an hour ahead of ours.
    received.primary = [
        Packet(
            p.arrival_s,
            p.sequence,
            p.timestamp,
            p.size,
            abs_send(START + 3600 + p.sequence // 2 / 15 + 0.012),
        )
        for p in received.primary
    ]
    received.frames = [
        Frame(f.timestamp, f.decoded_s, ((f.stamp_ms or 0) + 3_600_000) & 0xFFFFFFFF) for f in received.frames
    ]
    got = summary(received)
    assert got["encoder_ms"]["p50"] == pytest.approx(12, abs=0.6)
    assert got["decoder_ms"]["p50"] == pytest.approx(69, abs=0.01)
    assert got["decoded_raw_ms"]["p50"] - got["frame_raw_ms"]["p50"] == pytest.approx(69, abs=0.01)


def test_a_video_that_dies_is_frozen_to_the_end_and_from_the_beginning() -> None:
    received = video()
    received.frames = [f for f in received.frames if f.decoded_s < START + 4]
    assert summary(received)["freezes"]["agora_sdk_500_ms"]["count"] == 1
    assert summary(received)["freezes"]["agora_sdk_500_ms"]["total_ms"] == pytest.approx(6000, abs=70)
    late = summary(received, Window(START + 5, START + 10))
    assert (late["frames"], late["freezes"]["agora_analytics_600_ms"]) == (0, {"count": 1, "total_ms": 5000})
    # Nothing was ever shown that could stand still.
    received.frames = []
    assert summary(received)["freezes"]["agora_sdk_500_ms"]["count"] == 0


def test_loss_of_each_second() -> None:
    got = summary(audio(drop=frozenset(range(100, 125)), delay_s=0.0))["loss_by_second"]
    assert (got["samples"], got["p50"], got["max"]) == (10, 0.0, 0.5)


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


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["came", "lost", "late", "twice"]), min_size=2, max_size=60),
    st.integers(0, 65535),
    st.data(),
)
def test_every_packet_is_counted_once(fates: list[str], first: int, data: st.DataObject) -> None:
    """Any mixture of loss, reordering, duplicates and repairs, around the end of the 16 bits too."""
    fates = ["came", *fates, "came"]
    numbers = list(range(len(fates)))
    order = [n for n in numbers if fates[n] in ("came", "twice")]
    order += [n for n in numbers if fates[n] == "twice"]
    for n in numbers:
        if fates[n] == "late":
            order.insert(data.draw(st.integers(1, len(order) - 1)), n)
    received = Received("audio", 48000)
    for place, n in enumerate(order):
        received.primary.append(Packet(START + 0.02 * place, first + n & 0xFFFF, 960 * n, 100, None))
    lost = [n for n in numbers if fates[n] == "lost"]
    repaired = data.draw(st.sets(st.sampled_from(lost))) if lost else set()
    useless = data.draw(st.sets(st.sampled_from(order)))
    for n in (*repaired, *useless):
        received.repair.append(Packet(START + 2, 9, 960 * n, 100, None, first + n & 0xFFFF))
    got = summary(received)
    assert (got["expected"], got["packets"], got["lost"]) == (
        len(fates),
        len(fates) - len(lost),
        len(lost),
    )
    assert got["duplicates"] == fates.count("twice")
    assert (got["repaired"], got["unrepaired"]) == (len(repaired), len(lost) - len(repaired))
    assert got["retransmitted"] == len(repaired) + len(useless)


@settings(deadline=None)  # time is no property
@given(st.floats(1e9, 2e9), st.floats(-31, 31))
def test_the_24_bit_send_time_gives_the_delay_within_32_s(sent: float, delay: float) -> None:
    got = one_way_raw_ms(Packet(sent + delay, 0, 0, 0, abs_send(sent)))
    assert got == pytest.approx(1000 * delay, abs=0.05)


def test_without_a_send_time_there_is_no_delay() -> None:
    assert one_way_raw_ms(Packet(5.0, 0, 0, 0, None)) is None
