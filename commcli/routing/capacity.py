"""No relay above its cap: who carries what, and which pairs give way when it is too much. Pure numpy.

Nobody measures how many sessions each pair of edges has, only how many each edge has; a gravity model shares them out
(Zhang, Roughan, Duffield, Greenberg: Fast accurate computation of large-scale IP traffic matrices, SIGMETRICS 2003).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commcli.fleet.model import Fleet, Node
from commcli.routing.estimate import Matrix
from commcli.routing.policy import Mask, Masks
from commcli.routing.search import NOBODY, Index

Pairs = NDArray[np.intp]

# What a session is taken to need where the node has no limit for one: a call in high definition, both ways.
SESSION_KBIT_S = 3000
# A relay costs nothing more up to half of its cap, and so much when it is full.
FULL_MS = 10.0
# Pairs whose other ways are looked at together: (pairs x relays) sums in memory.
_TOGETHER = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """`demand` (N, N) sessions of each ordered pair; `room` (N,) sessions that each node may carry in between, infinite
    where nobody said; `price_ms` (N,) what a relay costs for being busy.
    """

    demand: Matrix
    room: Matrix
    price_ms: Matrix


def load_of(fleet: Fleet, ids: Sequence[str], sessions: Mapping[str, int]) -> Load:
    """From the sessions that each edge has now, and the caps in the inventory. Nodes that did not say count as idle."""
    own = np.array([float(sessions.get(node, 0)) for node in ids])
    cap = np.array([_cap(fleet.nodes[node]) if node in fleet.nodes else np.inf for node in ids])
    total = own.sum()
    demand = own[:, None] * own[None, :] / total if total else np.zeros((len(ids), len(ids)))
    np.fill_diagonal(demand, 0.0)
    used = np.clip(own / cap, 0.0, 1.0)
    return Load(demand, np.maximum(cap - own, 0.0), FULL_MS * np.maximum(0.0, 2 * used - 1))


def _cap(node: Node) -> float:
    """Sessions that a node can carry by both of its caps."""
    caps = [np.inf]
    if node.capacity.sessions is not None:
        caps.append(float(node.capacity.sessions))
    if node.capacity.mbps is not None:
        caps.append(1000 * node.capacity.mbps / (node.limits.session_kbit_s or SESSION_KBIT_S))
    return min(caps)


def carried(first: Index, second: Index, demand: Matrix) -> Matrix:
    """(N,): the sessions that pass each node as an intermediate relay."""
    found = np.zeros(len(demand))
    for relay in (first, second):
        at = relay != NOBODY
        found += np.bincount(relay[at], weights=demand[at], minlength=len(demand))
    return found


def relieve(
    first: Index, second: Index, direct: Matrix, usable: Matrix, masks: Masks, hops: Matrix, load: Load
) -> tuple[Index, Index, Mask]:
    """(first, second, crowded): the same paths with no node above its room, as far as there are other ways.

    The fullest relay gives way first, and of its pairs those that lose least by the best of the direct path and the
    relays that have room; a relay that gave way takes nobody new. `direct` (N, N) are the direct paths' costs,
    infinite where a zone forbids them. `crowded` (N,) are nodes of which some pairs have no other way.
    """
    first, second = first.copy(), second.copy()
    closed = np.zeros(len(usable), dtype=bool)
    crowded = closed.copy()
    while True:
        used = carried(first, second, load.demand)
        over = np.where(closed, 0.0, used - load.room)
        node = int(over.argmax())
        if over[node] <= 1e-9:
            return first, second, crowded
        closed[node] = True
        source, target = np.nonzero((first == node) | (second == node))
        spare = np.where(closed, 0.0, load.room - used)
        relay, cost = _others(source, target, direct, usable, masks, hops, spare, load)
        moving = _least_hurt(cost, load.demand[source, target], over[node])
        first[source[moving], target[moving]] = relay[moving]
        second[source[moving], target[moving]] = NOBODY
        crowded[node] = bool(carried(first, second, load.demand)[node] > load.room[node] + 1e-9)


def _others(
    source: Pairs,
    target: Pairs,
    direct: Matrix,
    usable: Matrix,
    masks: Masks,
    hops: Matrix,
    spare: Matrix,
    load: Load,
) -> tuple[Index, Matrix]:
    """(relay or NOBODY, cost) of the next best path of each pair; infinite where there is none."""
    relay = np.full(len(source), NOBODY, np.int32)
    cost = direct[source, target].copy()
    open_ = np.flatnonzero(masks.transit & (spare > 0))
    for start in range(0, len(source) if open_.size else 0, _TOGETHER):
        here = slice(start, start + _TOGETHER)
        i, j = source[here], target[here]
        via = usable[i[:, None], open_] + usable[open_, j[:, None]] + hops[open_]
        group = masks.groups[masks.kind[i], masks.kind[j]]
        via[~masks.lawful[group[:, None], open_]] = np.inf
        via[load.demand[i, j][:, None] > spare[open_]] = np.inf
        best = via.argmin(axis=1)
        least = via[np.arange(len(i)), best]
        better = least < cost[here]
        relay[here][better], cost[here][better] = open_[best[better]], least[better]
    return relay, cost


def _least_hurt(cost: Matrix, demand: Matrix, excess: float) -> Pairs:
    """As many of the pairs as it takes to get rid of the excess, those with the cheapest other way first."""
    order = np.argsort(cost, kind="stable")
    order = order[np.isfinite(cost[order]) & (demand[order] > 0)]
    before = np.cumsum(demand[order]) - demand[order]
    moving: Pairs = order[before < excess]
    return moving
