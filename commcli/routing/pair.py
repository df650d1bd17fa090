"""The cheapest paths of a single pair: what the planner finds of all of them, in milliseconds. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from commcli.routing import planner
from commcli.routing.estimate import Matrix
from commcli.routing.policy import Masks

Relays = NDArray[np.intp]


def relays(masks: Masks, source: int, target: int) -> Relays:
    """The numbers of the nodes that may stand between these two."""
    may = masks.transit & masks.present & masks.lawful[masks.groups[masks.kind[source], masks.kind[target]]]
    if masks.blocked[source, target] or not (masks.present[source] and masks.present[target]):
        may = np.zeros_like(may)
    may[[source, target]] = False
    return np.flatnonzero(may)


def by_two(
    total: Matrix, hops: Matrix, source: int, target: int, between: Relays, most: int
) -> list[tuple[int, int]]:
    """The pairs of relays of the cheapest measured paths by two of those `between`, at most so many."""
    if len(between) < 2:
        return []
    cost = _by_two(total, hops, source, target, between)
    ranked = np.argsort(cost, axis=None, kind="stable")[:most]
    first, second = np.divmod(ranked[np.isfinite(cost.ravel()[ranked])], len(between))
    return [(int(between[k]), int(between[l])) for k, l in zip(first, second, strict=True)]  # noqa: E741


def cheapest(
    total: Matrix, straight: Matrix, masks: Masks, hops: Matrix, source: int, target: int
) -> tuple[int, ...] | None:
    """The path that `planner.best_paths` finds for this pair, or one as cheap; None where there is none. The direct one
    unless a relay makes it cheaper, and one relay unless two do.
    """
    usable = planner.usable_costs(straight, masks)
    direct = np.inf if masks.blocked[source, target] else usable[source, target]
    found: list[tuple[float, tuple[int, ...]]] = [(float(direct), (source, target))]
    between = relays(masks, source, target)
    if len(between):
        cost = total[source, between] + hops[between] + total[between, target]
        best = int(cost.argmin())
        found.append((float(cost[best]), (source, int(between[best]), target)))
    for one, other in by_two(total, hops, source, target, between, 1):
        legs = total[source, one] + hops[one] + total[one, other] + hops[other] + total[other, target]
        found.append((float(legs), (source, one, other, target)))
    price, path = min(found, key=lambda each: each[0])
    return path if np.isfinite(price) else None


def _by_two(total: Matrix, hops: Matrix, source: int, target: int, between: Relays) -> Matrix:
    there = total[source, between] + hops[between]
    back = hops[between] + total[between, target]
    cost: Matrix = there[:, None] + total[np.ix_(between, between)] + back[None, :]
    np.fill_diagonal(cost, np.inf)
    return cost
