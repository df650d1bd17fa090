"""The decision: edge costs and masks -> primary, backup and last resort for every ordered pair. Pure numpy.

One source at a time, so that memory stays at a few (R, N) matrices for R relays. Ties go to fewer relays,
then to the node that sorts first: equal input gives equal plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commcli.routing.estimate import Matrix
from commcli.routing.policy import Mask, Masks

Index = NDArray[np.int32]
NOBODY = -1


@dataclass(frozen=True, slots=True)
class Margin:
    """How much better a path must be before traffic moves to it: both a share of today's cost and plain ms."""

    share: float = 0.05
    least_ms: float = 3.0

    def of(self, cost: Matrix) -> Matrix:
        """The margin in ms that a challenger of paths with this cost must win by."""
        return np.maximum(self.share * cost, self.least_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """A path for each ordered pair: (N, N) node numbers of its first and second intermediate relay (-1 =
    none), and its cost in ms, infinite where there is no path.
    """

    first: Index
    second: Index
    cost: Matrix

    @property
    def exists(self) -> Mask:
        exists: Mask = np.isfinite(self.cost)
        return exists

    @property
    def direct(self) -> Mask:
        """Where the path exists and has no intermediate relay."""
        direct: Mask = self.exists & (self.first == NOBODY)
        return direct

    def path(self, ids: Sequence[str], source: int, target: int) -> tuple[str, ...] | None:
        """The nodes from edge to edge, or None where there is no path."""
        if not np.isfinite(self.cost[source, target]):
            return None
        relays = (self.first[source, target], self.second[source, target])
        return (ids[source], *(ids[relay] for relay in relays if relay != NOBODY), ids[target])


@dataclass(frozen=True, slots=True, eq=False)
class Incumbent:
    """The routes in force, as node numbers: (N, N) relays and whether there is such a path at all."""

    first: Index
    second: Index
    present: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """The routes in force, each role as an Incumbent."""

    primary: Incumbent
    backup: Incumbent
    last_resort: Incumbent


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What every edge is to do. `best` is the cheapest lawful path without regard to what is in force;
    `blocked` are the pairs that a zone forbids altogether.
    """

    ids: tuple[str, ...]
    best: Paths
    primary: Paths
    backup: Paths
    last_resort: Paths
    blocked: Mask


def plan(
    ids: Sequence[str],
    total: Matrix,
    masks: Masks,
    *,
    hop_ms: float,
    routes: Routes | None = None,
    margin: Margin | None = None,
    straight: Matrix | None = None,
    believed: Callable[[Paths, Paths], Mask] | None = None,
) -> Plan:
    """Decide every ordered pair from (N, N) edge costs in ms (infinite = unusable), under the masks.

    `total` is what an edge costs as a part of a relayed path; `straight` what it costs as the direct path, where that
    differs: a relayed path is the winner among many sums, and so judged more carefully.
    `routes` are those in force: a pair leaves its path only for one that wins by `margin` on today's costs,
    or when the path has become unusable or unlawful. Where nothing is in force the direct path is what a
    relay must beat. The backup shares no relay with the primary; the last resort is the direct path, or if
    that is taken or not there the best path with one relay that neither of them uses. `believed`, given the best
    paths and those of today, says where the former may be moved to: elsewhere only what has no direct path moves.
    """
    margin = margin or Margin()
    usable = usable_costs(total, masks)
    direct_usable = usable if straight is None else usable_costs(straight, masks)
    direct = _direct(direct_usable, masks)
    best = _search(usable, masks, hop_ms, direct=direct)
    settle = _Settle(usable, masks, hop_ms, margin, direct)
    primary = settle.primary(best, direct, routes.primary if routes else None, believed)
    banned = (primary.first, primary.second)
    rival = _search(usable, masks, hop_ms, direct=direct, banned=banned, no_direct=primary.direct)
    rival = _only(rival, primary.exists)
    backup = settle.spare(rival, routes.backup if routes else None, (primary,))
    last = _last_resort(usable, masks, hop_ms, direct, primary, backup)
    last = settle.spare(last, routes.last_resort if routes else None, (primary, backup))
    return Plan(tuple(ids), best, primary, backup, last, masks.blocked.copy())


def best_paths(total: Matrix, masks: Masks, *, hop_ms: float, straight: Matrix | None = None) -> Paths:
    """The cheapest lawful path of every ordered pair, with no memory and no margin. Costs as those of `plan`."""
    usable = usable_costs(total, masks)
    direct = usable if straight is None else usable_costs(straight, masks)
    return _search(usable, masks, hop_ms, direct=_direct(direct, masks))


def usable_costs(total: Matrix, masks: Masks) -> Matrix:
    """Edge costs with the edges of absent nodes, and from a node to itself, made infinite."""
    usable = np.where(masks.present[:, None] & masks.present[None, :], total, np.inf)
    np.fill_diagonal(usable, np.inf)
    return usable


def incumbent(ids: Sequence[str], paths: Mapping[tuple[str, str], Sequence[str] | None]) -> Incumbent:
    """Paths in force ({(from, to): nodes}) as node numbers; those through nodes that are gone, or that no
    rule of ours would have made (a loop, too many relays), are left out.
    """
    position = {node: index for index, node in enumerate(ids)}
    shape = (len(ids), len(ids))
    first, second = np.full(shape, NOBODY, np.int32), np.full(shape, NOBODY, np.int32)
    present = np.zeros(shape, dtype=bool)
    for (source, target), path in paths.items():
        if path is None or len(path) > 4 or len(set(path)) < len(path):
            continue
        if any(node not in position for node in path):
            continue
        pair = position[source], position[target]
        relays = [position[node] for node in path[1:-1]] + [NOBODY, NOBODY]
        first[pair], second[pair], present[pair] = relays[0], relays[1], True
    return Incumbent(first, second, present)


def path_costs(usable: Matrix, masks: Masks, hop_ms: float, first: Index, second: Index) -> Matrix:
    """Today's cost of given paths, infinite where an edge, a relay's state or a zone no longer lets them be."""
    rows, columns = np.indices(usable.shape)
    exit_ = np.where(second >= 0, second, first)
    via = np.where(first >= 0, usable[rows, first] + usable[exit_, columns] + hop_ms, usable)
    via = np.where(second >= 0, via + usable[first, second] + hop_ms, via)
    for relay in (first, second):
        barred = ~(masks.transit[relay] & masks.lawful[masks.group, relay])
        via[(relay >= 0) & barred] = np.inf
    via[masks.blocked] = np.inf
    return via


def _direct(usable: Matrix, masks: Masks) -> Paths:
    nobody = np.full(usable.shape, NOBODY, np.int32)
    return Paths(nobody, nobody.copy(), np.where(masks.blocked, np.inf, usable))


def _only(paths: Paths, where: Mask) -> Paths:
    cost = np.where(where, paths.cost, np.inf)
    return Paths(np.where(where, paths.first, NOBODY), np.where(where, paths.second, NOBODY), cost)


def _choose(where: Mask, one: Paths, other: Paths) -> Paths:
    return Paths(
        np.where(where, one.first, other.first),
        np.where(where, one.second, other.second),
        np.where(where, one.cost, other.cost),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Settle:
    """Hysteresis: when what is in force gives way."""

    usable: Matrix
    masks: Masks
    hop_ms: float
    margin: Margin
    direct: Paths

    def _today(self, held: Incumbent) -> Paths:
        cost = path_costs(self.usable, self.masks, self.hop_ms, held.first, held.second)
        cost = np.where(held.first == NOBODY, self.direct.cost, cost)
        return Paths(held.first, held.second, np.where(held.present, cost, np.inf))

    def primary(
        self,
        best: Paths,
        direct: Paths,
        held: Incumbent | None,
        believed: Callable[[Paths, Paths], Mask] | None,
    ) -> Paths:
        """The best path must first earn its relays against the direct one, then beat what is in force.

        Back to direct needs no margin: the band between entering (5 % better) and leaving (no better) stops
        flapping.
        """
        today = direct if held is None else self._today(held)
        earns = beats(best.cost, direct.cost, self.margin)
        if believed is not None:
            earns &= believed(best, today)
        target = _choose(earns | ~direct.exists, best, direct)
        if held is None:
            return target
        moves = ~today.exists | beats(target.cost, today.cost, self.margin)
        moves |= target.direct & (target.cost <= today.cost)
        return _choose(moves, target, today)

    def spare(self, target: Paths, held: Incumbent | None, taken: Sequence[Paths]) -> Paths:
        """A backup stays while it is disjoint from the paths `taken` and not clearly worse than the best such
        path.
        """
        if held is None:
            return target
        today = self._today(held)
        shares = ~taken[0].exists
        for other in taken:
            shares |= _overlaps(today, other)
        moves = ~today.exists | shares | beats(target.cost, today.cost, self.margin)
        return _choose(moves, target, today)


def beats(challenger: Matrix, cost: Matrix, margin: Margin) -> Mask:
    with np.errstate(invalid="ignore"):
        return cost - challenger >= margin.of(cost)


def _overlaps(one: Paths, other: Paths) -> Mask:
    """Where both exist and share a relay, or are both the direct path."""
    shared = one.direct & other.direct
    for mine in (one.first, one.second):
        for theirs in (other.first, other.second):
            shared |= (mine >= 0) & (mine == theirs)
    return shared & one.exists & other.exists


def _last_resort(
    usable: Matrix, masks: Masks, hop_ms: float, direct: Paths, primary: Paths, backup: Paths
) -> Paths:
    taken = primary.direct | backup.direct
    banned = (primary.first, primary.second, backup.first, backup.second)
    nowhere = np.ones_like(taken)
    relayed = _search(usable, masks, hop_ms, direct=direct, banned=banned, no_direct=nowhere, two=False)
    chosen = _choose(direct.exists & ~taken, direct, relayed)
    return _only(chosen, primary.exists)


def _search(
    usable: Matrix,
    masks: Masks,
    hop_ms: float,
    *,
    direct: Paths,
    banned: Sequence[Index] = (),
    no_direct: Mask | None = None,
    two: bool = True,
) -> Paths:
    """The cheapest lawful path of each pair with 0 (`direct`), 1 or (if `two`) 2 relays, none of them among its
    `banned` (one node each, at most two of them if `two`).
    """
    found = Paths(direct.first.copy(), direct.second.copy(), direct.cost.copy())
    if no_direct is not None:
        found.cost[no_direct] = np.inf
    for group in range(len(masks.lawful)):
        relays = masks.relays(group)
        members = (masks.group == group) & ~masks.blocked
        if not relays.size:
            continue
        hub = _Hub(usable, hop_ms, relays)
        for source in map(int, np.flatnonzero(members.any(axis=1))):
            columns = np.flatnonzero(members[source])
            fan = _Fan(hub, usable, source, columns, [row[source, columns] for row in banned])
            _improve(found, source, columns, *fan.one())
            if two and relays.size > 1:
                _improve(found, source, columns, *fan.two())
    return found


def _improve(
    found: Paths, source: int, columns: NDArray[np.intp], first: Index, second: Index, cost: Matrix
) -> None:
    chosen = cost < found.cost[source, columns]
    better = columns[chosen]
    found.first[source, better] = first[chosen]
    found.second[source, better] = second[chosen]
    found.cost[source, better] = cost[chosen]


class _Hub:
    """The relays of a group of pairs, numbered 0..R-1, and the costs around them.

    Rows are where an edge ends, so that the minimum over relays runs along memory: five times as fast as
    across.
    """

    def __init__(self, usable: Matrix, hop_ms: float, relays: NDArray[np.intp]) -> None:
        self.hop_ms, self.relays = hop_ms, relays
        # One more than there are nodes: number[NOBODY] is NOBODY.
        self.number = np.full(len(usable) + 1, NOBODY, np.int32)
        self.number[relays] = np.arange(len(relays))
        self.into = np.ascontiguousarray(usable.T[:, relays]) + hop_ms  # (N, R): relay -> node
        self.between = self.into[relays]  # (R, R): [l, k] is k -> l


class _Fan:
    """All relayed paths from one source to `columns`; `banned` are rows of nodes that each column must avoid.

    A path i -> k -> l -> j repeats no node: the diagonal of the costs is infinite, which leaves l = i, k = j
    and banned relays to be kept out by hand.
    """

    def __init__(
        self,
        hub: _Hub,
        usable: Matrix,
        source: int,
        columns: NDArray[np.intp],
        banned: Sequence[Index],
    ) -> None:
        self.hub = hub
        self.source = hub.number[source]
        self.targets = hub.number[columns]
        self.banned = [hub.number[row] for row in banned]
        self.reach = usable[source, hub.relays]
        # No copy where the group holds all columns, as it does without zones.
        self.into = hub.into if len(columns) == len(hub.into) else hub.into[columns]
        self._ranks: list[tuple[NDArray[np.intp], Matrix]] = []

    def one(self) -> tuple[Index, Index, Matrix]:
        """The best path with one relay for each column: (first, second, cost)."""
        cost = self.into + self.reach
        for row in self.banned:
            at = np.flatnonzero(row >= 0)
            cost[at, row[at]] = np.inf
        relay, least = _least(cost)
        return self.hub.relays[relay].astype(np.int32), np.full(len(relay), NOBODY, np.int32), least

    def two(self) -> tuple[Index, Index, Matrix]:
        """The best path with two relays for each column: (first, second, cost)."""
        entry = np.zeros(len(self.targets), dtype=np.intp)
        exit_, least = np.zeros_like(entry), np.full(len(entry), np.inf)
        for avoid, rows in self._by_banned():
            entry[rows], exit_[rows], least[rows] = self._two(avoid, rows)
        return self.hub.relays[entry].astype(np.int32), self.hub.relays[exit_].astype(np.int32), least

    def _by_banned(self) -> Iterator[tuple[list[int], NDArray[np.intp] | slice]]:
        """Columns that must avoid the same relays, together: they share the way to each last relay."""
        if not self.banned:
            yield [], slice(None)
            return
        code = np.zeros(len(self.targets), dtype=np.int64)
        for row in self.banned:
            code = code * (len(self.hub.relays) + 1) + row + 1
        for value in np.unique(code):
            rows = np.flatnonzero(code == value)
            yield sorted({int(row[rows[0]]) for row in self.banned} - {NOBODY}), rows

    def _two(
        self, avoid: list[int], rows: NDArray[np.intp] | slice
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Matrix]:
        """(first, second, cost) over `rows`, with relay numbers; no relay is in `avoid`."""
        best, lead, next_, fallback = self._leads(avoid)
        into, targets = self.into[rows], self.targets[rows]
        cost = into + lead
        # Where the best way to l leads over the target itself, the second best way counts.
        slot = np.full(len(self.reach), NOBODY, np.intp)
        at = np.flatnonzero(targets >= 0)
        slot[targets[at]] = at
        row = slot[best]
        last = np.flatnonzero(row >= 0)
        cost[row[last], last] = into[row[last], last] + fallback[last]
        for relay in avoid:
            cost[:, relay] = np.inf
        exit_, least = _least(cost)
        entry = np.where(best[exit_] == targets, next_[exit_], best[exit_])
        return entry, exit_, least

    def _leads(self, avoid: list[int]) -> tuple[NDArray[np.intp], Matrix, NDArray[np.intp], Matrix]:
        """For each last relay l the best first relay that is not in `avoid` and its cost, then the second
        best.
        """
        while len(self._ranks) < 2 + len(avoid):
            self._next_rank()
        if not avoid:
            return *self._ranks[0], *self._ranks[1]
        ranks = self._ranks[: 2 + len(avoid)]
        ks, costs = np.stack([k for k, _ in ranks]), np.stack([cost for _, cost in ranks])
        for relay in avoid:
            costs[ks == relay] = np.inf
        # Ranks go from cheap to dear, so the least that is left is the first that is free; inf: none is.
        lasts = np.arange(costs.shape[1])
        first, lead = _least(costs.T)
        costs[first, lasts] = np.inf
        second, fallback = _least(costs.T)
        return ks[first, lasts], lead, ks[second, lasts], fallback

    def _next_rank(self) -> None:
        if not self._ranks:
            self._legs = self.hub.between + self.reach
            if self.source >= 0:
                self._legs[self.source] = np.inf
        best, cost = _least(self._legs)
        self._ranks.append((best, cost))
        self._legs[np.arange(len(best)), best] = np.inf


def _least(cost: Matrix) -> tuple[NDArray[np.intp], Matrix]:
    """(column, value) of the least entry of each row; the first one among equals."""
    chosen = cost.argmin(axis=1)
    return chosen, cost[np.arange(len(cost)), chosen]
