"""E-model vectors, and properties of every counter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.probe import quality
from commcli.probe.quality import Codec, count_sequence, unwrap16

# (Ta ms, Ppl %, Ie, Bpl) -> R, MOS: computed from ITU-T G.107 by hand.
VECTORS = [
    ((0, 0, 0, 4.3), 93.20, 4.409),
    ((150, 0, 0, 4.3), 93.04, 4.406),
    ((250, 0, 0, 4.3), 84.28, 4.175),
    ((400, 0, 0, 4.3), 69.13, 3.556),
    ((100, 1, 0, 4.3), 75.28, 3.834),
    ((100, 5, 20.2, 11.28), 50.03, 2.576),
]


@pytest.mark.parametrize(("inputs", "r", "score"), VECTORS)
def test_e_model_vectors(inputs: tuple[float, float, float, float], r: float, score: float) -> None:
    ta, ppl, ie, bpl = inputs
    got = quality.r_factor(ta, ppl / 100, Codec("vector", ie, bpl))
    assert got == pytest.approx(r, abs=0.005)
    assert quality.mos(got) == pytest.approx(score, abs=0.0006)


@pytest.mark.parametrize(("r", "score"), [(90, 4.34), (80, 4.02), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_mos_of_r(r: float, score: float) -> None:
    assert quality.mos(r) == pytest.approx(score, abs=0.005)


def test_mos_stays_within_its_scale() -> None:
    assert quality.mos(-5) == 1.0
    assert quality.mos(3) == 1.0  # the polynomial itself says 0.99
    assert quality.mos(100) == quality.mos(120) == 4.5


@settings(deadline=None)  # time is no property
@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_more_delay_or_more_loss_is_never_better(ta1: float, ta2: float, p1: float, p2: float) -> None:
    better = quality.r_factor(min(ta1, ta2), min(p1, p2), quality.OPUS[40])
    worse = quality.r_factor(max(ta1, ta2), max(p1, p2), quality.OPUS[40])
    assert worse <= better + 1e-9


def test_bursts_are_worse_than_random_loss() -> None:
    assert quality.loss_impairment(0.02, quality.OPUS[40], 3.0) > quality.loss_impairment(
        0.02, quality.OPUS[40]
    )


# --- sequence numbers -----------------------------------------------------------------------------------------------

starts = st.integers(0, 0xFFFF)


@settings(deadline=None)  # time is no property
@given(starts, st.integers(1, 500), st.data())
def test_loss_is_what_was_taken_out(start: int, length: int, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(1, max(1, length - 2)), max_size=length // 2))
    kept = [n for n in range(length) if n not in lost or n in (0, length - 1)]
    counted = count_sequence([(start + n) & 0xFFFF for n in kept])
    assert counted.expected == length
    assert counted.lost == length - len(kept)
    assert (counted.duplicates, counted.reordered) == (0, 0)


@settings(deadline=None)  # time is no property
@given(starts, st.integers(2, 300), st.integers(0, 2**32))
def test_duplicates_are_counted_and_change_nothing_else(start: int, length: int, seed: int) -> None:
    chooser = random.Random(seed)
    sent = [(start + n) & 0xFFFF for n in range(length)]
    doubled = [number for number in sent for _ in range(chooser.choice((1, 1, 2, 3)))]
    counted = count_sequence(doubled)
    assert counted.duplicates == len(doubled) - length
    assert (counted.received, counted.lost, counted.reordered) == (length, 0, 0)


@settings(deadline=None)  # time is no property
@given(starts, st.integers(2, 300), st.integers(0, 2**32))
def test_reordering_loses_nothing(start: int, length: int, seed: int) -> None:
    chooser = random.Random(seed)
    order = sorted(range(length), key=lambda n: n + chooser.uniform(0, 20))
    counted = count_sequence([(start + n) & 0xFFFF for n in order])
    assert (counted.expected, counted.received, counted.duplicates) == (length, length, 0)
    late = sum(any(earlier > n for earlier in order[:at]) for at, n in enumerate(order))
    assert counted.reordered == late


@settings(deadline=None)  # time is no property
@given(starts, st.integers(0, 200_000))
def test_extended_numbers_go_round_the_wrap(start: int, length: int) -> None:
    numbers = range(0, length, 997)
    extended = unwrap16([(start + n) & 0xFFFF for n in numbers])
    assert [value - start for value in extended] == list(numbers)


def test_bursts() -> None:
    counted = count_sequence([1, 2, 3, 7, 8, 10])
    assert (counted.expected, counted.lost, counted.bursts, counted.longest_burst) == (10, 4, 2, 3)
    assert counted.loss == 0.4
    # Mean burst 2 over the mean burst of random loss at 40 %, 1 / 0.6.
    assert counted.burst_ratio == pytest.approx(1.2)


def test_nothing_received_is_unmeasured_and_not_zero() -> None:
    counted = count_sequence([])
    assert counted.loss is None
    assert quality.jitter_ms([], [], 48000) is None
    assert quality.longest_gap([1.0]) is None
    assert quality.percentile([], 50) is None


# --- jitter ---------------------------------------------------------------------------------------------------------


def test_steady_arrivals_have_no_jitter_across_the_timestamp_wrap() -> None:
    stamps = [(0xFFFFFFFF - 4800 + 960 * n) & 0xFFFFFFFF for n in range(20)]
    arrivals = [5 + 0.02 * n for n in range(20)]
    assert quality.jitter_ms(arrivals, stamps, 48000) == pytest.approx(0, abs=1e-6)


def test_jitter_of_one_late_packet() -> None:
    # D is +16 ms, then -16 ms: J = 1, then 1 + (16 - 1) / 16.
    got = quality.jitter_ms([0, 0.036, 0.040], [0, 960, 1920], 48000)
    assert got == pytest.approx(1 + 15 / 16)


def test_packets_of_one_frame_are_one_instant() -> None:
    arrivals = [0.0, 0.005, 0.100, 0.105]
    assert quality.jitter_ms(arrivals, [0, 0, 9000, 9000], 90000) == pytest.approx(0, abs=1e-6)


# --- gaps and freezes -----------------------------------------------------------------------------------------------


def test_the_silence_at_the_end_is_a_gap() -> None:
    gap = quality.longest_gap([1.0, 1.1, 1.2], end_s=3.2)
    assert gap is not None
    assert gap.at_s == 1.2
    assert gap.ms == pytest.approx(2000)


def frames(*intervals_ms: float) -> list[float]:
    at, times = 100.0, [100.0]
    for interval in intervals_ms:
        at += interval / 1000
        times.append(at)
    return times


def test_webrtc_freeze_at_its_threshold() -> None:
    # 30 intervals, the present one among them: avg = (29 * 30 + x) / 30 rounded down, frozen from avg + 150 on.
    assert quality.freezes_webrtc(frames(*[30.0] * 29, 186.0)) == quality.Freezes(1, 186.0)
    assert quality.freezes_webrtc(frames(*[30.0] * 29, 184.0)) == quality.Freezes(0, 0.0)


def test_webrtc_counts_no_freeze_before_five_intervals() -> None:
    assert quality.freezes_webrtc(frames(30, 30, 30, 1000)).count == 0
    assert quality.freezes_webrtc(frames(30, 30, 30, 30, 1000)).count == 1


def test_three_times_the_average_is_what_counts_on_slow_video() -> None:
    steady = [200.0] * 29
    assert quality.freezes_webrtc(frames(*steady, 640.0)).count == 0  # avg 214, threshold 642
    assert quality.freezes_webrtc(frames(*steady, 650.0)).count == 1  # avg 215, threshold 645


def test_agora_thresholds_are_inclusive() -> None:
    assert quality.freezes_over(frames(100, 500, 499), 500) == quality.Freezes(1, 500.0)


@settings(deadline=None)  # time is no property
@given(st.lists(st.integers(1, 3000), max_size=200))
def test_a_higher_threshold_never_counts_more(intervals: list[int]) -> None:
    times = frames(*intervals)
    assert quality.freezes_over(times, 600).count <= quality.freezes_over(times, 500).count


@settings(deadline=None)  # time is no property
@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_one_of_the_values(values: list[float], q: float) -> None:
    assert quality.percentile(values, q) in values
