"""The arithmetic of two clocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.probe.clock import Exchange, KernelClock, Offset, bounds, compare, from_pings

UNKNOWN = KernelClock(None, None)
delays = st.floats(0.1, 500)


def exchange(t1: float, offset: float, forward: float, held: float, back: float) -> Exchange:
    t2 = t1 + forward + offset
    return Exchange(t1, t2, t2 + held, t1 + forward + held + back)


@settings(deadline=None)  # time is no property
@given(st.floats(-1e6, 1e6), st.lists(st.tuples(delays, st.floats(0, 50), delays), min_size=1, max_size=20))
def test_the_true_offset_is_always_within_the_stated_error(
    offset: float, trips: list[tuple[float, float, float]]
) -> None:
    got = from_pings(exchange(1e6, offset, *trip) for trip in trips)
    assert got is not None
    assert abs(got.ms - offset) <= got.error_ms + 1e-6


@settings(deadline=None)  # time is no property
@given(st.floats(-1e5, 1e5), delays, delays)
def test_rtt_knows_nothing_of_the_offset(offset: float, forward: float, back: float) -> None:
    assert exchange(0, offset, forward, 7, back).rtt_ms == pytest.approx(forward + back, abs=1e-6)


def test_equal_directions_give_the_offset_itself() -> None:
    got = from_pings([exchange(0, 1234, 50, 3, 50)])
    assert got == Offset(1234, 50, "pings")


def test_the_quickest_of_each_direction_bound_it() -> None:
    assert bounds([exchange(0, 0, 10, 0, 90), exchange(0, 0, 90, 0, 10)]) == (-10, 10)
    assert bounds([]) is None


def test_one_kernel_is_one_clock_whatever_the_pings_say() -> None:
    same = KernelClock("a", None)
    assert compare((-100, 100), same, same) == Offset(0, 0, "one kernel clock")


def test_unknown_kernels_are_not_the_same_kernel() -> None:
    assert compare(None, UNKNOWN, UNKNOWN) is None


def test_synchronised_kernels_narrow_the_pings() -> None:
    got = compare((-80, 120), KernelClock("a", 2), KernelClock("b", 3))
    assert got == Offset(0, 5, "kernel clocks and pings")


def test_pings_win_against_a_kernel_that_is_wrong_about_itself() -> None:
    assert compare((900, 1100), KernelClock("a", 2), KernelClock("b", 3)) == Offset(1000, 100, "pings")


def test_one_unsynchronised_kernel_leaves_the_pings() -> None:
    assert compare((-80, 120), KernelClock("a", 2), KernelClock("b", None)) == Offset(20, 100, "pings")


def test_seen_from_the_other_side() -> None:
    assert Offset(5, 2, "pings").reversed() == Offset(-5, 2, "pings")
