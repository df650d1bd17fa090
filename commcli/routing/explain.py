"""Why a pair's traffic goes where it goes: every candidate with what it costs or what removed it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from commcli.errors import BadInput
from commcli.fleet.model import Fleet
from commcli.relay.table import zones as zone_rule
from commcli.routing import pair, policy
from commcli.routing.decision import Decision, costs_of, hops_ms, obstacle, path_cost_ms, path_ms
from commcli.routing.estimate import unmeasured_as_none
from commcli.routing.planner import Margin
from commcli.routing.standing import Contest
from commcli.routing.table import Path

# Two-relay candidates are N^2: only the cheapest are worth a line.
TWO_RELAY_SHOWN = 5
# The past of so many candidates is looked up: what is in the plan, and the cheapest others.
LOOKED_AT = 20
_ROLES = ("primary", "backup", "last_resort", "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path and the parts of its cost in ms (None where an edge is unmeasured). `caution_ms` is what its edges are
    taken to be dearer than their median, as parts of a relayed path.

    `removed` says which zone, state or missing figure keeps it out, None if it could be chosen; `role` what
    it is in the plan: "primary", "backup", "last_resort" or "". `age_s` is that of its oldest figure,
    `samples` the packets behind its least known edge, `skill` (1: steady, 0: noise) its least steady edge's. Beside the
    direct path it was the `worse` one in so many of the last `rounds` (None: not looked up); `verdict` says why it is
    not the primary.
    """

    path: Path
    rtt_ms: float | None
    caution_ms: float | None
    jitter_ms: float | None
    loss_ms: float | None
    hops_ms: float
    cost_ms: float | None
    removed: str | None
    role: str
    age_s: float | None
    samples: int
    skill: float | None = None
    rounds: int | None = None
    worse: int | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class ZoneEffect:
    """What one zone does to this pair: its best path without the zone, and what obeying costs in RTT."""

    zone: str
    reason: str
    without: Path | None
    without_rtt_ms: float | None
    costs_ms: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One pair: candidates by cost (usable ones first), zones, and how far the next one is from winning.

    `held` is the path in force; `runner_up` the cheapest other candidate, `next_ms` how much cheaper it must become,
    now and in the last rounds, to be chosen (None: it would not be believed even then), and `next_doubt`
    what keeps it out where it is cheap enough as it is.
    """

    source: str
    target: str
    blocked: str | None
    held: Path | None
    candidates: tuple[Candidate, ...]
    zones: tuple[ZoneEffect, ...]
    runner_up: Path | None
    next_ms: float | None
    next_doubt: str


def edge_of(fleet: Fleet, word: str, away: Collection[str] = ()) -> str:
    """The node that `word` means: itself, or a market's first edge that takes new clients. Raises BadInput."""
    if word in fleet.nodes:
        return word
    market = fleet.markets.get(word)
    if market is None:
        raise BadInput(f'"{word}" is neither a node nor a market', hint="commcli fleet list")
    taking = [edge for edge in market.edges if edge not in away and fleet.nodes[edge].state != "drain"]
    edges = taking or list(market.edges)
    if not edges:
        raise BadInput(f"market {word} has no edge")
    return edges[0]


def explain(decision: Decision, source: str, target: str, margin: Margin | None = None) -> Explanation:
    """Explain the pair of nodes `source` -> `target`, both in the policy and different."""
    found = [_candidate(decision, path) for path in _paths(decision, source, target)]
    found.sort(key=_order)
    contest = Contest(decision, source, target, margin)
    found = [*(_judged(each, contest) for each in found[:LOOKED_AT]), *found[LOOKED_AT:]]
    runner_up, next_ms, next_doubt = _runner_up(found, contest)
    return Explanation(
        source=source,
        target=target,
        blocked=decision.policy.violated((source, target)),
        held=contest.held,
        candidates=tuple(found),
        zones=tuple(_zone_effects(decision, source, target)),
        runner_up=runner_up,
        next_ms=next_ms,
        next_doubt=next_doubt,
    )


def _order(candidate: Candidate) -> tuple[int, bool, float, int, Path]:
    """The plan's own paths in their order, then the usable ones by cost, then what was removed."""
    cost = np.inf if candidate.cost_ms is None else candidate.cost_ms
    rank = _ROLES.index(candidate.role)
    return (rank, candidate.removed is not None, cost, len(candidate.path), candidate.path)


