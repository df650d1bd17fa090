from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.clients.framing import MAX_REQUEST, FrameError, Frames
from commcli.relay.turn import stun
from commcli.relay.turn.allocation import CHANNEL_HIGH, CHANNEL_LOW
from tests.relay.stream_world import BINDING, channel_data

SEND = stun.build(stun.SEND, stun.INDICATION, b"s" * 12, [(stun.DATA, b"x" * 33)])


def drain(frames: Frames, data: bytes, most: int = 64) -> list[bytes]:
    found = frames.feed(data, most)
    while frames.more:
        found += frames.feed(most=most)
    return found


a_frame = st.one_of(
    st.builds(channel_data, st.binary(max_size=200), st.integers(CHANNEL_LOW, CHANNEL_HIGH)),
    st.builds(
        lambda method, payload: stun.build(method, stun.INDICATION, b"t" * 12, [(stun.DATA, payload)]),
        st.sampled_from([stun.BINDING, stun.SEND, stun.CHANNEL_BIND]),
        st.binary(max_size=200),
    ),
)


@given(st.lists(a_frame, max_size=12), st.data(), st.integers(1, 5))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[bytes], data: st.DataObject, most: int
) -> None:
    stream = b"".join(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    frames, found = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += drain(frames, stream[start:end], most)
    assert found == sent
    assert len(frames) == 0


@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 70))
def test_whatever_comes_only_a_frame_error_comes_of_it_and_little_is_kept(
    junk: bytes, step: int, limit: int
) -> None:
    frames = Frames(limit)
    try:
        for at in range(0, len(junk), step):
            for frame in drain(frames, junk[at : at + step]):
                assert 4 <= len(frame) <= limit
            assert len(frames) < max(limit, 8)
    except FrameError as error:
        assert str(error) in {"type", "cookie", "length", "oversize"}


@pytest.mark.parametrize(
    ("junk", "word"),
    [
        (b"\x80\x00\x00\x00", "type"),
        (b"\xff" * 4, "type"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "length"),  # a TLS ClientHello
        (b"\x00\x01\x00\x00\x21\x12\xa4\x43", "cookie"),
        (b"\x00\x01\x00\x00\x22", "cookie"),  # known before the whole cookie is here
        (b"\x00\x01\x00\x02", "length"),
    ],
)
def test_what_can_not_be_turn_is_an_error_as_soon_as_it_can_be_told(junk: bytes, word: str) -> None:
    with pytest.raises(FrameError, match=word):
        Frames().feed(junk)


def test_an_error_waits_for_the_frames_before_it() -> None:
    frames = Frames()
    assert frames.feed(BINDING + SEND + b"\xff\xff\xff\xff") == [BINDING, SEND]
    assert frames.more
    with pytest.raises(FrameError, match="type"):
        frames.feed()


def test_a_limit_refuses_by_the_header_alone_and_may_be_raised_between_two_frames() -> None:
    large = channel_data(b"x" * 5000)
    frames = Frames(MAX_REQUEST)
    with pytest.raises(FrameError, match="oversize"):
        frames.feed(large[:4])
    frames = Frames(MAX_REQUEST)
    assert frames.feed(BINDING + large) == [BINDING]  # this one made the allocation, say
    frames.limit = 1 << 16
    assert frames.feed() == [large]


def test_a_web_browser_is_no_client() -> None:
    # "GE" is a channel number; but nobody without an allocation has 21 kB to send.
    with pytest.raises(FrameError, match="oversize"):
        Frames(MAX_REQUEST).feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def test_many_small_frames_come_in_portions() -> None:
    frames = Frames()
    stream = channel_data(b"") * 150
    assert len(frames.feed(stream)) == 64
    assert frames.more
    assert len(frames.feed()) == 64
    assert len(frames.feed()) == 22
    assert not frames.more


def test_padding_belongs_to_the_frame() -> None:
    frames = Frames()
    assert frames.feed(b"\x40\x00\x00\x01x") == []
    assert len(frames) == 5
    assert frames.feed(b"\0\0\0") == [b"\x40\x00\x00\x01x\0\0\0"]
