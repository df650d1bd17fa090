"""The cheapest lawful paths with one or two relays for every ordered pair: min-plus products under masks. Pure numpy.

For a few sources at a time: a call of numpy costs what thousands of additions do, and what is added and compared has to
stay in the cache.

    i -> k -> j        the best few k of every target: one product of `into` (k to j) and `reach` (i to k)
    i -> k -> l -> j   another one, of `into` and the best way to each l, which the first one has found

What zones forbid is struck from the best few; only where too few of them are left it is searched again among the relays
that they let pass. All of it is in single precision, which halves the time: a few parts in ten million.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commcli.routing.estimate import Matrix
from commcli.routing.policy import Mask, Masks

Index = NDArray[np.int32]
Costs = NDArray[np.float32]
Places = NDArray[np.intp]
NOBODY = -1

_NEVER = np.float32(np.inf)
# So many best relays of each pair are kept.
_KEPT = 3
# Single-precision costs in one call: as many as stay in the cache, for between calls threads wait for each other.
_PART = 1 << 20
# Pairs that are decided together: enough to hide what a call of numpy costs.
_PAIRS = 1 << 14
# Below so many nodes a second thread costs more than it brings.
_THREADED = 400


def spread(work: Callable[[Any], None], items: Sequence[Any], nodes: int) -> None:
    """Do the `work` on each of the items, which share no result, by all cores if so many `nodes` are worth it: numpy
    lets go of the interpreter.
    """
    cores = len(os.sched_getaffinity(0)) if nodes >= _THREADED else 1

    def share(turn: int) -> None:
        for item in items[turn::cores]:
            work(item)

    if cores == 1:
        share(0)
        return
    with ThreadPoolExecutor(cores) as pool:
        for _ in pool.map(share, range(cores)):
            pass


class Search:
    """Relayed paths over (N, N) `usable` edge costs in ms (infinite where unusable). Every answer is of the sources in
    the slice `rows`: (rows, N) arrays of node numbers, NOBODY where there is no such relay, and what is there costs.
    `hops` (N,) is what each relay adds, `alike` (N, N) which nodes may fail together.

    Inside, relays are numbered 0..R-1 and targets stand in the order of their kind, so that targets under the same
    zones are neighbours.
    """

    def __init__(self, usable: Matrix, masks: Masks, hops: Matrix, alike: Mask | None = None) -> None:
        size = len(usable)
        relays = np.flatnonzero(masks.transit & masks.lawful.any(axis=0))
        lawful, same = np.unique(masks.lawful[:, relays], axis=0, return_inverse=True)
        groups, merged = np.unique(same.astype(np.int32)[masks.groups], axis=0, return_inverse=True)
        groups, self._kind = groups[:, np.unique(merged, return_index=True)[1]], merged[masks.kind]
        order = np.argsort(self._kind, kind="stable")
        self._rules = [_Rules(lawful, row[self._kind[order]]) for row in groups]
        self._hub = _Hub(usable, order, relays, hops)
        self._alike = None if alike is None else alike[:, relays]
        self._shut = masks.blocked | np.eye(size, dtype=bool)
        self._best = np.empty((_KEPT, size, size), np.int32)
        self._best_cost = np.empty((_KEPT, size, size), np.float32)
        self._relayed = np.empty((2, size, size), np.int32)
        self._relayed_cost = np.empty((size, size), np.float32)
        spread(self._look, self._together(max(1, _PAIRS // max(1, size))), size)

    def relayed(self, rows: slice) -> tuple[Index, Index, Costs]:
        """The cheapest path with one or two relays; one where two bring nothing."""
        return self._relayed[0, rows], self._relayed[1, rows], self._relayed_cost[rows]

    def near(self, rank: int, rows: slice) -> tuple[Index, Costs]:
        """The relay of each pair that comes `rank` places after the best one, up to two."""
        return self._best[rank, rows], self._best_cost[rank, rows]

    def one(
        self, rows: slice, taken: Sequence[Index], wanted: Mask, *, apart: bool = False
    ) -> tuple[Index, Costs]:
        """The best relay of each of the `wanted` pairs that is none of those `taken`, and if it has to be `apart` not
        alike any of them.
        """
        found, price = np.full(wanted.shape, NOBODY, np.int32), np.full(wanted.shape, _NEVER)
        if apart:
            self._look_again(rows, found, price, taken, wanted, self._alike)
            return found, price
        for rank in reversed(range(_KEPT)):
            relay, cost = self.near(rank, rows)
            fits = wanted.copy()
            for other in taken:
                fits &= relay != other
            found, price = np.where(fits, relay, found), np.where(fits, cost, price)
        short = wanted & (found == NOBODY) & (self._best[-1, rows] != NOBODY)
        self._look_again(rows, found, price, taken, short)
        return found, price

    def two(self, rows: slice, taken: tuple[Index, Index], wanted: Mask) -> tuple[Index, Index, Costs]:
        """The cheapest path with two relays, neither of them `taken`, of the `wanted` pairs."""
        found, price = np.full((2, *wanted.shape), NOBODY, np.int32), np.full(wanted.shape, _NEVER)
        if not len(self._hub.place):
            return found[0], found[1], price
        for row, fan, places in self._asked(rows, wanted & ~self._shut[rows], 4):
            nodes = self._hub.order[places]
            avoided = [self._hub.number[each[row, nodes]] for each in taken]
            path, price[row, nodes] = fan.by_two_without(places, avoided)
            found[:, row, nodes] = self._hub.names[path]
        return found[0], found[1], price

    def _together(self, count: int) -> list[Places]:
        """All sources, up to so many at a time, those of one kind together."""
        found = []
        for kind in range(len(self._rules)):
            sources = np.flatnonzero(self._kind == kind)
            found += [sources[start : start + count] for start in range(0, len(sources), count)]
        return found

    def _look(self, sources: Places) -> None:
        """All that is kept of the pairs from these sources, which are of one kind."""
        hub = self._hub
        fan = _Fan(hub, self._rules[self._kind[sources[0]]], sources)
        best, costs = fan.by_one(_KEPT)
        path, cost = fan.by_two(best[0], costs[0])
        row, place = np.nonzero(self._shut[sources][:, hub.order])
        costs[:, row, place] = cost[row, place] = _NEVER
        best[:, row, place] = path[:, row, place] = NOBODY
        self._best[:, sources] = hub.names[best][..., hub.back]
        self._best_cost[:, sources] = costs[..., hub.back]
        self._relayed[:, sources] = hub.names[path][..., hub.back]
        self._relayed_cost[sources] = cost[..., hub.back]

    def _asked(self, rows: slice, wanted: Mask, depth: int = _KEPT) -> Iterator[tuple[int, _Fan, Places]]:
        """(row, paths from there, places of the wanted targets) of each source that has any."""
        for row in np.flatnonzero(wanted.any(axis=1)).tolist():
            source = rows.start + row
            fan = _Fan(self._hub, self._rules[self._kind[source]], np.array([source]), depth)
            yield row, fan, np.flatnonzero(wanted[row, self._hub.order])

    def _look_again(
        self,
        rows: slice,
        found: Index,
        price: Costs,
        taken: Sequence[Index],
        wanted: Mask,
        alike: Mask | None = None,
    ) -> None:
        """Nothing that is kept of these pairs will do: look at all relays. `alike` (N, R)."""
        for row, fan, places in self._asked(rows, wanted):
            nodes = self._hub.order[places]
            relay, price[row, nodes] = fan.by_one_without(places, [each[row, nodes] for each in taken], alike)
            found[row, nodes] = self._hub.names[relay]


class _Rules:
    """What zones say of the pairs of one kind of source: the groups of targets that occur, `slot` (N,) which of these G
    each target is of, and `runs` of neighbours: (start, stop, slot). `lawful` (G, R + 1) are the relays that each
    group's zones let pass; NOBODY is none. `toll` (G, R) is infinite where they do not; `lasts` are all (slot, relay)
    that they let pass.
    """

    def __init__(self, lawful: Mask, group: NDArray[np.int32]) -> None:
        groups, self.slot = np.unique(group, return_inverse=True)
        self.lawful = np.pad(lawful[groups], ((0, 0), (0, 1)))
        self.toll = np.where(lawful[groups], np.float32(0), _NEVER)
        self.lasts = np.nonzero(lawful[groups])
        starts = [0, *(np.flatnonzero(np.diff(self.slot)) + 1).tolist(), len(group)]
        self.runs = [(a, b, int(self.slot[a])) for a, b in pairwise(starts)]

    def permits(self, slot: Places, relays: Index) -> Mask:
        """Whether each target's group lets these relays pass. Of NOBODY it is the last column before."""
        found: Mask = self.lawful.ravel().take(slot * self.lawful.shape[1] + relays)
        return found


