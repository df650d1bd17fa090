"""What the inventory wants to be probed: pairs of markets, how often, at what cost, and what is good. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Importance = Literal["low", "normal", "high"]
# Figure -> (warn, bad); None leaves the line that would hold without it.
Verdicts = Mapping[str, tuple[float | None, float | None]]
_NOTHING: Mapping[str, tuple[float | None, float | None]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Objective:
    """What a pair of markets is promised. None: nothing.

    `availability`: least share of the measured time in which calls connect and none is bad; `coverage`: least share of
    all time that has to be measured; `p95`: figure -> what 95 of 100 calls must not be worse than.
    """

    availability: float | None = None
    coverage: float | None = None
    p95: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class Budget:
    """What probing may cost. A run is one `probe run`; `cpu_seconds_an_hour` is that of the calls on all nodes together
    (None: no limit); `parallel` is how many calls are made at the same time.
    """

    calls_a_run: int = 10
    seconds_a_run: float = 50.0
    cpu_seconds_an_hour: float | None = None
    parallel: int = 2


@dataclass(frozen=True, slots=True)
class ProbePair:
    """Two markets between which calls are made, `a` calling; one call measures both directions.

    `every_s` is None for a pair that is only called by hand.
    """

    a: str
    b: str
    every_s: int | None
    profile: str = "sd"
    seconds: float = 8.0
    transport: str = "udp"
    importance: Importance = "normal"
    verdict: Verdicts = field(default_factory=lambda: _NOTHING, hash=False)
    objective: Objective = Objective()


@dataclass(frozen=True, slots=True)
class Probes:
    """probes.yaml, checked. Without that file nothing is scheduled, and the published limits hold.

    `pairs` has every pair of markets once at most, in the file's order. `mesh_every_s` and `edges_every_s` are None
    for what is not scheduled.
    """

    pairs: tuple[ProbePair, ...] = ()
    mesh_every_s: int | None = None
    edges_every_s: int | None = None
    budget: Budget = Budget()
    verdict: Verdicts = field(default_factory=lambda: _NOTHING, hash=False)
    objective: Objective = Objective()

    def scheduled(self) -> tuple[ProbePair, ...]:
        """The pairs that `probe run` calls."""
        return tuple(pair for pair in self.pairs if pair.every_s is not None)

    def pair(self, one: str, other: str) -> ProbePair | None:
        """The row of these two markets, whoever calls."""
        return next((pair for pair in self.pairs if {pair.a, pair.b} == {one, other}), None)

    def is_service(self, from_market: str | None, to_market: str | None, call: Mapping[str, object]) -> bool:
        """Whether a call (with "profile" and "transport") is such a one as this pair is judged by: what somebody tried
        by hand over a worse profile or another transport says nothing of the service. Calls of before the transport
        was kept went over UDP.
        """
        pair = None if from_market is None or to_market is None else self.pair(from_market, to_market)
        wanted = pair or ProbePair("", "", None)
        return (call["profile"], call["transport"] or "udp") == (wanted.profile, wanted.transport)

    def overrides(self, from_market: str | None, to_market: str | None) -> Verdicts:
        """Figure -> (warn, bad) that hold in place of the published ones for media from one market to the other."""
        pair = None if from_market is None or to_market is None else self.pair(from_market, to_market)
        return self.verdict if pair is None else pair.verdict

    def objective_of(self, from_market: str, to_market: str) -> Objective:
        """What media from one market to the other is promised."""
        pair = self.pair(from_market, to_market)
        return self.objective if pair is None else pair.objective
