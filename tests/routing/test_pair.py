"""One pair's cheapest paths, against the search of the whole mesh."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from commcli.routing import pair
from commcli.routing.estimate import Matrix
from commcli.routing.planner import best_paths
from commcli.routing.policy import Policy, masks
from tests.routing import bruteforce
from tests.routing.strategies import HOP_MS, worlds


def _cost(total: Matrix, path: tuple[int, ...] | None) -> float:
    if path is None:
        return np.inf
    return sum(float(total[edge]) for edge in pairwise(path)) + HOP_MS * (len(path) - 2)


@given(worlds())
def test_a_pair_alone_finds_what_the_planner_does(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    law, hops = masks(policy), np.full(len(total), HOP_MS)
    whole = best_paths(total, law, hop_ms=hops)
    for i in range(len(total)):
        for j in range(len(total)):
            if i != j:
                found = pair.cheapest(total, total, law, hops, i, j)
                assert _cost(total, found) == pytest.approx(whole.cost[i, j])
                lawful = set(bruteforce.lawful_paths(policy, i, j))
                assert found is None or found in lawful
                twos = pair.by_two(total, hops, i, j, pair.relays(law, i, j), 3)
                assert {(i, *two, j) for two in twos} <= lawful
                assert sorted(_cost(total, (i, *two, j)) for two in twos) == pytest.approx(
                    sorted(
                        _cost(total, path)
                        for path in lawful
                        if len(path) == 4 and _cost(total, path) < np.inf
                    )[:3]
                )
