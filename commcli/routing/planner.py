"""The decision: edge costs and masks -> primary, backup and last resort for every ordered pair. Pure numpy.

Ties go to fewer relays, and pairs share relays that are about as good as each other by their numbers: equal input gives
equal plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commcli.routing.capacity import Load, relieve
from commcli.routing.estimate import Matrix
from commcli.routing.policy import Mask, Masks
from commcli.routing.search import NOBODY, Costs, Index, Search, spread

Flat = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Margin:
    """How much better a path must be before traffic moves to it: both a share of today's cost and plain ms. `changes`
    is the share of all pairs that may move at once, save for those whose path fails; `few` may always.
    """

    share: float = 0.05
    least_ms: float = 3.0
    changes: float = 0.25
    few: int = 20

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

    def of_rows(self, rows: slice) -> Paths:
        """The same from these sources alone."""
        return Paths(self.first[rows], self.second[rows], self.cost[rows])

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

    def of_source(self, ids: Sequence[str], source: int) -> list[tuple[str, ...] | None]:
        """The paths to every target, as of `path`. For whole tables: a hundred times as fast as one after the other."""
        first, second, exists = self.first[source], self.second[source], self.exists[source]
        here = ids[source]
        return [
            None
            if not there
            else (here, target)
            if k == NOBODY
            else (here, ids[k], target)
            if l == NOBODY
            else (here, ids[k], ids[l], target)
            for target, there, k, l in zip(ids, exists.tolist(), first.tolist(), second.tolist(), strict=True)  # noqa: E741
        ]


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
    `blocked` are the pairs that a zone forbids altogether; `deferred` counts those that would move, but too many do;
    `crowded` (N,) are relays above their cap, for some of whose pairs there is no other way.
    """

    ids: tuple[str, ...]
    best: Paths
    primary: Paths
    backup: Paths
    last_resort: Paths
    blocked: Mask
    deferred: int
    crowded: Mask


Believed = Callable[[Paths, Paths], tuple[Mask, Mask]]

# Relays this near to the best one share its pairs, so that not all of them rush to the same new relay.
SHARED_MS = 0.5
# What a backup that can not fail together with the primary may cost beside the cheapest one.
APART = Margin(0.25, 20.0)
# Pairs that are decided together: few enough for what is made of them to stay near a core.
_NEAR = 1 << 17


def plan(
    ids: Sequence[str],
    total: Matrix,
    masks: Masks,
    *,
    hop_ms: float | Matrix,
    routes: Routes | None = None,
    margin: Margin | None = None,
    straight: Matrix | None = None,
    kept: Matrix | None = None,
    believed: Believed | None = None,
    alike: Mask | None = None,
    load: Load | None = None,
) -> Plan:
    """Decide every ordered pair from (N, N) edge costs in ms (infinite = unusable), under the masks. `hop_ms` is what a
    relay adds, or (N,) what each adds.

    `total` is what an edge costs as a part of a relayed path; `straight` what it costs as the direct path, where that
    differs: a relayed path is the winner among many sums, and so judged more carefully. `kept` is `total` for paths
    that are in force already.
    `routes` are those in force: a pair leaves its path only for one that wins by `margin` on today's costs,
    or when the path has become unusable or unlawful. Where nothing is in force the direct path is what a
    relay must beat. The backup shares no relay with the primary, and if that does not cost much nothing `alike` (N, N);
    the last resort is the direct path, or if that is taken or not there the best path with one relay that neither of
    them uses. `believed`, given the best paths and those of today, says where the former may be moved to, for being
    better than the direct path and for being the only one. Under a `load` no relay carries more than it has room for.
    """
    margin, hops = margin or Margin(), np.broadcast_to(np.asarray(hop_ms, dtype=np.float64), len(ids))
    if load is not None:
        hops = hops + load.price_ms
    usable = usable_costs(total, masks)
    direct_usable = usable if straight is None else usable_costs(straight, masks)
    direct = np.where(masks.blocked, np.inf, direct_usable)
    search = Search(usable, masks, hops, alike)
    settle = _Settle(usable if kept is None else usable_costs(kept, masks), masks, hops, margin, direct)
    best = _by_rows(lambda rows: _cheaper(direct[rows], _relayed(search, rows)), len(ids))

    def fair(rows: slice) -> Paths:
        return _shared(best.of_rows(rows), search, rows)

    primary, deferred = settle.primary(fair, settle.today(routes.primary if routes else None), believed)
    primary, crowded = _relieved(primary, direct, usable, masks, hops, load)
    held = settle.today(routes.backup if routes else None)
    held_last = settle.today(routes.last_resort if routes else None)

    def second(rows: slice) -> Paths:
        ahead = primary.of_rows(rows)
        target = _spare(search, rows, direct[rows], ahead, alike)
        return settle.spare(target, held, rows, (ahead,), alike)

    backup = _by_rows(second, len(ids))

    def third(rows: slice) -> Paths:
        ahead = primary.of_rows(rows), backup.of_rows(rows)
        target = _last_resort(search, rows, direct[rows], *ahead)
        return settle.spare(target, held_last, rows, ahead)

    last = _by_rows(third, len(ids))
    return Plan(tuple(ids), best, primary, backup, last, masks.blocked.copy(), deferred, crowded)


