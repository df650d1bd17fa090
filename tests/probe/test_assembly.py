"""Whole frames come out of aiortc's jitter buffer at once."""

from __future__ import annotations

import random

from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from commcli.probe.assembly import whole


def packets_of(sizes: list[int], first: int = 0) -> list[RtpPacket]:
    """One packet after the other of frames of so many packets each; a payload is its packet's number."""
    made: list[RtpPacket] = []
    for frame, size in enumerate(sizes):
        for part in range(size):
            packet = RtpPacket(sequence_number=first + len(made) & 0xFFFF, timestamp=3000 * frame)
            packet.marker = int(part == size - 1)
            packet._data = bytes([len(made)])  # type: ignore[attr-defined]
            made.append(packet)
    return made


def taken(buffer: JitterBuffer, packet: RtpPacket) -> list[JitterFrame]:
    frames = [frame] if (frame := buffer.add(packet)[1]) is not None else []
    while (frame := whole(buffer)) is not None:
        frames.append(frame)
    return frames


def test_an_empty_buffer_has_none() -> None:
    assert whole(JitterBuffer(capacity=16, is_video=True)) is None


def test_a_frame_comes_with_its_last_packet_and_waits_for_no_other() -> None:
    buffer = JitterBuffer(capacity=16, is_video=True)
    first, last, single = packets_of([2, 1])
    assert taken(buffer, first) == []
    assert [frame.data for frame in taken(buffer, last)] == [b"\0\1"]
    assert [frame.data for frame in taken(buffer, single)] == [b"\2"]


def test_all_that_piled_up_behind_a_loss_comes_with_the_repair() -> None:
    buffer = JitterBuffer(capacity=16, is_video=True)
    first, lost, *later = packets_of([1] * 8)
    assert len(taken(buffer, first)) == 1
    assert [taken(buffer, packet) for packet in later] == [[]] * 6
    assert [frame.data for frame in taken(buffer, lost)] == [bytes([n]) for n in range(1, 8)]


def test_a_frame_without_a_marker_ends_where_the_next_begins() -> None:
    buffer = JitterBuffer(capacity=16, is_video=True)
    packets = packets_of([2, 2])
    for packet in packets:
        packet.marker = 0
    assert [len(taken(buffer, packet)) for packet in packets] == [0, 0, 1, 0]


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.integers(0, 65535),
    st.randoms(use_true_random=False),
)
def test_every_frame_comes_once_and_in_order(sizes: list[int], first: int, chance: random.Random) -> None:
    packets = packets_of(sizes, first)
    # What comes first is where the buffer begins.
    order = [packets[0], *chance.sample(packets[1:], len(packets) - 1)]
    buffer = JitterBuffer(capacity=64, is_video=True)
    data = [frame.data for packet in order for frame in taken(buffer, packet)]
    assert b"".join(data) == bytes(range(len(packets)))
    assert [len(frame) for frame in data] == sizes
