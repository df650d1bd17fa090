from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.clients.backlog import BATCH_BYTES, BATCH_FRAMES, FRAME_COST, Backlog, is_media
from commcli.relay.turn import stun
from tests.relay.stream_world import BINDING, channel_data


def media(number: int, size: int = 100) -> bytes:
    return channel_data(number.to_bytes(4, "big") + bytes(size - 4))


def sent_all(backlog: Backlog, now: float = 0.0) -> bytes:
    found = b""
    while len(backlog):
        piece = b"".join(backlog.batch())
        backlog.sent(len(piece), now)
        found += piece
    return found


def test_replies_are_no_media() -> None:
    assert is_media(media(1))
    assert is_media(stun.build(stun.DATA_METHOD, stun.INDICATION, b"t" * 12))
    assert not is_media(BINDING)
    assert not is_media(stun.build(stun.REFRESH, stun.SUCCESS, b"t" * 12))


def test_the_oldest_media_goes_and_replies_stay_and_go_first() -> None:
    backlog = Backlog(3 * (104 + FRAME_COST) + len(BINDING) + FRAME_COST, 9.0, 0.0)
    dropped = [backlog.put(media(n), 0.0) for n in range(3)]
    assert [*dropped, backlog.put(BINDING, 0.0), backlog.put(media(3), 0.0)] == [0, 0, 0, 0, 1]
    assert sent_all(backlog) == BINDING + media(1) + media(2) + media(3)


def test_a_frame_that_has_begun_is_finished() -> None:
    backlog = Backlog(2 * (104 + FRAME_COST), 9.0, 0.0)
    backlog.put(media(0), 0.0)
    assert backlog.batch() == [media(0)]
    backlog.sent(10, 0.0)
    for n in range(1, 9):
        backlog.put(media(n), 0.0)
    assert backlog.drop_stale(99.0) > 0
    backlog.put(BINDING, 99.0)
    assert sent_all(backlog) == media(0)[10:] + BINDING


def test_old_media_is_not_sent() -> None:
    backlog = Backlog(1 << 20, 2.0, 0.0)
    backlog.put(media(0), 0.0)
    backlog.put(BINDING, 0.0)
    backlog.put(media(1), 1.5)
    assert backlog.drop_stale(2.0) == 1
    assert sent_all(backlog, 2.0) == BINDING + media(1)
    assert backlog.size == 0


def test_moved_tells_when_the_client_last_took_something() -> None:
    backlog = Backlog(1 << 20, 2.0, 5.0)
    backlog.put(media(0), 6.0)
    backlog.sent(0, 7.0)
    assert backlog.moved == 5.0
    backlog.batch()
    backlog.sent(1, 8.0)
    assert backlog.moved == 8.0


def test_tiny_frames_count_for_what_they_cost() -> None:
    backlog = Backlog(1 << 14, 9.0, 0.0)
    for _ in range(10_000):
        backlog.put(channel_data(b""), 0.0)
    assert len(backlog) <= (1 << 14) // FRAME_COST


def test_a_batch_is_bounded() -> None:
    backlog = Backlog(1 << 30, 9.0, 0.0)
    for n in range(1000):
        backlog.put(media(n), 0.0)
    assert len(backlog.batch()) == BATCH_FRAMES
    for n in range(50):
        backlog.put(media(n, 60_000), 0.0)
    backlog.sent(1000 * 104, 0.0)
    assert len(b"".join(backlog.batch())) < BATCH_BYTES + 61_000


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(4, 300)),
            st.tuples(st.just("reply"), st.just(0)),
            st.tuples(st.just("sent"), st.integers(0, 2000)),
        ),
        max_size=60,
    )
)
def test_no_frame_is_ever_torn_and_none_changes_places_with_its_kind(steps: list[tuple[str, int]]) -> None:
    backlog = Backlog(3000, 9.0, 0.0)
    wire, numbers = bytearray(), 0
    for step, size in steps:
        if step == "put":
            backlog.put(media(numbers, size), 0.0)
            numbers += 1
        elif step == "reply":
            backlog.put(BINDING, 0.0)
        else:
            batch = b"".join(backlog.batch())
            count = min(size, len(batch))
            wire += batch[:count]
            backlog.sent(count, 0.0)
        assert backlog.media_bytes == 0 or backlog.size <= 3000
    wire += sent_all(backlog)
    found: list[int] = []
    at = 0
    while at < len(wire):
        if wire[at : at + 20] == BINDING:
            at += 20
            continue
        size = int.from_bytes(wire[at + 2 : at + 4], "big")
        assert wire[at : at + 2] == b"\x40\x00"
        found.append(int.from_bytes(wire[at + 4 : at + 8], "big"))
        at += 4 + size + (-size & 3)
    assert at == len(wire)
    assert found == sorted(set(found))