class _Hub:
    """The relays, and the costs around them. Rows are where an edge ends, so that the minimum over relays runs along
    memory: five times as fast as across.
    """

    def __init__(self, usable: Matrix, order: Places, relays: Places, hops: Matrix) -> None:
        self.order, self.back = order, np.argsort(order)
        # One more than there are: of NOBODY both are NOBODY.
        self.number = np.full(len(usable) + 1, NOBODY, np.int32)
        self.number[relays] = np.arange(len(relays))
        self.names = np.append(relays, NOBODY).astype(np.int32)
        self.target = self.number[order]
        self.place = self.back[relays]
        self.room = _Room()
        self.reach: Costs = usable[:, relays].astype(np.float32)  # (N, R): node -> relay
        # (N, R): relay -> target, and what the relay adds
        self.into: Costs = np.ascontiguousarray(usable[relays].astype(np.float32)[:, order].T)
        self.into += hops[relays].astype(np.float32)


class _Room(threading.local):
    """Room for the sums of one part, one for each thread: new room for each would have to be mapped each time, which
    takes longer than to add.
    """

    def __init__(self) -> None:
        self._cells = np.empty(_PART, np.float32)

    def of(self, *shape: int) -> Costs:
        return self._cells[: math.prod(shape)].reshape(shape)


