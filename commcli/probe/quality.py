"""Media quality from plain numbers: E-model, jitter, loss, gaps, freezes. Pure: times are arguments, nothing is read.

Times are seconds (`_s`) or milliseconds (`_ms`) as their names say; loss is 0..1; `None` means "not measured".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Default R0 - Is + A of ITU-T G.107 with every parameter at its default value.
R_DEFAULT = 93.2

# webrtc-stats freezeCount as libwebrtc counts it (video_quality_observer): the current interval is in its own average.
_FREEZE_WINDOW = 30
_FREEZE_MIN_INTERVALS = 5
_FREEZE_INCREASE_MS = 150


def percentile(values: Sequence[float], q: float) -> float | None:
    """The nearest-rank percentile (`q` in 0..100) of `values` in any order; None when there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q / 100 * len(ordered)) - 1)]


# --- E-model (ITU-T G.107) ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    """What the E-model knows of a codec: its equipment impairment `ie` and its packet-loss robustness `bpl`."""

    name: str
    ie: float
    bpl: float


# Opus has no ITU-T G.113 value; these are the published empirical ones, for random loss. BurstR accounts for bursts.
OPUS = {
    kbps: Codec(f"Opus {kbps} kbit/s (Alahmadi 2021, random loss)", ie, bpl)
    for kbps, ie, bpl in ((16, 30.2, 11.8), (25, 20.2, 11.3), (31, 16.8, 10.4), (40, 10.7, 9.8))
}
G711 = Codec("G.711 without concealment (G.113)", ie=0.0, bpl=4.3)


def opus(kbps: float) -> Codec:
    """The published values nearest to this bitrate; its name says which."""
    return OPUS[min(OPUS, key=lambda known: abs(known - kbps))]


def delay_impairment(one_way_ms: float) -> float:
    """Idd of G.107: 0 up to 100 ms of one-way delay, then growing."""
    if one_way_ms <= 100:
        return 0.0
    x = math.log2(one_way_ms / 100)
    first: float = (1 + x**6) ** (1 / 6)
    second: float = (1 + (x / 3) ** 6) ** (1 / 6)
    return 25 * (first - 3 * second + 2)


def loss_impairment(loss: float, codec: Codec, burst_ratio: float = 1.0) -> float:
    """Ie,eff of G.107. `loss` is 0..1, `burst_ratio` 1 for random loss and more for bursts."""
    ppl = 100 * loss
    if ppl == 0:
        return codec.ie
    return codec.ie + (95 - codec.ie) * ppl / (ppl / burst_ratio + codec.bpl)


def r_factor(one_way_ms: float, loss: float, codec: Codec, burst_ratio: float = 1.0) -> float:
    """The transmission rating R of G.107 for `one_way_ms` mouth to ear; may fall below 0."""
    return R_DEFAULT - delay_impairment(one_way_ms) - loss_impairment(loss, codec, burst_ratio)


