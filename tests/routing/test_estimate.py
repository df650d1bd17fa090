from __future__ import annotations

import numpy as np
import pytest

from commcli.routing.cost import EdgeCosts, Prices, edge_costs
from commcli.routing.decision import decide
from commcli.routing.estimate import estimate, from_matrices, from_rounds, unmeasured_as_none
from tests.routing.worlds import MANY, NOW, small_fleet, window, windows

IDS = ("a", "b", "c")


def test_rtt_is_the_median_of_the_newest_rounds() -> None:
    figures = [900.0, 10.0, 11.0, 12.0, 13.0, 500.0]  # oldest first: 900 falls out, 500 is one bad window
    found = estimate(
        IDS, [window("a", "b", rtt, start=NOW - 70 + 10 * n) for n, rtt in enumerate(figures)], now_unix=NOW
    )
    assert found.rtt_ms[0, 1] == 12.0
    assert found.samples[0, 1] == 5 * 50
    assert found.age_s[0, 1] == 10.0


def test_what_nobody_measured_is_nan_and_never_zero() -> None:
    found = estimate(IDS, [window("a", "b", 10.0)], now_unix=NOW)
    for matrix in (found.rtt_ms, found.loss, found.jitter_ms, found.age_s):
        assert np.isnan(matrix[1, 0]) and np.isnan(matrix[0, 2]) and np.isnan(matrix.diagonal()).all()
    assert found.measured.sum() == 1
    assert found.samples[1, 0] == 0


def test_directions_are_apart() -> None:
    found = estimate(IDS, [window("a", "b", 10.0), window("b", "a", 30.0)], now_unix=NOW)
    assert (found.rtt_ms[0, 1], found.rtt_ms[1, 0]) == (10.0, 30.0)


def test_old_windows_and_strangers_are_left_out() -> None:
    old = window("a", "b", 10.0, start=NOW - 911)
    edge = window("a", "c", 10.0, start=NOW - 910)
    stranger = window("a", "x", 10.0)
    found = estimate(IDS, [old, edge, stranger], now_unix=NOW, max_age_s=900)
    assert not found.measured[0, 1]
    assert found.measured[0, 2]


def test_loss_is_pooled_over_the_packets_of_all_windows() -> None:
    rows = [window("a", "b", 10.0, loss=0.1, sent=40), window("a", "b", 10.0, start=NOW - 30, sent=50)]
    assert estimate(IDS, rows, now_unix=NOW).loss[0, 1] == pytest.approx(4 / 90)


def test_a_relays_first_window_does_not_count_beside_full_ones() -> None:
    first = window("a", "b", 10.0, loss=0.5, sent=39, start=NOW - 40)
    full = window("a", "b", 10.0, sent=50)
    assert estimate(IDS, [first, full], now_unix=NOW).loss[0, 1] == 0.0


@pytest.mark.parametrize(
    ("seconds", "figures", "rtt_ms"),
    [
        (30, [900.0, 900.0, 10.0, 500.0, 11.0], 11.0),  # three windows of 30 s, of which one is bad
        (60, [900.0, 900.0, 900.0, 900.0, 11.0], 11.0),  # one of a minute is a median over a minute
        (300, [900.0, 900.0, 11.0], 11.0),
    ],
)
def test_of_longer_windows_fewer_tell_the_time_and_all_the_loss(
    seconds: int, figures: list[float], rtt_ms: float
) -> None:
    last = NOW - 10 - seconds
    rows = [
        window("a", "b", rtt, start=last - seconds * n, seconds=seconds, loss=0.02 * (n == 1), sent=60)
        for n, rtt in enumerate(reversed(figures))
    ]
    found = estimate(IDS, rows, now_unix=NOW)
    assert (found.rtt_ms[0, 1], found.age_s[0, 1]) == (rtt_ms, 10.0)
    assert found.samples[0, 1] == 60 * len(figures)
    assert found.loss[0, 1] == pytest.approx(0.02 / len(figures))


