"""The rules of the controller, one by one: estimates in, plans out, with a clock that the test moves."""

from __future__ import annotations

import json

import pytest

from commcli.relay.overlay.telemetry import Estimate
from commcli.relay.protect import controller, plans
from commcli.relay.protect.controller import Controller
from commcli.relay.protect.plan import Plan
from commcli.relay.protect.plans import AUDIO, OTHER, VIDEO

MEDIA_BYTES_S = 200_000.0


def estimate(p: float = 0.03, burst: float = 1.0, rtt_s: float | None = 0.08, **changes: object) -> Estimate:
    usual = Estimate(
        loss_1s=p,
        loss_worst_10s=p,
        p=p,
        burst=burst,
        queue_ms=0.0,
        queue_grows=False,
        jitter_ms=1.0,
        rtt_s=rtt_s,
        age_s=0.1,
        packets_per_s=200.0,
        proven=0.8 * p,
    )
    return usual._replace(**changes)  # type: ignore[arg-type]


class Segment:
    """A controller with the traffic of one call, asked after each report."""

    def __init__(self) -> None:
        self.controller, self.now = Controller(), 1000.0
        self.video = self.audio = Plan()

    def report(self, found: Estimate, bytes_per_s: float | None = None) -> Plan:
        """A report; the plan for video."""
        self.now += 0.2
        self.controller.measured(found, self.now, bytes_per_s)
        return self.plan()

    def plan(self, packets_per_s: float = 150.0, backup_loss: float | None = None) -> Plan:
        rates = {"now": self.now, "bytes_per_s": MEDIA_BYTES_S, "backup_loss": backup_loss}
        self.audio = self.controller.plan(AUDIO, 50.0, 0.07, **rates)  # type: ignore[arg-type]
        self.video = self.controller.plan(VIDEO, packets_per_s, 0.93, **rates)  # type: ignore[arg-type]
        return self.video

    def run(self, seconds: float, found: Estimate, **changes: float) -> Plan:
        for _ in range(round(seconds / 0.2)):
            self.report(found, **changes)
        return self.video


def test_before_the_first_report_requests_are_answered_and_nothing_is_added() -> None:
    assert Segment().plan() == Plan(resend=True, reason="unmeasured")


@pytest.mark.parametrize(("p", "reason"), [(0.0, "clean"), (0.00005, "loss 0.0 %, runs of 1.0")])
def test_a_clean_segment_gets_answers_only_and_none_where_there_is_much_traffic(
    p: float, reason: str
) -> None:
    segment = Segment()
    assert segment.report(estimate(p)) == Plan(resend=True, reason=reason)
    for _ in range(100):
        segment.report(estimate(p))
        segment.plan(packets_per_s=20_000)
    assert segment.video == segment.audio == Plan(resend=False, reason=reason)


def test_up_after_one_window() -> None:
    segment = Segment()
    assert segment.run(10.0, estimate(0.0)).parity is None
    found = segment.report(estimate(0.05))
    assert found.resend
    assert found.parity is not None
    more = segment.report(estimate(0.15))
    assert more.parity is not None
    assert more.parity[1] / more.parity[0] > found.parity[1] / found.parity[0]


def test_down_after_five_seconds_in_which_less_would_do() -> None:
    segment = Segment()
    high = segment.run(2.0, estimate(0.1))
    began = segment.now
    while segment.report(estimate(0.02)) == high:
        pass
    assert segment.now - began == pytest.approx(5.0, abs=0.25)
    assert segment.video.parity != high.parity


def test_a_relapse_starts_the_five_seconds_again() -> None:
    segment = Segment()
    high = segment.run(2.0, estimate(0.1))
    for _ in range(4):
        assert segment.run(4.0, estimate(0.02)) == high
        assert segment.report(estimate(0.1)) == high


def test_what_telemetry_calls_clean_needs_no_more_patience() -> None:
    segment = Segment()
    segment.run(2.0, estimate(0.1))
    assert segment.report(estimate(0.0)).parity is None