def mos(r: float) -> float:
    """Mean opinion score 1..4.5 of an R-factor (G.107 Annex B)."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    # The polynomial dips under 1 for R below 6.5; a score does not.
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


# --- loss from sequence numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sequence16:
    """What 16-bit sequence numbers tell of one stream. `received` counts each packet once; bursts are runs of loss."""

    expected: int
    received: int
    duplicates: int
    reordered: int
    bursts: int
    longest_burst: int

    @property
    def lost(self) -> int:
        return self.expected - self.received

    @property
    def loss(self) -> float | None:
        """0..1, or None when nothing was expected."""
        return self.lost / self.expected if self.expected else None

    @property
    def burst_ratio(self) -> float:
        """BurstR of G.107: mean length of the bursts over that of random loss at the same rate; at least 1."""
        if not self.bursts:
            return 1.0
        return max(1.0, self.lost / self.bursts * (self.received / self.expected))


def unwrap16(numbers: Sequence[int]) -> list[int]:
    """Extended sequence numbers, in the order of arrival: each within half the number space of the highest so far."""
    extended: list[int] = []
    highest: int | None = None
    for number in numbers:
        if highest is None:
            highest = number
            extended.append(number)
            continue
        # Signed distance, -32768..32767 (RFC 3550 A.1 in one line).
        value = highest + ((number - highest + 0x8000) & 0xFFFF) - 0x8000
        highest = max(highest, value)
        extended.append(value)
    return extended


def count_sequence(numbers: Sequence[int]) -> Sequence16:
    """Loss, duplicates and reordering (RFC 4737: a packet older than one that came before) in order of arrival.

    What is lost before the first or after the last packet that arrived does not show in sequence numbers.
    """
    extended = unwrap16(numbers)
    if not extended:
        return Sequence16(0, 0, 0, 0, 0, 0)
    seen: set[int] = set()
    reordered = duplicates = 0
    highest = extended[0]
    for value in extended:
        if value in seen:
            duplicates += 1
            continue
        seen.add(value)
        reordered += value < highest
        highest = max(highest, value)
    runs = [after - before - 1 for before, after in pairwise(sorted(seen)) if after - before > 1]
    expected = max(seen) - min(seen) + 1
    return Sequence16(expected, len(seen), duplicates, reordered, len(runs), max(runs, default=0))


# --- jitter ---------------------------------------------------------------------------------------------------------


def jitter_ms(arrivals_s: Sequence[float], timestamps: Sequence[int], clock_rate: int) -> float | None:
    """Interarrival jitter of RFC 3550 6.4.1, in ms, in order of arrival; None with fewer than two media instants.

    Packets of one video frame share a timestamp; only the first of each counts, or the burst of a frame would
    look like jitter of the network.
    """
    jitter = 0.0
    intervals = 0
    last: tuple[float, int] | None = None
    for arrival, timestamp in zip(arrivals_s, timestamps, strict=True):
        if last is not None:
            ticks = ((timestamp - last[1] + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            if ticks == 0:
                continue
            difference = (arrival - last[0]) - ticks / clock_rate
            jitter += (abs(difference) - jitter) / 16
            intervals += 1
        last = (arrival, timestamp)
    return 1000 * jitter if intervals else None


# --- gaps and freezes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """A silence of `ms` that began at `at_s` (the clock of the arrivals)."""

    ms: float
    at_s: float


def longest_gap(arrivals_s: Sequence[float], end_s: float | None = None) -> Gap | None:
    """The longest time without an arrival; the silence up to `end_s` counts. None when there is no interval."""
    times = sorted(arrivals_s)
    if times and end_s is not None and end_s > times[-1]:
        times.append(end_s)
    gaps = [Gap(1000 * (after - before), before) for before, after in pairwise(times)]
    return max(gaps, key=lambda gap: gap.ms, default=None)


@dataclass(frozen=True, slots=True)
class Freezes:
    """How often, and for how long in all."""

    count: int
    total_ms: float


def freezes_webrtc(frames_s: Sequence[float]) -> Freezes:
    """freezeCount of webrtc-stats: an interval >= max(3 avg, avg + 150 ms), avg over the last 30 intervals.

    As libwebrtc does it: at least 5 intervals, the present one is in the average, the average is rounded down to ms.
    """
    recent: deque[int] = deque(maxlen=_FREEZE_WINDOW)
    count = 0
    total = 0.0
    for before, after in pairwise(frames_s):
        interval = round(1000 * (after - before))
        recent.append(interval)
        average = sum(recent) // len(recent)
        threshold = max(3 * average, average + _FREEZE_INCREASE_MS)
        if len(recent) >= _FREEZE_MIN_INTERVALS and interval >= threshold:
            count += 1
            total += interval
    return Freezes(count, total)


def freezes_over(times_s: Sequence[float], threshold_ms: float) -> Freezes:
    """Intervals of at least `threshold_ms`: 500 (Agora SDK), 600 video and 200 audio (Agora analytics)."""
    # Rounded to the microsecond: 0.6 s apart on a wall clock is 599.9999 in floating point.
    intervals = [round(1000 * (after - before), 3) for before, after in pairwise(times_s)]
    frozen = [interval for interval in intervals if interval >= threshold_ms]
    return Freezes(len(frozen), sum(frozen))