def best_paths(
    total: Matrix, masks: Masks, *, hop_ms: float | Matrix, straight: Matrix | None = None
) -> Paths:
    """The cheapest lawful path of every ordered pair, with no memory and no margin. Costs as those of `plan`."""
    hops = np.broadcast_to(np.asarray(hop_ms, dtype=np.float64), len(total))
    usable = usable_costs(total, masks)
    direct = np.where(masks.blocked, np.inf, usable if straight is None else usable_costs(straight, masks))
    search = Search(usable, masks, hops)
    return _by_rows(lambda rows: _cheaper(direct[rows], _relayed(search, rows)), len(total))


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


def path_costs(usable: Matrix, masks: Masks, hops: Matrix, first: Index, second: Index) -> Matrix:
    """Today's cost of given paths, infinite where an edge, a relay's state or a zone no longer lets them be."""
    cost, at = usable.copy(), np.flatnonzero(first != NOBODY)
    source, target = np.divmod(at, len(usable))
    group = masks.groups[masks.kind[source], masks.kind[target]]
    via = _sums(usable, hops, at, first, second)
    for relay in (first.ravel()[at], second.ravel()[at]):
        via[(relay != NOBODY) & ~(masks.transit[relay] & masks.lawful[group, relay])] = np.inf
    cost.ravel()[at] = via
    cost[masks.blocked] = np.inf
    return cost


def _sums(usable: Matrix, hops: Matrix, at: Flat, first: Index, second: Index) -> Matrix:
    """Costs of the relayed paths of the pairs with these flat numbers."""
    size = len(usable)
    source, target = np.divmod(at, size)
    entry, other = first.ravel()[at].astype(np.intp), second.ravel()[at].astype(np.intp)
    edge = usable.ravel()
    exit_ = np.where(other == NOBODY, entry, other)
    via: Matrix = edge[source * size + entry] + edge[exit_ * size + target] + hops[entry]
    two = np.flatnonzero(other != NOBODY)
    via[two] += edge[entry[two] * size + other[two]] + hops[other[two]]
    return via


def _priced(usable: Matrix, hops: Matrix, first: Index, second: Index) -> Paths:
    """Relayed paths with their costs."""
    at = np.flatnonzero(first != NOBODY)
    cost = np.full_like(usable, np.inf)
    cost.ravel()[at] = _sums(usable, hops, at, first, second)
    return Paths(first, second, cost)