def test_a_smaller_budget_of_a_node_makes_no_window_a_first_one() -> None:
    """A quarter of an hour of windows of before would hold more packets for as long."""
    before = [window("a", "b", 90.0, start=NOW - 130 + 10 * n, sent=100) for n in range(5)]
    after = [window("a", "b", 10.0, start=NOW - 80 + 10 * n, sent=50) for n in range(7)]
    found = estimate(IDS, [*before, *after], now_unix=NOW)
    assert (found.rtt_ms[0, 1], found.samples[0, 1]) == (10.0, 250)
    longer = [window("a", "b", 10.0, start=NOW - 70, sent=60, seconds=60)]
    assert estimate(IDS, [*before, *longer], now_unix=NOW).rtt_ms[0, 1] == 10.0


def test_a_handful_of_packets_measures_nothing() -> None:
    few = estimate(IDS, [window("a", "b", 10.0, loss=0.125, sent=8)], now_unix=NOW)
    assert not few.measured.any()
    assert estimate(IDS, [window("a", "b", 10.0, loss=0.05, sent=20)], now_unix=NOW).measured[0, 1]


def test_forward_loss_counts_where_it_is_known_and_round_trip_loss_where_not() -> None:
    row = {**window("a", "b", 10.0, loss=0.2), "loss_fwd": 0.1}
    assert estimate(IDS, [row], now_unix=NOW).loss[0, 1] == pytest.approx(0.1)
    row["loss_fwd"] = None
    assert estimate(IDS, [row], now_unix=NOW).loss[0, 1] == pytest.approx(0.2)


def test_an_edge_that_loses_everything_costs_infinitely_much() -> None:
    rows = [window("a", "b", None, loss=1.0, jitter_ms=None), window("a", "b", 10.0, start=NOW - 30)]
    assert np.isfinite(edge_costs(estimate(IDS, rows, now_unix=NOW)).straight[0, 1])
    dead = estimate(IDS, rows[:1], now_unix=NOW)
    assert not np.isfinite(edge_costs(dead).total[0, 1])


def test_cost_is_rtt_and_jitter_and_loss() -> None:
    row = window("a", "b", 100.0, loss=0.01, jitter_ms=4.0, sent=MANY)
    costs = edge_costs(estimate(IDS, [row], now_unix=NOW), Prices(jitter=2.0, loss_ms=1000.0))
    assert costs.jitter[0, 1] == 8.0
    assert costs.loss[0, 1] == pytest.approx(10.05, abs=0.02)
    assert costs.total[0, 1] == pytest.approx(118.05, abs=0.02)
    assert np.isinf(costs.total[1, 0])


@pytest.mark.parametrize(
    # Wilson's score interval, one standard error: computed by hand.
    ("sent", "loss", "bound"),
    [(50, 0.0, 1 / 51), (250, 0.0, 1 / 251), (100, 0.04, 0.06458), (100, 1.0, 1.0)],
)
def test_loss_counts_by_its_upper_bound(sent: int, loss: float, bound: float) -> None:
    found = estimate(IDS, [window("a", "b", 10.0, loss=loss, sent=sent)], now_unix=NOW)
    assert found.loss_bound[0, 1] == pytest.approx(bound, abs=1e-5)
    assert np.isnan(found.loss_bound[1, 0])


def test_what_the_overlay_repaired_costs_nothing() -> None:
    rows = [window("a", "b", 10.0, loss=0.1, sent=MANY), window("a", "c", 10.0, loss=0.1, sent=MANY)]
    seen = [("a", "b", 60, 60), ("a", "b", 40, 30), ("a", "c", 19, 19), ("a", "x", 99, 99)]
    found = estimate(IDS, rows, now_unix=NOW, repairs=seen)
    assert found.repaired[0, 1] == pytest.approx(0.9)
    costs = edge_costs(found, Prices(loss_ms=1000.0))
    assert costs.loss[0, 1] == pytest.approx(10.05, abs=0.01)
    # Nineteen losses are too few to learn from.
    assert costs.loss[0, 2] == pytest.approx(105.4, abs=0.1)


def test_an_edge_whose_past_says_nothing_is_no_part_of_a_new_path() -> None:
    figures = {"b": [30.0, 33.0, 30.0, 36.0], "c": [30.0, 180.0, 27.0, 210.0]}
    rows = [
        window("a", peer, rtt, start=NOW - 60 + 10 * n)
        for peer, rtts in figures.items()
        for n, rtt in enumerate(rtts)
    ]
    found = estimate(IDS, rows, now_unix=NOW)
    assert found.skill[0, 1] > 0.85 > 0.2 > found.skill[0, 2] > 0.1
    assert np.isnan(found.skill[1, 0])
    costs = edge_costs(found)
    assert np.isfinite(costs.total[0, 1]) and np.isinf(costs.total[0, 2])
    assert np.isfinite(costs.straight[0, 2]) and np.isfinite(costs.kept[0, 2])


