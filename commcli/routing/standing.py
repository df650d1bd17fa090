"""How a lawful candidate stands in its pair's contest, and what would have to change for it to win. Pure.

The planner tries one challenger a pair, the cheapest. It has to beat the direct path and the one in force by the
margin, never to have been the worse one in the last rounds, and to have won a round or two ago, too. What is said here
follows these steps, and asks the same code about the past (past.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from commcli.routing.decision import Decision, obstacle, path_cost_ms
from commcli.routing.past import WORSE_SHARE, Past
from commcli.routing.planner import SHARED_MS, Margin, Paths
from commcli.routing.search import NOBODY
from commcli.routing.table import Path

# What would have to change is found to a hundredth of a millisecond, and tried with that much more.
EXACT_MS = 0.01
NOISE = "the mesh is noise as a whole"


@dataclass(frozen=True, slots=True)
class Tried:
    """A path in the last rounds, of which anybody looked at something in `informed`: in how many it and the direct one
    are known, in how many of these it was the worse one, and whether it was far behind in the last; `won` would it have
    won a round or two ago?
    """

    informed: int
    rounds: int
    worse: int
    is_far_behind: bool
    is_bad: bool
    won: bool

    @property
    def doubt(self) -> str:
        """Why it is not believed, "" if it is."""
        if self.worse:
            return f"worse than direct in {self.worse} of {self.rounds} rounds"
        if self.rounds < self.informed / 2:
            return f"known in {self.rounds} of {self.informed} rounds only"
        return "" if self.won else "would not have won a round or two ago"


class Contest:
    """One pair's contest under a decision."""

    def __init__(self, decision: Decision, source: str, target: str, margin: Margin | None = None) -> None:
        self._decision = decision
        self.margin = margin or Margin()
        self._past = Past(
            decision.estimate.rounds, decision.costs, decision.masks, decision.hops, self.margin
        )
        self._noise = self._past.is_noise(decision.plan.best)
        route = decision.table.routes.get((source, target))
        held = decision.in_force.routes.get((source, target)) if decision.in_force else None
        i, j = decision.position[source], decision.position[target]
        self.primary = route.primary if route else None
        self.held = held.primary if held else None
        self.best = decision.plan.best.path(decision.policy.ids, i, j)
        self.direct: Path = (source, target)
        usable = obstacle(decision, self.direct) is None
        self.direct_ms = path_cost_ms(decision, self.direct) if usable else None
        self.primary_ms = None if self.primary is None else path_cost_ms(decision, self.primary)

    def tried(self, path: Path, cheaper: Path | None = None, less_ms: float = 0.0) -> Tried:
        """What the last rounds say of it, had the path `cheaper` been cheaper by so much in all of them."""
        today = self.held if self.held and self._is_known(self.held) else self.direct
        nodes = list(dict.fromkeys([*path, *today, *(cheaper or ())]))
        past = self._past.among([self._decision.position[node] for node in nodes])
        if cheaper is not None:
            own = next((edge for edge in pairwise(cheaper) if edge not in set(pairwise(today))), cheaper[:2])
            past = replace(past, rounds=past.rounds.copy())
            past.rounds[:, nodes.index(own[0]), nodes.index(own[1])] -= less_ms
        mine, rival = (_only(nodes, each) for each in (path, today))
        record, at = past.record(mine.first, mine.second), (nodes.index(path[0]), nodes.index(path[-1]))
        return Tried(
            informed=self._past.informed,
            rounds=int(record.rounds[at]),
            worse=int(record.worse[at]),
            is_far_behind=bool(record.is_far_behind[at]),
            is_bad=bool(record.is_bad[at]),
            won=bool(past.won_earlier(mine, rival)[at]),
        )

    def verdict(self, path: Path, cost_ms: float, tried: Tried) -> str:
        """Why this usable path is not the primary; "" for the primary."""
        if path == self.primary or self.primary_ms is None:
            return ""
        if path == self.held and len(path) > 2 and tried.is_bad:
            often = tried.worse > WORSE_SHARE * tried.rounds
            return f"left: {tried.doubt if often else 'far behind direct in the last round'}"
        if cost_ms >= self.primary_ms:
            dearer = f"{_ms(cost_ms - self.primary_ms)} dearer"
            near = len(path) > 2 and self.direct_ms is not None and cost_ms < self.direct_ms
            return f"{dearer}; {tried.doubt}" if near and tried.worse else dearer
        return self._kept_out(path, cost_ms, tried)

    def _kept_out(self, path: Path, cost_ms: float, tried: Tried) -> str:
        """Why a path that is cheaper than the primary is not it."""
        if self.best is not None and path != self.best and self.best != self.primary:
            return f"only the cheapest is tried: {' > '.join(self.best)}"
        for rival, what in ((self.direct_ms, "direct"), (self._held_ms(), "the path in force")):
            if rival is not None and len(path) > 2 and rival - cost_ms < self._need(rival):
                return f"must win by {_ms(self._need(rival))} over {what}, wins by {_ms(rival - cost_ms)}"
        if len(path) > 2 and self._noise:
            return f"not believed: {NOISE}"
        if len(path) > 2 and tried.doubt:
            return f"not believed: {tried.doubt}"
        assert self.primary_ms is not None
        if self.primary_ms <= cost_ms + SHARED_MS:
            return "as good as the primary: pairs are shared among such"
        if self._decision.plan.deferred:
            return "waits: too many pairs would move at once"
        return "gives way: a relay on it has no room" if self._decision.load is not None else "allowed"

    def to_win(self, path: Path, cost_ms: float) -> tuple[float | None, str]:
        """How much cheaper this path must become, now and in all of the last rounds, to be the primary for sure (among
        paths as good as each other, SHARED_MS, the pair's number decides), and what the past says against it now. None:
        it would not be believed even then.
        """
        least_ms = self._by_cost_ms(path, cost_ms)
        if len(path) == 2:
            return self._until(lambda less_ms: not self._stands(less_ms), 0.0, least_ms), ""
        if self._noise:
            return least_ms, NOISE
        doubt = self.tried(path).doubt if least_ms == 0 else ""

        def is_believed(less_ms: float) -> bool:
            return not self.tried(path, path, less_ms).doubt

        if is_believed(least_ms + EXACT_MS if least_ms else 0.0):
            return least_ms, doubt
        most_ms = least_ms + cost_ms / 2
        return (self._until(is_believed, least_ms, most_ms) if is_believed(most_ms) else None), doubt

    def _by_cost_ms(self, path: Path, cost_ms: float) -> float:
        """The same as far as cost decides."""
        assert self.primary_ms is not None
        p, stays = self.primary_ms, self.primary == self.held
        if len(path) == 2:
            # A path in force is left for direct as soon as that is no dearer; a new one has to win by the margin first.
            limit = p if stays else max(p / (1 - self.margin.share), p + self.margin.least_ms)
        else:
            shared = SHARED_MS if self.primary is not None and len(self.primary) == len(path) == 3 else 0.0
            limit = p - self._need(p) if stays else p - shared
            limit = (
                limit if self.direct_ms is None else min(limit, self.direct_ms - self._need(self.direct_ms))
            )
        return round(max(0.0, cost_ms - limit), 3)

    def _stands(self, less_ms: float) -> bool:
        """Whether the primary would still be believed, were the direct path so much cheaper."""
        assert self.primary is not None
        tried = self.tried(self.primary, self.direct, less_ms)
        return not tried.is_bad if self.primary == self.held else not tried.doubt

    @staticmethod
    def _until(is_so: Callable[[float], bool], low: float, high: float) -> float:
        """The least figure from which on it is so, `high` if it never is; to EXACT_MS."""
        while high - low > EXACT_MS and is_so(high):
            middle = (low + high) / 2
            low, high = (low, middle) if is_so(middle) else (middle, high)
        return round(high, 3)

    def _held_ms(self) -> float | None:
        """What the path in force costs today; None where there is none that could stay."""
        if self.held is None or obstacle(self._decision, self.held) is not None:
            return None
        return path_cost_ms(self._decision, self.held)

    def _need(self, cost_ms: float) -> float:
        return float(self.margin.of(np.array(cost_ms)))

    def _is_known(self, path: Path) -> bool:
        return all(node in self._decision.position for node in path)


def _only(nodes: list[str], path: Path) -> Paths:
    """One path as the planner's arrays over a few nodes; all other pairs go direct."""
    shape = (len(nodes), len(nodes))
    first, second = np.full(shape, NOBODY, np.int32), np.full(shape, NOBODY, np.int32)
    at = nodes.index(path[0]), nodes.index(path[-1])
    for index, relay in zip((first, second), path[1:-1], strict=False):
        index[at] = nodes.index(relay)
    return Paths(first, second, np.zeros(shape))


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
