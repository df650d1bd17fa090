"""How a path would have done in the last rounds: what a winner among many noisy sums must show first. Pure.

The cheapest of many relayed paths is often cheap by chance only. So a path is compared with the direct one round by
round, in which both met the same Internet, and a relay's bad rounds count whatever its median says. The figures are
what back-tests on public measurements liked best (`commcli route replay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from commcli.routing import planner
from commcli.routing.cost import EdgeCosts
from commcli.routing.estimate import Matrix, Rounds, answered, median, worst
from commcli.routing.planner import Incumbent, Margin, Paths
from commcli.routing.policy import Mask, Masks
from commcli.routing.search import NOBODY, Index

# A path in force goes back to direct when it was the worse one in more of the rounds than this, or so much worse in the
# last one.
WORSE_SHARE = 0.2
WORSE_FACTOR = 1.078
# On the Internet relays halve the RTT of one or two pairs in a hundred. Where they seem to do so for more than this,
# and there are many to choose from, the cheapest of many sums was picked from noise.
HALVED_SHARE, MANY_PAIRS = 0.1, 400
# So is a mesh of which half of the edges have less skill than this: 0.99 is usual.
NOISY = 0.8
# A path is entered when it also wins on what was known one or two rounds ago.
EARLIER = (1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """Of each pair's path, over the rounds in which it and the direct path are known: (N, N) counts of them, of those
    in which it was the worse one, and whether it was much worse in the last round.
    """

    rounds: NDArray[np.int64]
    worse: NDArray[np.int64]
    is_far_behind: Mask

    @property
    def is_bad(self) -> Mask:
        """Where a path in force has to be left."""
        bad: Mask = (self.worse > WORSE_SHARE * self.rounds) | self.is_far_behind
        return bad


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """The last rounds of every edge under today's masks, and what it costs today."""

    rounds: Rounds
    costs: EdgeCosts
    masks: Masks
    hops: Matrix
    margin: Margin

    def record(self, first: Index, second: Index) -> Record:
        """How these paths compare with the direct ones: a round's RTT, and what jitter, loss and relays cost today."""
        seen = np.zeros(first.shape, np.int64)
        worse, far = np.zeros_like(seen), np.zeros(first.shape, dtype=bool)
        for each in self.rounds:
            direct = planner.usable_costs(each + self._other, self.masks)
            cost = self._along(direct, first, second)
            known = ~(np.isnan(direct) | np.isnan(cost))
            seen += known
            worse += known & (cost > direct)
            with np.errstate(invalid="ignore"):
                far = known & (cost > WORSE_FACTOR * direct)
        return Record(seen, worse, far)

    def believed(self, best: Paths, today: Paths) -> tuple[Mask, Mask]:
        """(better, only): where the best path may be taken for being better than the direct one, and where for being
        there alone.

        It is better where most rounds compare the two and it was never the worse one, and where it would have won
        against today's a round or two ago, too. Of a mesh that is noise nothing is believed but what is dead.
        """
        if self.is_noise(best):
            return np.zeros(best.cost.shape, dtype=bool), self._is_dead
        record = self.record(best.first, best.second)
        good: Mask = (record.worse == 0) & (record.rounds >= self.informed / 2)
        return good & self.won_earlier(best, today), np.ones_like(good)

    def won_earlier(self, best: Paths, today: Paths) -> Mask:
        """Where the best path would have won against today's a round or two ago; everywhere, if nobody looked then."""
        wins = [self._wins(total, straight, best, today) for total, straight in self._earlier()]
        return np.logical_or.reduce(wins) if wins else np.ones(best.cost.shape, dtype=bool)

    def held(self, incumbent: Incumbent) -> Incumbent:
        """What is in force, with the direct path in place of the ones that have become bad."""
        bad = (
            self.record(incumbent.first, incumbent.second).is_bad
            & incumbent.present
            & (incumbent.first != NOBODY)
        )
        first, second = (np.where(bad, NOBODY, relay) for relay in (incumbent.first, incumbent.second))
        return replace(incumbent, first=first, second=second)

    def is_noise(self, best: Paths) -> bool:
        """Whether the mesh as a whole promises more than can be, or holds nothing for two rounds."""
        direct = planner.usable_costs(self.costs.straight, self.masks)
        pairs = np.isfinite(direct)
        if not pairs.any():
            return False
        halved = (best.cost[pairs] < 0.5 * direct[pairs]).mean() if pairs.sum() >= MANY_PAIRS else 0.0
        known = self.costs.skill[~np.isnan(self.costs.skill)]
        return bool(halved > HALVED_SHARE or (known.size and np.median(known) < NOISY))

    @property
    def informed(self) -> int:
        """The rounds in which anybody looked at anything."""
        return sum(not np.isnan(each).all() for each in self.rounds)

    @property
    def _is_dead(self) -> Mask:
        """Where nothing came back in the last round that anybody looked."""
        dead = np.zeros(self.costs.rtt.shape, dtype=bool)
        for each in self.rounds:
            dead = np.where(np.isnan(each), dead, np.isinf(each))
        return dead | np.isinf(self.costs.loss)

    def among(self, nodes: Sequence[int]) -> Past:
        """The past of these nodes alone, numbered in this order: what a single pair's question takes."""
        at = np.asarray(nodes, dtype=np.intp)
        square = np.ix_(at, at)
        costs = EdgeCosts(*(getattr(self.costs, part.name)[square] for part in fields(EdgeCosts)))
        masks = Masks(
            present=self.masks.present[at],
            transit=self.masks.transit[at],
            kind=self.masks.kind[at],
            groups=self.masks.groups,
            lawful=self.masks.lawful[:, at],
            blocked=self.masks.blocked[square],
        )
        return Past(self.rounds[:, at[:, None], at], costs, masks, self.hops[at], self.margin)

    @property
    def _other(self) -> Matrix:
        """What jitter and loss cost; NaN where an edge is not measured today."""
        return self.costs.jitter + self.costs.loss

    def _earlier(self) -> Iterator[tuple[Matrix, Matrix]]:
        """(relayed, direct) edge costs as they would have been known one and two rounds ago."""
        for back in EARLIER:
            known = answered(self.rounds[:-back])
            if len(known) == 0 or np.isnan(known).all():
                continue
            yield tuple(
                planner.usable_costs(np.where(np.isnan(total), np.inf, total), self.masks)
                for total in (worst(known) + self._other, median(known) + self._other)
            )  # type: ignore[misc]

    def _wins(self, total: Matrix, straight: Matrix, best: Paths, today: Paths) -> Mask:
        cost = self._along(total, best.first, best.second)
        rival = np.where(today.first == NOBODY, straight, self._along(total, today.first, today.second))
        return planner.beats(cost, straight, self.margin) & planner.beats(cost, rival, self.margin)

    def _along(self, usable: Matrix, first: Index, second: Index) -> Matrix:
        return planner.path_costs(usable, self.masks, self.hops, first, second)
