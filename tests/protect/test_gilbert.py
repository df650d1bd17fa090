"""The two-state chain of losses: against what it must give, and against itself played out."""

from __future__ import annotations

import itertools
import random

import pytest

from commcli.relay.protect import gilbert


def played(p: float, burst: float, seed: int) -> list[bool]:
    """A long run of packets, True for lost."""
    source = random.Random(seed)
    leave, is_bad, found = 1 / burst, False, []
    enter = leave * p / (1 - p)
    for _ in range(200_000):
        is_bad = source.random() >= leave if is_bad else source.random() < enter
        found.append(is_bad)
    return found


@pytest.mark.parametrize(
    ("p", "burst", "m", "left"),
    [  # parity of the reference (simulated there): the first m that leaves no more than 0.1 % of (8, m)
        (0.01, 1, 1, 0.001), (0.05, 1, 3, 0.001), (0.1, 1, 5, 0.001),
        (0.01, 3, 8, 0.001), (0.05, 3, 13, 0.001), (0.1, 3, 16, 0.001),
    ],
)  # fmt: skip
def test_parity_leaves_what_the_reference_found(p: float, burst: float, m: int, left: float) -> None:
    found = gilbert.after_parity(p, burst, 8, 1, 1)
    assert found[m] <= left
    assert found[m - 1] > left or m == 8  # there: 7


@pytest.mark.parametrize(("p", "burst"), [(0.03, 1.1), (0.1, 3.0), (0.2, 3.0)])
@pytest.mark.parametrize(("k", "m", "depth"), [(10, 1, 1), (8, 4, 1), (16, 4, 3)])
def test_parity_leaves_what_the_chain_played_out_leaves(
    p: float, burst: float, k: int, m: int, depth: int
) -> None:
    packets, lost, left, at = played(p, burst, 11), 0, 0, 0
    span = depth * (k + m)
    while at + span <= len(packets):
        parities = packets[at + depth * k : at + span]
        for number in range(depth):
            data = packets[at + number : at + depth * k : depth]
            lost += sum(data)
            if sum(data) + sum(parities[number::depth]) > m:
                left += sum(data)
        at += span
    blocks = len(packets) // span * depth
    model = gilbert.after_parity(p, burst, k, depth, 1)[m]
    assert left / (blocks * k) == pytest.approx(model, rel=0.25, abs=0.0015)


def test_parity_for_independent_losses_is_the_binomial() -> None:
    # (2, 1): a data packet stays lost if it is, and one of the two others is.
    assert gilbert.after_parity(0.1, 1, 2, 1, 1)[1] == pytest.approx(0.1 * (1 - 0.9**2))


def test_more_parity_never_leaves_more() -> None:
    for p, burst, k, depth in [(0.01, 1, 32, 1), (0.2, 5, 32, 1), (0.2, 3, 16, 4), (0.5, 20, 4, 1)]:
        found = gilbert.after_parity(p, burst, k, depth, 1)
        assert found[0] == p
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize(("lag", "left"), [(1, 0.1 * 2 / 3), (1000, 0.01)])
def test_two_packets_are_lost_together(lag: float, left: float) -> None:
    assert gilbert.both_lost(0.1, 3, lag) == pytest.approx(left, abs=1e-4)


def test_nothing_lost_and_all_lost_have_no_memory() -> None:
    assert gilbert.memory(0.0, 3) == 0
    assert gilbert.memory(1.0, 3) == 0
    assert gilbert.memory(0.3, 1) == 0
