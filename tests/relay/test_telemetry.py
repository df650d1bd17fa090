"""Reports of directed segments: on the wire, as their receiver writes them, and what a sender makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from commcli.relay.overlay import telemetry
from commcli.relay.overlay.arrivals import Arrivals
from commcli.relay.overlay.telemetry import Delays, Estimate, Estimator, Row

ROW = Row(1, 2, 5, 1000, 30, 20, 4, 25, 1500, 800)


# --- the wire ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, telemetry.MAX_ROWS])
def test_rows_survive_the_wire(count: int) -> None:
    rows = [ROW._replace(from_number=0xFFFFFFFF - number) for number in range(count)]
    body = telemetry.pack(rows)
    assert telemetry.unpack(body) == rows
    assert len(body) == 1 + 38 * count


def test_a_full_report_fits_the_smallest_path_mtu() -> None:
    assert len(telemetry.pack([ROW] * telemetry.MAX_ROWS)) + 32 <= 1200 - 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1",
        telemetry.pack([ROW])[:-1],
        telemetry.pack([ROW]) + b"\0",
        b"\2" + telemetry.pack([ROW])[1:],
        bytes([telemetry.MAX_ROWS + 1]) + bytes(38 * (telemetry.MAX_ROWS + 1)),
    ],
)
def test_a_body_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a report"):
        telemetry.unpack(body)


def test_whatever_is_unpacked_packs_to_the_same_bytes_and_nothing_else_escapes() -> None:
    source = random.Random(7)
    for _ in range(2000):
        body = source.randbytes(source.choice([1, 39, 77, source.randrange(200)]))
        try:
            rows = telemetry.unpack(body)
        except ValueError:
            continue
        assert telemetry.pack(rows) == body


def test_a_row_that_is_passed_on_grows_older_and_no_older_than_its_field_tells() -> None:
    assert ROW.aged(0.25).age_ms == 255
    assert ROW.aged(-1.0).age_ms == 5
    assert ROW.aged(3600.0).age_ms == 65535


# --- the receiver ------------------------------------------------------------------------------------------


def windows(delays: Delays, samples: Iterable[list[int]], start: float = 0.0) -> Delays:
    for number, window in enumerate(samples):
        delays.add(window, start + 0.2 * number)
    return delays


def test_jitter_is_no_queue() -> None:
    source = random.Random(3)
    delays = windows(Delays(), ([50_000 + source.randrange(20_000) for _ in range(40)] for _ in range(50)))
    assert delays.queue_us < 2_000
    assert 4_000 < delays.jitter_us < 9_000  # a third of the width, as RFC 3550 reckons it


def test_a_burst_that_waits_for_itself_is_no_queue() -> None:
    delays = windows(Delays(), ([40_000 + 1_000 * place for place in range(30)] for _ in range(20)))
    assert delays.queue_us == 0


def test_what_stands_between_bursts_too_is_a_queue() -> None:
    growing = ([40_000 + 1_000 * place + 5_000 * window for place in range(10)] for window in range(10))
    delays = windows(Delays(), growing)
    assert delays.queue_us == 45_000


def test_clocks_that_differ_do_not_matter_nor_does_one_that_drifts_slowly() -> None:
    for offset in (-3_600_000_000, 0, 3_600_000_000):
        drifting = ([offset + 50_000 + 20 * window] * 5 for window in range(300))  # 100 ppm
        assert windows(Delays(), drifting).queue_us <= 1_000


def test_a_longer_path_looks_like_a_queue_for_ten_seconds_and_no_longer() -> None:
    delays = windows(Delays(), [[40_000]] * 50)
    delays.add([70_000], 10.0)
    assert delays.queue_us == 30_000
    windows(delays, [[70_000]] * 55, 10.2)
    assert delays.queue_us == 0


def test_where_nothing_flows_no_queue_is_known() -> None:
    delays = windows(Delays(), [[40_000], [90_000]])
    delays.add([], 0.4)
    assert delays.queue_us == 50_000
    delays.add([], 2.0)
    assert delays.queue_us == 0


def test_a_summary_has_the_counters_and_takes_the_samples() -> None:
    arrivals = Arrivals(1000)
    for sequence in (1001, 1004, 1003, 1010):
        arrivals.accept(sequence, 1.0)
    arrivals.accept_again(1005, 1.1)
    arrivals.samples.extend([10_000, 12_000])
    row = telemetry.summary(arrivals, Delays(), 7, 8, 1.2)
    assert row[:3] == (7, 8, 0)
    assert (row.expected, row.lost, row.repaired, row.reordered) == (11, 6, 1, 1)
    assert row.jitter_us == 125
    assert not arrivals.samples


def test_counters_wrap_at_32_bits() -> None:
    arrivals = Arrivals(0)
    arrivals.highest = (1 << 32) + 9
    assert telemetry.summary(arrivals, Delays(), 1, 2, 0.0).expected == 10
    assert telemetry.unpack(telemetry.pack([telemetry.summary(arrivals, Delays(), 1, 2, 0.0)]))


# --- the sender --------------------------------------------------------------------------------------------


def lossy(p: float, burst: float, source: random.Random) -> Iterator[bool]:
    """True for a packet that is lost; the two-state chain."""
    leave = 1 / burst
    enter = leave * p / (1 - p) if p < 1 else 1.0
    is_bad = False
    while True:
        if burst <= 1:
            yield source.random() < p
            continue
        is_bad = source.random() >= leave if is_bad else source.random() < enter
        yield is_bad


class Segment:
    """A receiver that reports what it is told has happened."""

    def __init__(self, counted_from: int = 0) -> None:
        self.now, self.last = 1000.0, False
        self.expected, self.lost, self.runs = counted_from, counted_from, counted_from
        self.estimator = Estimator()
        self.estimate: Estimate | None = None

    def run(self, seconds: float, packets_per_s: float, losses: Iterator[bool], **delays: int) -> Estimate:
        for _ in range(round(seconds / 0.2)):
            self.window([next(losses) for _ in range(round(packets_per_s * 0.2))], **delays)
        assert self.estimate is not None
        return self.estimate

    def window(self, lost: list[bool], **delays: int) -> None:
        self.now += 0.2
        for is_lost in lost:
            self.expected += 1
            self.lost += is_lost
            self.runs += is_lost and not self.last
            self.last = is_lost
        self.estimate = self.estimator.row(self.row(**delays), self.now, 0.08) or self.estimate

    def row(self, **delays: int) -> Row:
        counters = {"expected": self.expected, "lost": self.lost, "runs": self.runs}
        zero = Row(1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
        return zero._replace(**{name: value % (1 << 32) for name, value in counters.items()}, **delays)


def test_one_row_tells_nothing_and_two_do() -> None:
    estimator = Estimator()
    first = Row(1, 2, 0, 100, 0, 0, 0, 0, 0, 0)
    assert estimator.row(first, 1.0) is None
    found = estimator.row(first._replace(expected=200, lost=50, runs=50), 1.2)
    assert found is not None
    assert found.loss_1s == 0.5
    assert found.rtt_s is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [0.01, 0.03, 0.1, 0.2])
@pytest.mark.parametrize("burst", [1.0, 3.0])
def test_the_loss_to_protect_against_is_the_loss_there_is(p: float, burst: float, seed: int) -> None:
    estimate = Segment().run(20.0, 250, lossy(p, burst, random.Random(seed)))
    # Ten seconds are 2500 packets; what chance does to them, by burst, and no more than that.
    scatter = (p * (2 * burst - 1) / 2500) ** 0.5
    assert p - 3 * scatter <= estimate.p <= p + 4 * scatter
    runs = 2500 * p / burst
    assert abs(estimate.burst - max(burst, 1 / (1 - p))) <= 3 * burst / runs**0.5


def test_a_loss_that_begins_is_seen_in_the_first_window() -> None:
    segment = Segment()
    segment.run(10.0, 250, lossy(0.0, 1, random.Random(1)))
    estimate = segment.run(0.2, 250, iter([number % 5 == 0 for number in range(50)]))
    assert 0.05 <= estimate.p <= 0.2
    assert estimate.loss_1s < 0.05


def test_one_lost_packet_alone_proves_next_to_nothing() -> None:
    segment = Segment()
    segment.run(10.0, 250, lossy(0.0, 1, random.Random(1)))
    estimate = segment.run(0.2, 250, iter([number == 20 for number in range(50)]))
    assert 0 < estimate.p < 0.001


def test_the_worst_second_of_ten_is_remembered() -> None:
    segment, source = Segment(), random.Random(2)
    segment.run(10.0, 250, lossy(0.01, 1, source))
    segment.run(1.0, 250, lossy(0.3, 1, source))
    estimate = segment.run(7.0, 250, lossy(0.01, 1, source))
    assert estimate.loss_1s < 0.05
    assert 0.2 < estimate.loss_worst_10s <= estimate.p < 0.35
    assert segment.run(5.0, 250, lossy(0.01, 1, source)).p < 0.03


def test_five_clean_seconds_end_it() -> None:
    segment, source = Segment(), random.Random(2)
    segment.run(10.0, 250, lossy(0.1, 3, source))
    assert segment.run(4.6, 250, lossy(0.0, 1, source)).p > 0
    assert segment.run(0.6, 250, lossy(0.0, 1, source)).p == 0


def test_five_clean_seconds_of_little_loss_and_little_traffic_are_chance() -> None:
    segment = Segment()
    segment.run(5.0, 10, iter([number in (3, 20) for number in range(50)]))
    assert segment.run(5.2, 10, lossy(0.0, 1, random.Random(1))).p > 0
    assert segment.run(6.0, 10, lossy(0.0, 1, random.Random(1))).p == 0


def test_a_segment_that_flaps_every_second_never_looks_clean() -> None:
    segment, source = Segment(), random.Random(5)
    for _ in range(10):
        segment.run(1.0, 250, lossy(0.0, 1, source))
        segment.run(1.0, 250, lossy(0.4, 3, source))
        assert segment.estimate is not None
        assert segment.estimate.p > 0.1


def test_counters_that_wrap_go_on() -> None:
    segment = Segment(counted_from=(1 << 32) - 400)
    estimate = segment.run(10.0, 250, lossy(0.1, 1, random.Random(4)))
    assert 0.08 < estimate.p < 0.12


def test_lost_reports_cost_nothing_but_freshness() -> None:
    segment, losses = Segment(), lossy(0.1, 1, random.Random(4))
    for number in range(60):
        segment.now += 0.2
        lost = [next(losses) for _ in range(50)]
        segment.expected += len(lost)
        segment.lost += sum(lost)
        segment.runs += sum(lost)
        if number % 4 == 0:
            segment.estimate = segment.estimator.row(segment.row(), segment.now) or segment.estimate
    assert segment.estimate is not None
    assert 0.08 < segment.estimate.p < 0.13


def test_a_row_that_came_late_is_left_out_and_a_receiver_that_began_again_is_followed() -> None:
    segment = Segment()
    segment.run(5.0, 250, lossy(0.05, 1, random.Random(4)))
    late = segment.row()._replace(expected=segment.expected - 30)
    assert segment.estimator.row(late, segment.now + 0.01) is None
    segment.window([False] * 50)
    segment.expected = segment.lost = segment.runs = 0
    before = segment.estimate
    segment.window([False] * 50)
    segment.window([False] * 50)
    assert segment.estimate is before
    segment.window([False] * 50)
    segment.window([True, False] * 25)
    assert segment.estimate is not None
    assert segment.estimate.loss_1s == 0.5


def test_what_was_only_overtaken_is_taken_back() -> None:
    estimator = Estimator()
    zero = Row(1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    estimator.row(zero, 1.0)
    estimator.row(zero._replace(expected=100, lost=7, runs=7), 1.2)
    found = estimator.row(zero._replace(expected=200, lost=0, runs=0, reordered=7), 1.4)
    assert found is not None
    assert found.loss_1s == 0
    assert found.burst == 1.0


def test_a_queue_is_what_is_longer_than_jitter() -> None:
    losses = lossy(0.0, 1, random.Random(1))
    assert Segment().run(1.0, 250, losses, queue_us=40_000, jitter_us=5_000).queue_grows
    assert not Segment().run(1.0, 250, losses, queue_us=12_000, jitter_us=5_000).queue_grows
    assert Segment().run(1.0, 250, losses, queue_us=40_000, jitter_us=5_000).queue_ms == 40.0


def test_the_age_is_that_of_what_was_measured() -> None:
    estimator = Estimator()
    zero = Row(1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    estimator.row(zero, 1.0)
    found = estimator.row(zero._replace(expected=100, age_ms=150), 1.4)
    assert found is not None
    assert found.age_s == pytest.approx(0.15)


def test_memory_is_bounded() -> None:
    estimator = Estimator()
    zero = Row(1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    for number in range(5000):
        estimator.row(zero._replace(expected=number), 1.0 + number * 1e-4)
    assert len(estimator._points) <= 500
