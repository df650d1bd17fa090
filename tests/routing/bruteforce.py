"""The planner's question answered the slow way: try every path, ask the zone rule about each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

import numpy as np

from commcli.routing.estimate import Matrix
from commcli.routing.policy import Masks, Policy

Path = tuple[int, ...]


def lawful_paths(policy: Policy, i: int, j: int, *, most: int = 2) -> Iterator[Path]:
    """Every path from i to j with 0..`most` relays that the policy lets be, whatever it costs."""
    others = [k for k in range(len(policy.ids)) if k not in (i, j)]
    for count in range(most + 1):
        for relays in permutations(others, count):
            path = (i, *relays, j)
            names = tuple(policy.ids[k] for k in path)
            if policy.away & set(names) or any(policy.states[policy.ids[k]] != "active" for k in relays):
                continue
            if policy.violated(names) is None:
                yield path


def cost(total: Matrix, hop_ms: float, path: Path) -> float:
    """The cost of one path in ms."""
    edges = sum(float(total[a, b]) for a, b in pairwise(path))
    return edges + hop_ms * (len(path) - 2)


def best(
    policy: Policy,
    total: Matrix,
    hop_ms: float,
    i: int,
    j: int,
    *,
    avoid: frozenset[int] = frozenset(),
    direct: bool = True,
    most: int = 2,
) -> float:
    """The least cost over lawful paths whose relays are not in `avoid`; infinite where there is none."""
    costs = [
        cost(total, hop_ms, path)
        for path in lawful_paths(policy, i, j, most=most)
        if not avoid & set(path[1:-1]) and (direct or len(path) > 2)
    ]
    return min(costs, default=np.inf)


def cheapest(
    total: Matrix, masks: Masks, hop_ms: float, i: int, j: int, avoid: Path = ()
) -> tuple[float, float, float]:
    """What the direct path costs, the best one with one relay, and with two: by the masks, which makes whole fleets
    bearable. No relay is in `avoid`.
    """
    if masks.blocked[i, j]:
        return np.inf, np.inf, np.inf
    may = masks.transit & masks.lawful[masks.group[i, j]]
    may[[i, j, *avoid]] = False
    relays = np.flatnonzero(may)
    reach, into = total[i, relays] + hop_ms, total[relays, j]
    between = total[np.ix_(relays, relays)] + hop_ms
    np.fill_diagonal(between, np.inf)
    one, two = reach + into, reach[:, None] + between + into
    return float(total[i, j]), float(one.min(initial=np.inf)), float(two.min(initial=np.inf))