def _by_rows(decide: Callable[[slice], Paths], size: int) -> Paths:
    """(size, size) paths, decided so many rows at a time that they stay near a core."""
    shape = size, size
    whole = Paths(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(shape))

    def fill(rows: slice) -> None:
        part = decide(rows)
        whole.first[rows], whole.second[rows], whole.cost[rows] = part.first, part.second, part.cost

    step = max(1, _NEAR // max(1, size))
    spread(fill, [slice(start, min(start + step, size)) for start in range(0, size, step)], size)
    return whole


def _relayed(search: Search, rows: slice) -> Paths:
    return _paths(*search.relayed(rows))


def _paths(first: Index, second: Index, cost: Costs) -> Paths:
    return Paths(first, second, cost.astype(np.float64))


def _cheaper(direct: Matrix, relayed: Paths) -> Paths:
    return _where(relayed.cost < direct, relayed, direct)


def _where(there: Mask, paths: Paths, direct: Matrix | float) -> Paths:
    """These paths, and elsewhere the direct ones, of this cost."""
    first, second = (np.where(there, relay, NOBODY) for relay in (paths.first, paths.second))
    return Paths(first, second, np.where(there, paths.cost, direct))


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
    hops: Matrix
    margin: Margin
    direct: Matrix

    def today(self, held: Incumbent | None) -> Paths | None:
        """What is in force at today's costs."""
        if held is None:
            return None
        cost = path_costs(self.usable, self.masks, self.hops, held.first, held.second)
        cost = np.where(held.first == NOBODY, self.direct, cost)
        return Paths(held.first, held.second, np.where(held.present, cost, np.inf))

    def primary(
        self, fair: Callable[[slice], Paths], today: Paths | None, believed: Believed | None
    ) -> tuple[Paths, int]:
        """The best path (`fair`, of some rows) must first earn its relays against the direct one, then beat what is in
        force.

        Back to direct needs no margin: the band between entering (5 % better) and leaving (no better) stops
        flapping. Beside the paths: how many moves have to wait.
        """
        direct = self.direct
        word = None
        if believed is not None:
            nobody = np.full(direct.shape, NOBODY, np.int32)
            word = believed(_by_rows(fair, len(direct)), today or Paths(nobody, nobody, direct))

        def target_of(rows: slice) -> Paths:
            path = fair(rows)
            earns, alone = beats(path.cost, direct[rows], self.margin), ~np.isfinite(direct[rows])
            if word is not None:
                better, only = word
                earns, alone = earns & better[rows], alone & only[rows]
            return _where(earns | alone, path, direct[rows])

        target = _by_rows(target_of, len(direct))
        if today is None:
            return target, 0
        moves = ~today.exists | beats(target.cost, today.cost, self.margin)
        moves |= target.direct & (target.cost <= today.cost)
        waiting = self._too_many(moves, target, today)
        moves[waiting] = False
        return _choose(moves, target, today), len(waiting[0])

    def _too_many(self, moves: Mask, target: Paths, today: Paths) -> tuple[Flat, Flat]:
        """Of the moves away from a path that works those that gain least, when there are too many at once."""
        differs = (target.first != today.first) | (target.second != today.second)
        at = np.flatnonzero(moves & differs & today.exists)
        most = max(self.margin.few, math.ceil(self.margin.changes * today.exists.sum()))
        gain = today.cost.ravel()[at] - target.cost.ravel()[at]
        waiting = at[np.argsort(-gain, kind="stable")[most:]]
        return np.unravel_index(waiting, moves.shape)  # type: ignore[return-value]

    def spare(
        self,
        target: Paths,
        held: Paths | None,
        rows: slice,
        taken: Sequence[Paths],
        alike: Mask | None = None,
    ) -> Paths:
        """A backup stays while it is disjoint from the paths `taken` and not clearly worse than the best such
        path; and while that one would not stand further apart from the first of them.
        """
        if held is None:
            return target
        today = held.of_rows(rows)
        shares = ~taken[0].exists
        for other in taken:
            shares |= _overlaps(today, other)
        if alike is not None:
            shares |= (
                _fails_with(today, taken[0], alike) & ~_fails_with(target, taken[0], alike) & target.exists
            )
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


def _shared(best: Paths, search: Search, rows: slice) -> Paths:
    """Where several relays are about as good as the best one each pair takes one of them, by its numbers."""
    at = np.flatnonzero((best.first != NOBODY) & (best.second == NOBODY))
    row, target = np.divmod(at, best.first.shape[1])
    near = [search.near(rank, rows) for rank in range(3)]
    choices, costs = ([each.ravel().take(at) for each in found] for found in zip(*near, strict=True))
    good = costs[1] <= costs[0] + SHARED_MS
    count = 1 + good.astype(np.intp) + (good & (costs[2] <= costs[0] + SHARED_MS))
    turn = (31 * (rows.start + row) + 17 * target) % count
    first, cost = best.first.copy(), best.cost.copy()
    first.ravel()[at] = np.choose(turn, choices)
    cost.ravel()[at] = np.choose(turn, costs)
    return Paths(first, best.second, cost)


def _relieved(
    primary: Paths, direct: Matrix, usable: Matrix, masks: Masks, hops: Matrix, load: Load | None
) -> tuple[Paths, Mask]:
    if load is None:
        return primary, np.zeros(len(usable), dtype=bool)
    first, second, crowded = relieve(primary.first, primary.second, direct, usable, masks, hops, load)
    moved = (first != primary.first) | (second != primary.second)
    cost = np.where(first == NOBODY, direct, _priced(usable, hops, first, second).cost)
    return _choose(moved, Paths(first, second, cost), primary), crowded


def _spare(search: Search, rows: slice, direct: Matrix, primary: Paths, alike: Mask | None) -> Paths:
    """What stands in for a direct primary: the best relayed path. For a relayed one: direct or one relay, whichever is
    cheaper; two only where neither is there. One relay fewer can fail while the primary does, and it costs a percent
    or two.
    """
    taken, relayed = (primary.first, primary.second), primary.first != NOBODY
    found = _one(search, rows, direct, taken, relayed)
    stranded = relayed & ~found.exists
    if stranded.any():
        found = _choose(stranded, _paths(*search.two(rows, taken, stranded)), found)
    if alike is not None:
        found = _apart(search, rows, direct, primary, found, alike)
    found = _choose(relayed, found, _relayed(search, rows))
    return _where(primary.exists, found, np.inf)


def _one(
    search: Search,
    rows: slice,
    direct: Matrix,
    taken: Sequence[Index],
    wanted: Mask,
    *,
    apart: bool = False,
) -> Paths:
    """Direct or one relay, whichever is cheaper."""
    relay, cost = search.one(rows, taken, wanted, apart=apart)
    return _where(cost < direct, _paths(relay, np.full_like(relay, NOBODY), cost), direct)


def _apart(search: Search, rows: slice, direct: Matrix, primary: Paths, found: Paths, alike: Mask) -> Paths:
    """These backups, and where they may fail together with the primary such as may not, if that does not cost much."""
    together = _fails_with(found, primary, alike)
    if not together.any():
        return found
    apart = _one(search, rows, direct, (primary.first, primary.second), together, apart=True)
    near = together & apart.exists
    near &= apart.cost <= np.where(near, found.cost + APART.of(found.cost), np.inf)
    return _choose(near, apart, found)


def _fails_with(one: Paths, other: Paths, alike: Mask) -> Mask:
    """Where both are relayed, and some relay of one is alike to some relay of the other."""
    found = np.zeros(one.first.shape, dtype=bool)
    both = (one.first != NOBODY) & (other.first != NOBODY)
    for mine in (one.first, one.second):
        for theirs in (other.first, other.second):
            at = both & (mine != NOBODY) & (theirs != NOBODY)
            found[at] |= alike[mine[at], theirs[at]]
    return found


def _last_resort(search: Search, rows: slice, direct: Matrix, primary: Paths, backup: Paths) -> Paths:
    straight = np.isfinite(direct) & ~(primary.direct | backup.direct)
    taken = (primary.first, primary.second, backup.first, backup.second)
    relay, cost = search.one(rows, taken, primary.exists & ~straight)
    nobody = np.full_like(relay, NOBODY)
    return Paths(relay, nobody, np.where(straight & primary.exists, direct, cost))