def test_noise_changes_no_plan() -> None:
    segment = Segment()
    segment.run(10.0, estimate(0.06))
    found = set()
    for number in range(100):
        factor = 1 + 0.1 * (number % 3 - 1)
        segment.report(
            estimate(0.06 * factor, burst=1.0 + 0.05 * (number % 2), rtt_s=0.08 * (1 + 0.05 * (number % 2)))
        )
        found.add(segment.plan(packets_per_s=150 * factor))
    assert len(found) == 1


def test_frames_that_come_unevenly_change_no_plan() -> None:
    segment = Segment()
    segment.run(10.0, estimate(0.06))
    found = set()
    for number in range(50):
        segment.report(estimate(0.06))
        found.add(segment.plan(packets_per_s=150 + 30 * (number % 2)))
    assert len(found) <= 2


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.4])
def test_loss_with_a_queue_gets_no_packet_more(loss: float) -> None:
    segment = Segment()
    segment.run(2.0, estimate(loss))
    found = segment.run(0.6, estimate(loss, queue_ms=60.0, queue_grows=True))
    assert found == segment.audio == Plan(leave=True, reason="congestion")


def test_a_queue_without_loss_is_no_congestion_yet() -> None:
    found = Segment().run(2.0, estimate(0.05, loss_1s=0.0, queue_ms=60.0, queue_grows=True))
    assert found.reason != "congestion"


def test_a_large_picture_that_waits_for_itself_is_no_congestion() -> None:
    segment = Segment()
    for _ in range(20):
        segment.run(1.0, estimate(0.1))
        found = segment.run(0.4, estimate(0.1, queue_ms=60.0, queue_grows=True))
        assert found.reason != "congestion"


def test_congestion_is_remembered_for_two_seconds() -> None:
    segment = Segment()
    segment.run(0.6, estimate(0.1, queue_ms=60.0, queue_grows=True))
    assert segment.run(1.6, estimate(0.1)).reason == "congestion"
    found = segment.run(0.6, estimate(0.1))
    assert found.reason != "congestion"
    assert found.resend


def test_after_congestion_a_fifth_of_what_got_through_is_the_most_for_a_minute() -> None:
    segment = Segment()
    free = segment.run(2.0, estimate(0.2))
    assert free.parity is not None
    assert free.parity[1] / free.parity[0] > 0.3
    queued = estimate(0.2, queue_ms=60.0, queue_grows=True)
    segment.run(0.6, queued, bytes_per_s=250_000)  # 200 kB/s got through
    found = segment.run(6.0, estimate(0.2))
    assert found.parity is None or found.parity[1] / found.parity[0] <= 0.2
    # Retransmission is an answer, not a plan.
    assert segment.controller._classes[VIDEO].choice.overhead <= 0.25
    again = segment.run(60.0, estimate(0.2))
    assert again.parity == free.parity


def test_a_fifth_of_a_wide_segment_is_no_bound() -> None:
    segment = Segment()
    free = segment.run(2.0, estimate(0.1))
    segment.run(0.6, estimate(0.1, queue_ms=60.0, queue_grows=True), bytes_per_s=20 * MEDIA_BYTES_S)
    assert segment.run(6.0, estimate(0.1)) == free


