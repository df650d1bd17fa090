"""How a path would have done in the last rounds: what a winner among many noisy sums must show first. Pure.

The cheapest of many relayed paths is often cheap by chance only. So a path is compared with the direct one round by
round, in which both met the same Internet, and a relay's bad rounds count whatever its median says. The figures are
what back-tests on public measurements liked best (`commcli route replay`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from commcli.routing import planner
from commcli.routing.cost import EdgeCosts
from commcli.routing.estimate import CAUTION, Matrix, Rounds, answered, quantile
from commcli.routing.planner import NOBODY, Incumbent, Index, Margin, Paths
from commcli.routing.policy import Mask, Masks

# A path in force goes back to direct when it was the worse one in more of the rounds than this, or so much worse in the
# last one.
WORSE_SHARE = 0.2
WORSE_FACTOR = 1.2
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
    """The last rounds of every edge under today's masks, with what jitter and loss cost today."""

    rounds: Rounds
    costs: EdgeCosts
    masks: Masks
    hop_ms: float
    margin: Margin

    def record(self, first: Index, second: Index) -> Record:
        """How these paths compare with the direct ones: a round's RTT, and what jitter, loss and relays cost today."""
        seen = np.zeros(first.shape, np.int64)
        worse, far = np.zeros_like(seen), np.zeros(first.shape, dtype=bool)
        for each in self.rounds:
            direct = planner.usable_costs(each + self._other, self.masks)
            cost = np.where(first == NOBODY, direct, self._along(direct, first, second))
            known = ~(np.isnan(direct) | np.isnan(cost))
            seen += known
            worse += known & (cost > direct)
            with np.errstate(invalid="ignore"):
                far = known & (cost > WORSE_FACTOR * direct)
        return Record(seen, worse, far)

    def believed(self, best: Paths, today: Paths) -> Mask:
        """Where the best path was never the worse one, and would have won against today's a round or two ago, too."""
        good: Mask = self.record(best.first, best.second).worse == 0
        wins = [self._wins(total, straight, best, today) for total, straight in self._earlier()]
        return good & np.logical_or.reduce(wins) if wins else good

    def held(self, incumbent: Incumbent) -> Incumbent:
        """What is in force, with the direct path in place of the ones that have become bad."""
        bad = (
            self.record(incumbent.first, incumbent.second).is_bad
            & incumbent.present
            & (incumbent.first != NOBODY)
        )
        first, second = (np.where(bad, NOBODY, relay) for relay in (incumbent.first, incumbent.second))
        return replace(incumbent, first=first, second=second)

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
                for total in (quantile(known, CAUTION) + self._other, quantile(known, 0.5) + self._other)
            )  # type: ignore[misc]

    def _wins(self, total: Matrix, straight: Matrix, best: Paths, today: Paths) -> Mask:
        cost = self._along(total, best.first, best.second)
        rival = np.where(today.first == NOBODY, straight, self._along(total, today.first, today.second))
        return planner.beats(cost, straight, self.margin) & planner.beats(cost, rival, self.margin)

    def _along(self, usable: Matrix, first: Index, second: Index) -> Matrix:
        return planner.path_costs(usable, self.masks, self.hop_ms, first, second)