class _Fan:
    """The relayed paths from B sources of one kind. `reach` (B, G, R) is what it costs to each relay for the targets of
    each group. A path repeats no node: the diagonals of the costs are infinite, and the rest is kept out by hand.
    """

    def __init__(self, hub: _Hub, rules: _Rules, sources: Places, depth: int = _KEPT) -> None:
        self.hub, self.rules = hub, rules
        self._depth = depth
        self.own = hub.number[sources]
        self.reach: Costs = hub.reach[sources][:, None] + rules.toll

    def _sums(self, ways: Costs, runs: Sequence[tuple[int, int, int]]) -> Iterator[tuple[slice, Costs]]:
        """Part by part of the targets (B, C, R): the `ways` (B, G, R) to each relay of the group that each run of
        targets is of, and into them. Each holds until the next one.
        """
        count, relays = len(ways), ways.shape[2]
        step = max(1, _PART // max(1, count * relays))
        for start in range(0, len(self.hub.into), step):
            stop = min(start + step, len(self.hub.into))
            cost = self.hub.room.of(count, stop - start, relays)
            for a, b, slot in runs:
                a, b = max(a, start), min(b, stop)
                if a < b:
                    np.add(self.hub.into[a:b], ways[:, slot, None], out=cost[:, a - start : b - start])
            yield slice(start, stop), cost

    def _costs(self, row: Places, places: Places, slot: Places) -> Iterator[tuple[slice, Costs]]:
        """The same of single pairs, (C, R): from the source in this row to the target at this place."""
        relays = self.hub.into.shape[1]
        step = max(1, _PART // max(1, relays))
        for start in range(0, len(places), step):
            part = slice(start, min(start + step, len(places)))
            cost = self.hub.room.of(part.stop - start, relays)
            self.hub.into.take(places[part], axis=0, out=cost, mode="clip")
            cost += self.reach[row[part], slot[part]]
            yield part, cost

    @cached_property
    def _seen(self) -> tuple[Index, Costs]:
        """(depth, B, N) the best relays to each target that any of the groups lets pass, and what they cost."""
        shape = self._depth, len(self.own), len(self.hub.into)
        found, costs = np.empty(shape, np.int32), np.empty(shape, np.float32)
        everyone = [(0, shape[2], 0)]
        for part, cost in self._sums(self.reach.min(axis=1, keepdims=True), everyone):
            found[..., part], costs[..., part] = _least(cost, self._depth)
        return found, costs

    def by_one(self, count: int) -> tuple[Index, Costs]:
        """(count, B, N): the best relays to each target that zones let pass, and what they cost."""
        return self._permitted(slice(None), self.rules.slot, count)

    def _permitted(self, at: Any, slot: Places, count: int) -> tuple[Index, Costs]:
        """(count, B, E): the same of the targets at E places under the zones of these groups."""
        seen, seen_costs = self._seen
        relays, costs = seen[..., at], seen_costs[..., at]
        if len(self.rules.toll) == 1:
            return relays[:count], costs[:count]
        may = self.rules.permits(slot, relays)
        row, column = np.nonzero(~may[:count].all(axis=0))
        others = relays[:, row, column]
        left, price = _first(others, costs[:, row, column], may[:, row, column], count)
        short = np.flatnonzero((left[-1] == NOBODY) & (others[-1] != NOBODY))
        places = np.arange(seen.shape[2])[at][column[short]]
        for part, cost in self._costs(row[short], places, slot[column[short]]):
            left[:, short[part]], price[:, short[part]] = _least(cost, count)
        relays, costs = relays[:count].copy(), costs[:count].copy()
        relays[:, row, column], costs[:, row, column] = left, price
        return relays, costs

    def _leads(self, count: int) -> tuple[Index, Costs]:
        """(count, B, G, R): the best first relays on the way to each last one, and the cost of that way."""
        slot, last = self.rules.lasts
        shape = count, *self.reach.shape
        leads, costs = np.full(shape, NOBODY, np.int32), np.full(shape, _NEVER)
        leads[..., slot, last], costs[..., slot, last] = self._permitted(self.hub.place[last], slot, count)
        row = np.flatnonzero(self.own != NOBODY)
        costs[:, row, :, self.own[row]] = _NEVER
        return leads, costs

    def by_two(self, one: Index, by_one: Costs) -> tuple[Index, Costs]:
        """(2, B, N) relays and (B, N) what the path costs: two relays where that beats the `one` that is known."""
        hub, slot = self.hub, self.rules.slot
        leads, costs = self._leads(2)
        row, group, last = np.nonzero(leads[0] != NOBODY)
        # Where the best way to the last relay leads over the target itself: the next best one.
        over = hub.place[leads[0, row, group, last]]
        kept = np.flatnonzero(slot[over] == group)
        row, group, last, over = row[kept], group[kept], last[kept], over[kept]
        instead = hub.into[over, last] + costs[1, row, group, last]
        exit_, least = np.empty_like(one), np.empty_like(by_one)
        for part, cost in self._sums(costs[0], self.rules.runs):
            at = np.flatnonzero((over >= part.start) & (over < part.stop))
            cost[row[at], over[at] - part.start, last[at]] = instead[at]
            (exit_[:, part],), (least[:, part],) = _least(cost, 1)
        path, price = np.array((one, np.full_like(one, NOBODY))), np.minimum(least, by_one)
        row, place = np.nonzero(least < by_one)
        leaves = exit_[row, place]
        entry, other = leads[:, row, slot[place], leaves]
        path[:, row, place] = np.where(entry == hub.target[place], other, entry), leaves
        return path, price

    def by_one_without(
        self, places: Places, taken: Sequence[Index], alike: Mask | None
    ) -> tuple[Index, Costs]:
        """(C,) of the only source: the best lawful relay that is neither `taken` (C,), nodes, nor `alike` (N, R) any of
        these, and the cost by it.
        """
        found, price = np.empty(len(places), np.int32), np.empty(len(places), np.float32)
        for part, cost in self._costs(np.zeros_like(places), places, self.rules.slot[places]):
            names = [each[part] for each in taken]
            if alike is not None:
                np.copyto(cost, _NEVER, where=_alike_any(alike, names))
            _bar(cost, [self.hub.number[each] for each in names])
            (found[part],), (price[part],) = _least(cost, 1)
        return found, price

    def by_two_without(self, places: Places, taken: Sequence[Index]) -> tuple[Index, Costs]:
        """(2, C) relays, neither of them one of the two `taken` (C,), and (C,) what the path costs."""
        hub, slot = self.hub, self.rules.slot
        leads, costs = (each[:, 0] for each in self._leads(4))
        path, price = np.empty((2, len(places)), np.int32), np.empty(len(places), np.float32)
        step = max(1, _PART // leads[:, 0].size)
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            entry, way = leads[:, slot[places[part]]], costs[:, slot[places[part]]]
            barred = [each[part] for each in taken]
            for relay in (*barred, hub.target[places[part]]):
                way[(entry == relay[:, None]) & (entry != NOBODY)] = _NEVER
            cost = way.min(axis=0) + hub.into[places[part]]
            _bar(cost, barred)
            (exit_,), (price[part],) = _least(cost, 1)
            at = np.arange(len(exit_))
            first = entry[way[:, at, exit_].argmin(axis=0), at, exit_]
            path[:, part] = np.where(exit_ == NOBODY, NOBODY, (first, exit_))
        return path, price


def _first(relays: Index, costs: Costs, may: Mask, count: int) -> tuple[Index, Costs]:
    """(count, E): the first of these relays (depth, E), and their costs, that may be."""
    shape = count, relays.shape[1]
    left, price = np.full(shape, NOBODY, np.int32), np.full(shape, _NEVER)
    rank = np.cumsum(may, axis=0)
    for row in range(len(relays)):
        at = np.flatnonzero(may[row] & (rank[row] <= count))
        left[rank[row, at] - 1, at], price[rank[row, at] - 1, at] = relays[row, at], costs[row, at]
    return left, price


def _alike_any(alike: Mask, names: Sequence[Index]) -> Mask:
    """(C, R): the relays that are alike to any of the nodes of each row; NOBODY is alike to none."""
    found = np.zeros((len(names[0]), alike.shape[1]), dtype=bool)
    for row in names:
        at = np.flatnonzero(row != NOBODY)
        found[at] |= alike[row[at]]
    return found


def _bar(cost: Costs, taken: Sequence[Index]) -> None:
    for row in taken:
        at = np.flatnonzero(row != NOBODY)
        cost[at, row[at]] = _NEVER


def _least(cost: Costs, count: int) -> tuple[Index, Costs]:
    """(count, ...): the columns of the least entries of each row (the last axis), cheapest first, the first among
    equals, and the entries; NOBODY where nothing finite is left. Uses `cost` up.
    """
    shape = count, *cost.shape[:-1]
    found, least = np.full(shape, NOBODY, np.int32), np.full(shape, _NEVER)
    flat = cost.ravel()
    starts = cost.shape[-1] * np.arange(math.prod(shape[1:])).reshape(shape[1:])
    for rank in range(min(count, cost.shape[-1])):
        chosen = cost.argmin(axis=-1)
        at = starts + chosen
        least[rank] = flat[at]
        found[rank] = np.where(least[rank] < _NEVER, chosen, NOBODY)
        flat[at] = _NEVER
    return found, least