@pytest.mark.parametrize("p", [0.01, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("burst", [1.0, 3.0, 10.0])
def test_never_more_than_the_media_again_is_added(p: float, burst: float) -> None:
    segment = Segment()
    segment.run(1.0, estimate(max(p, 0.01), burst=burst, rtt_s=0.2))
    for word in (AUDIO, VIDEO):
        assert segment.controller._classes[word].choice.overhead <= 1.0 or not segment.video.parity


def test_loss_beyond_doubt_asks_for_another_route_and_is_still_fought() -> None:
    found = Segment().report(estimate(0.3, proven=0.25))
    assert found.leave
    assert found.resend
    assert found.parity is not None


def test_loss_that_may_be_chance_moves_nobody() -> None:
    assert not Segment().report(estimate(0.2, proven=0.1)).leave


def test_the_wish_to_leave_lasts_five_seconds() -> None:
    segment = Segment()
    segment.report(estimate(0.3, proven=0.25))
    assert segment.run(4.6, estimate(0.02)).leave
    assert not segment.run(0.6, estimate(0.02)).leave


def test_what_can_not_be_repaired_is_a_reason_to_leave() -> None:
    found = Segment().report(estimate(0.14, burst=8.0, rtt_s=0.6))
    assert found.leave


def test_a_copy_goes_to_the_backup_only_where_there_is_one() -> None:
    segment = Segment()
    segment.report(estimate(0.14, burst=8.0, rtt_s=0.3))
    assert not segment.plan().backup
    assert segment.plan(backup_loss=0.0).backup


def test_without_reports_for_long_nothing_is_known() -> None:
    segment = Segment()
    segment.run(2.0, estimate(0.1))
    segment.now += controller.STALE_S + 0.1
    assert segment.plan() == Plan(resend=True, reason="unmeasured")


def test_a_long_path_over_a_short_segment_leaves_less_time() -> None:
    short, long = Segment(), Segment()
    long.controller.path_one_way_s = 0.14
    short.run(10.0, estimate(0.05, rtt_s=0.04))
    long.run(10.0, estimate(0.05, rtt_s=0.04))
    assert short.video.parity is None
    assert long.video.parity is not None


def test_an_unmeasured_round_trip_is_taken_for_a_long_one() -> None:
    unknown, known = Segment(), Segment()
    assert unknown.report(estimate(rtt_s=None)).parity is not None
    assert known.report(estimate(rtt_s=0.02)).parity is None


def test_a_class_that_sends_nothing_gets_nothing_but_answers() -> None:
    segment = Segment()
    segment.report(estimate(0.1))
    found = segment.controller.plan(OTHER, 0.0, 0.0, segment.now)
    assert found.parity is None
    assert found.copies is None


def test_a_block_may_take_somewhat_longer_than_the_budget() -> None:
    found = Segment().report(estimate(0.1))
    assert found.parity is not None
    assert found.parity[2] == pytest.approx(controller.BLOCK_SLACK * plans.prompt_s(0.04))


def test_the_status_is_json_and_tells_what_and_why() -> None:
    segment = Segment()
    assert json.loads(json.dumps(segment.controller.status()))["loss"] is None
    segment.report(estimate(0.1))
    told = json.loads(json.dumps(segment.controller.status()))
    assert told["loss"] == 0.1
    assert told["rtt_ms"] == 80.0
    assert set(told["classes"]) == {"audio", "video"}
    assert told["classes"]["video"]["parity"] == [*segment.video.parity[:2], segment.video.parity[3]]  # type: ignore[index]
    assert told["classes"]["video"]["reason"].startswith("loss ")
    assert 0 < told["classes"]["video"]["expected_overhead"] < 1


def test_a_receiver_that_overflowed_gets_nothing_more_to_do() -> None:
    segment = Segment()
    segment.report(estimate(0.0))
    segment.plan(packets_per_s=5000.0)
    plan = segment.report(estimate(0.02, burst=800.0))
    for _ in range(50):
        plan = segment.plan(packets_per_s=5000.0)
    assert (plan.resend, plan.copies, plan.parity, plan.leave, plan.reason) == (
        False,
        None,
        None,
        True,
        "overflow",
    )


def test_long_runs_in_little_traffic_are_a_bad_path_and_no_overflow() -> None:
    segment = Segment()
    plan = segment.run(2, estimate(0.05, burst=60.0))
    assert plan.reason != "overflow"


def test_what_repair_has_no_time_for_is_left_alone_and_stays() -> None:
    segment = Segment()
    plan = segment.report(estimate(0.005))
    for _ in range(100):
        segment.report(estimate(0.005))
        plan = segment.plan(packets_per_s=50_000.0)
    assert (plan.resend, plan.copies, plan.parity, plan.leave) == (False, None, None, False)
