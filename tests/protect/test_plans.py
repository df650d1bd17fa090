"""Which protection is chosen: the model's answers for paths and losses that an operator knows."""

from __future__ import annotations

import pytest

from commcli.relay.protect import plans
from commcli.relay.protect.plans import AUDIO, OTHER, VIDEO, Choice, Situation


def choose(word: int = VIDEO, p: float = 0.03, rtt_ms: float | None = 80, **changes: object) -> Choice:
    """For one call over one segment, unless said otherwise."""
    usual = Situation(
        word=word,
        p=p,
        burst=1.0,
        rtt_s=None if rtt_ms is None else rtt_ms / 1000,
        one_way_s=(100 if rtt_ms is None else rtt_ms) / 2000,
        packets_per_s=150.0 if word == VIDEO else 50.0,
        gap=1 if word == VIDEO else 4,
        share=0.93 if word == VIDEO else 0.07,
        most=1.0,
        backup_loss=None,
    )
    return plans.best(usual._replace(**changes))  # type: ignore[arg-type]


def test_the_budget_is_what_g_114_leaves_and_no_more_than_two_frames() -> None:
    assert plans.prompt_s(0.01) == plans.prompt_s(0.08) == 0.067
    assert plans.prompt_s(0.1) == pytest.approx(0.05)
    assert plans.prompt_s(0.3) == 0.03
    assert plans.worth_s(0.04) == pytest.approx(0.36)
    assert plans.worth_s(0.4) == 0.1


@pytest.mark.parametrize("word", [VIDEO, AUDIO, OTHER])
@pytest.mark.parametrize("p", [0.001, 0.01, 0.05])
def test_where_the_round_trip_is_short_retransmission_does(word: int, p: float) -> None:
    found = choose(word, p, rtt_ms=20)
    assert found.resend
    assert found.parity is None
    assert found.copies is None
    assert found.overhead < 1.1 * p + 0.001


def test_where_a_round_trip_is_late_parity_does_the_most_of_it() -> None:
    found = choose(rtt_ms=80)
    assert found.resend
    assert found.parity is not None
    assert found.late < 0.01
    assert found.residual < plans.TARGET
    assert found.overhead < 0.15


def test_few_losses_are_not_worth_parity() -> None:
    assert choose(p=0.003, rtt_ms=80).parity is None


def test_more_loss_gets_more() -> None:
    overheads = [choose(p=p, rtt_ms=80).overhead for p in (0.01, 0.03, 0.05, 0.1, 0.2)]
    assert overheads == sorted(overheads)
    assert overheads[-1] > 3 * overheads[1]


def test_the_more_traffic_the_longer_the_blocks_and_the_cheaper() -> None:
    one, ten = choose(rtt_ms=80), choose(rtt_ms=80, packets_per_s=1500.0)
    assert one.parity is not None
    assert ten.parity is not None
    assert one.parity[0] < ten.parity[0] == plans.MOST_K
    assert ten.overhead < one.overhead
    assert ten.late <= one.late


def test_bursts_are_spread_over_several_blocks_where_there_is_traffic_for_them() -> None:
    found = choose(p=0.1, burst=3.0, packets_per_s=1500.0)
    assert found.depth > 1
    assert found.residual < plans.TARGET


def test_a_block_fills_within_the_budget() -> None:
    for packets_per_s in (20.0, 50.0, 150.0, 500.0, 5000.0):
        for p in (0.03, 0.1, 0.2):
            found = choose(p=p, rtt_ms=200, packets_per_s=packets_per_s)
            if found.parity is not None:
                gaps = found.parity[0] * found.depth - found.depth
                assert gaps / packets_per_s <= plans.prompt_s(0.1) * 1.2 + 0.5 / packets_per_s


def test_audio_is_small_and_gets_more_of_it_than_video() -> None:
    audio, video = choose(AUDIO, 0.05), choose(VIDEO, 0.05)
    assert audio.overhead > video.overhead
    assert audio.late < video.late


def test_what_can_wait_is_only_sent_again() -> None:
    for p in (0.01, 0.05, 0.1):
        assert choose(OTHER, p, share=0.2).parity is None


def test_nothing_is_sent_again_where_it_would_come_too_late() -> None:
    found = choose(p=0.05, rtt_ms=500)
    assert not found.resend
    assert found.parity is not None


def test_copies_are_for_the_rare_packets() -> None:
    found = choose(AUDIO, 0.1, packets_per_s=5.0, rtt_ms=200, share=0.02)
    assert found.copies is not None
    assert found.parity is None


def test_a_copy_outlives_the_burst() -> None:
    early = Choice(copies=(1, 0.05))
    found = choose(AUDIO, 0.1, burst=3.0, packets_per_s=15.0, rtt_ms=500, share=0.02)
    assert early.copies is not None
    if found.copies is not None:
        assert found.copies[0] >= 1
    assert found.late < 0.05


def test_a_good_backup_takes_the_copy_where_parity_would_cost_as_much() -> None:
    lossy = {"p": 0.2, "burst": 5.0, "rtt_ms": 300}
    assert choose(**lossy, backup_loss=0.01).backup  # type: ignore[arg-type]
    assert not choose(**lossy, backup_loss=None).backup  # type: ignore[arg-type]
    assert not choose(p=0.02, rtt_ms=80, backup_loss=0.01).backup


@pytest.mark.parametrize("most", [1.0, 0.5, 0.2, 0.0])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.2, 0.4])
def test_never_more_than_allowed_is_added_but_what_is_asked_for(most: float, p: float) -> None:
    for burst in (1.0, 3.0):
        found = choose(p=p, burst=burst, rtt_ms=200, most=most)
        assert found.overhead <= most or (found.parity is None and found.copies is None and not found.backup)


def test_an_unmeasured_round_trip_is_taken_for_a_long_one() -> None:
    assert choose(rtt_ms=None) == choose(rtt_ms=100)


@pytest.mark.parametrize(
    ("p", "burst", "residual", "overhead"), [(0.03, 1.0, 0.001, 0.15), (0.1, 3.0, 0.01, 1.0)]
)
@pytest.mark.parametrize("packets_per_s", [120.0, 150.0, 250.0, 1500.0])
def test_the_model_meets_what_is_promised(
    p: float, burst: float, residual: float, overhead: float, packets_per_s: float
) -> None:
    video = choose(VIDEO, p, burst=burst, packets_per_s=packets_per_s)
    audio = choose(AUDIO, p, burst=burst, packets_per_s=packets_per_s / 3)
    assert max(video.residual, audio.residual) <= residual
    assert 0.93 * video.overhead + 0.07 * audio.overhead <= overhead


def test_no_class_no_traffic_and_all_lost_are_situations_too() -> None:
    for word in (OTHER, AUDIO, VIDEO):
        for p in (1e-6, 0.5, 0.99, 1.0):
            for packets_per_s in (0.0, 1.0, 1e6):
                found = choose(
                    word, p, packets_per_s=packets_per_s, burst=1 / max(1e-6, 1 - p) if p < 1 else 50.0
                )
                assert 0 <= found.residual <= found.late <= 1
