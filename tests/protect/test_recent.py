"""The store of recent datagrams: finds what is recent, and is bounded whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.protect.recent import LEAST_BYTES, ROW_BYTES, Recent


def test_what_is_recent_is_found_and_what_is_old_is_not() -> None:
    recent = Recent(LEAST_BYTES, 1.0)
    for number in range(300):
        recent.keep(number, b"%d" % number, number / 100)
    assert recent.find(299) == b"299"
    assert recent.find(205) == b"205"
    assert recent.find(150) is None
    assert recent.find(300) is None


def test_it_forgets_when_nothing_more_comes() -> None:
    recent = Recent(LEAST_BYTES, 1.0)
    recent.keep(1, b"one", 10.0)
    recent.forget(11.0)
    assert recent.find(1) == b"one"
    recent.forget(11.2)
    assert recent.find(1) is None
    assert recent.datagrams == 0


def test_the_same_sequence_again_takes_the_place_of_the_first() -> None:
    recent = Recent(LEAST_BYTES, 1.0)
    recent.keep(1, b"one", 0.0)
    recent.keep(1, b"uno", 0.5)
    assert recent.find(1) == b"uno"


def test_a_part_that_can_not_hold_a_datagram_is_refused() -> None:
    with pytest.raises(ValueError):
        Recent(LEAST_BYTES - 1, 1.0)


Kept = st.tuples(st.integers(0, 50), st.integers(0, 65535), st.floats(0, 0.5))


@given(st.lists(Kept, max_size=80))
def test_it_never_takes_more_than_it_may(arrivals: list[tuple[int, int, float]]) -> None:
    recent = Recent(LEAST_BYTES, 1.0)
    now, times = 5.0, {}
    for sequence, size, pause in arrivals:
        now += pause
        recent.keep(sequence, bytes(size), now)
        times[sequence] = (now, size)
        held = sum(len(value) + ROW_BYTES for part in recent.parts for value in part.datagrams.values())
        assert held <= recent.bytes <= recent.most_bytes
        assert recent.find(sequence) == bytes(size)
        assert all(recent.find(old) is None for old, (then, _) in times.items() if now - then > 1.5)