def test_unmeasured_jitter_counts_as_the_typical_one() -> None:
    rows = [
        window("a", "b", 100.0, jitter_ms=None, sent=MANY),
        window("a", "c", 100.0, jitter_ms=6.0, sent=MANY),
        window("b", "c", 100.0, jitter_ms=2.0, sent=MANY),
    ]
    costs = edge_costs(estimate(IDS, rows, now_unix=NOW), Prices(jitter=1.0))
    assert costs.total[0, 1] == pytest.approx(104.0)


def test_the_digest_names_what_decides() -> None:
    row = window("a", "b", 100.0)
    one = estimate(IDS, [row], now_unix=NOW).sha256()
    assert one == estimate(IDS, [row], now_unix=NOW + 5).sha256()
    assert one != estimate(IDS, [window("a", "b", 100.1)], now_unix=NOW).sha256()
    assert one != estimate(("a", "b", "d"), [row], now_unix=NOW).sha256()


def test_from_matrices_makes_the_diagonal_unmeasured() -> None:
    found = from_matrices(("a", "b"), np.array([[0.0, 5.0], [np.nan, 0.0]]))
    assert found.measured.tolist() == [[False, True], [False, False]]


def test_figures_for_json() -> None:
    assert unmeasured_as_none(float("nan")) is None
    assert unmeasured_as_none(float("inf")) is None
    assert unmeasured_as_none(0.0) == 0.0


@pytest.mark.parametrize(("ahead_s", "rtt_ms"), [(60, 0.1), (61, 10.0), (10**9, 10.0)])
def test_windows_of_the_future_decide_nothing(ahead_s: int, rtt_ms: float) -> None:
    rows = [window("a", "b", 10.0), window("a", "b", 0.1, start=NOW - 10 + ahead_s, sent=5000)]
    assert estimate(IDS, rows, now_unix=NOW, rounds=1).rtt_ms[0, 1] == rtt_ms


@pytest.mark.parametrize("ahead_s", [-60, 50, 60])
def test_a_clock_that_is_wrong_makes_nobody_elses_rounds_old(ahead_s: int) -> None:
    told = [
        {**row, "start": row["start"] - 10 * back + (ahead_s if row["node"] == "de-1" else 0)}
        for row in windows()
        for back in range(9)
    ]
    decision = decide(small_fleet(), told, in_force=None, serial=1, now_unix=NOW)
    assert decision.table.routes["ae-1", "kr-1"].primary == ("ae-1", "sg-1", "kr-1")


def first_rounds(count: int, late: int) -> EdgeCosts:
    """So many rounds of three nodes; a -> b is in the last `late` of them only."""
    rounds = np.full((count, 3, 3), 50.0, np.float32)
    rounds[: count - late, 0, 1] = np.nan
    return edge_costs(from_rounds(IDS, rounds))


def test_an_edge_without_a_past_is_part_of_no_new_path_once_others_have_one() -> None:
    late = first_rounds(3, late=1)
    assert np.isinf(late.total[0, 1]) and np.isfinite(late.total[1, 0])
    assert np.isfinite(late.straight[0, 1]) and np.isfinite(late.kept[0, 1]), "alone it may be the path"
    assert np.isfinite(first_rounds(3, late=2).total[0, 1]), "two rounds are a past"


@pytest.mark.parametrize("count", [1, 2])
def test_in_a_new_fleet_it_does_not_matter_whose_second_round_is_here_already(count: int) -> None:
    assert np.isfinite(first_rounds(count, late=1).total[0, 1])


def test_noise_is_told_from_a_path_in_a_new_fleet_too() -> None:
    rounds = np.full((2, 3, 3), 50.0, np.float32)
    rounds[1, 0, 1] = 500.0
    assert np.isinf(edge_costs(from_rounds(IDS, rounds)).total[0, 1])