def _paths(decision: Decision, source: str, target: str) -> list[Path]:
    """The direct path, every path by one relay, and the paths by two relays that are cheapest or in the plan."""
    ids = decision.policy.ids
    others = [node for node in ids if node not in (source, target)]
    paths: list[Path] = [(source, target), *((source, relay, target) for relay in others)]
    paths += _cheapest_by_two(decision, source, target)
    route = decision.table.routes.get((source, target))
    if route is not None:
        paths += [path for _, path in route.paths()]
    return list(dict.fromkeys(paths))


def _cheapest_by_two(decision: Decision, source: str, target: str) -> list[Path]:
    """The usable ones and those of all: the difference is what policy takes away."""
    ids, (i, j) = decision.policy.ids, (decision.position[source], decision.position[target])
    everybody = np.setdiff1d(np.arange(len(ids)), (i, j))
    return [
        (source, ids[one], ids[other], target)
        for between in (pair.relays(decision.masks, i, j), everybody)
        for one, other in pair.by_two(decision.costs.total, decision.hops, i, j, between, TWO_RELAY_SHOWN)
    ]


def _candidate(decision: Decision, path: Path) -> Candidate:
    costs, known, position = decision.costs, decision.estimate, decision.position
    edges = [(position[a], position[b]) for a, b in pairwise(path)]
    ages = [float(known.age_s[edge]) for edge in edges]
    skills = [float(costs.skill[edge]) for edge in edges]
    route = decision.table.routes.get((path[0], path[-1]))
    roles = {taken: role for role, taken in route.paths()} if route else {}
    return Candidate(
        path=path,
        rtt_ms=path_ms(decision, costs.rtt, path),
        caution_ms=path_ms(decision, costs.caution, path) if costs_of(decision, path) is costs.total else 0.0,
        jitter_ms=path_ms(decision, costs.jitter, path),
        loss_ms=path_ms(decision, costs.loss, path),
        hops_ms=round(hops_ms(decision, path), 3),
        cost_ms=path_cost_ms(decision, path),
        removed=obstacle(decision, path),
        role=roles.get(path, ""),
        age_s=round(max(ages), 1) if np.isfinite(ages).all() else None,
        samples=min(int(known.samples[edge]) for edge in edges),
        skill=unmeasured_as_none(min(skills), 2) if not np.isnan(skills).any() else None,
    )


def _judged(candidate: Candidate, contest: Contest) -> Candidate:
    if candidate.removed is not None or candidate.cost_ms is None:
        return candidate
    tried = contest.tried(candidate.path)
    verdict = contest.verdict(candidate.path, candidate.cost_ms, tried)
    return replace(candidate, rounds=tried.rounds, worse=tried.worse, verdict=verdict)


def _runner_up(found: list[Candidate], contest: Contest) -> tuple[Path | None, float | None, str]:
    """The cheapest usable candidate that is not the primary, how many ms it must lose to take over, and what else is
    against it.
    """
    usable = [c for c in found if c.removed is None and c.cost_ms is not None and c.path != contest.primary]
    if contest.primary_ms is None or not usable:
        return None, None, ""
    rival = min(usable, key=lambda c: (c.cost_ms, len(c.path), c.path))
    assert rival.cost_ms is not None
    next_ms, doubt = contest.to_win(rival.path, rival.cost_ms)
    return rival.path, next_ms, doubt or (rival.verdict if next_ms == 0.0 else "")


def _zone_effects(decision: Decision, source: str, target: str) -> list[ZoneEffect]:
    rules, costs = decision.policy, decision.costs
    i, j = rules.ids.index(source), rules.ids.index(target)
    lawful = decision.plan.best.path(rules.ids, i, j)
    rtt_ms = path_ms(decision, decision.estimate.rtt_ms, lawful) if lawful else None
    effects = []
    for zone in rules.zones:
        if not zone_rule.concerns(zone, rules.places[source], rules.places[target]):
            continue
        free = policy.masks(rules.without_zone(zone.id))
        found = pair.cheapest(costs.total, costs.straight, free, decision.hops, i, j)
        without = None if found is None else tuple(rules.ids[node] for node in found)
        without_ms = path_ms(decision, decision.estimate.rtt_ms, without) if without else None
        price = None if rtt_ms is None or without_ms is None else round(rtt_ms - without_ms, 3)
        effects.append(ZoneEffect(zone.id, zone.reason, without, without_ms, price))
    return effects
