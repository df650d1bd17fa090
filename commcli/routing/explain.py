"""Why a pair's traffic goes where it goes: every candidate with what it costs or what removed it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from commcli.errors import BadInput
from commcli.fleet.model import Fleet
from commcli.relay.table import zones as zone_rule
from commcli.routing import planner, policy
from commcli.routing.decision import Decision, obstacle, path_cost_ms, path_ms
from commcli.routing.planner import Margin
from commcli.routing.table import Path

# Two-relay candidates are N^2: only the cheapest are worth a line.
TWO_RELAY_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path and the parts of its cost in ms (None where an edge is unmeasured). `caution_ms` is what its edges are
    taken to be dearer than their median, as parts of a relayed path.

    `removed` says which zone, state or missing figure keeps it out, None if it could be chosen; `role` what
    it is in the plan: "primary", "backup", "last_resort" or "". `age_s` is that of its oldest figure,
    `samples` the packets behind its least known edge.
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

    `held` is the path in force; `next_ms` how much cheaper the best other candidate must become to be chosen.
    """

    source: str
    target: str
    blocked: str | None
    held: Path | None
    candidates: tuple[Candidate, ...]
    zones: tuple[ZoneEffect, ...]
    runner_up: Path | None
    next_ms: float | None


def edge_of(fleet: Fleet, word: str) -> str:
    """The node that `word` means: itself, or a market's first active edge. Raises BadInput."""
    if word in fleet.nodes:
        return word
    market = fleet.markets.get(word)
    if market is None:
        raise BadInput(f'"{word}" is neither a node nor a market', hint="commcli fleet list")
    edges = [edge for edge in market.edges if fleet.nodes[edge].state != "drain"] or list(market.edges)
    if not edges:
        raise BadInput(f"market {word} has no edge")
    return edges[0]


def explain(decision: Decision, source: str, target: str, margin: Margin | None = None) -> Explanation:
    """Explain the pair of nodes `source` -> `target`, both in the policy and different."""
    found = [_candidate(decision, path) for path in _paths(decision, source, target)]
    found.sort(key=_order)
    held = decision.in_force.routes.get((source, target)) if decision.in_force else None
    runner_up, next_ms = _runner_up(found, margin or Margin())
    return Explanation(
        source=source,
        target=target,
        blocked=decision.policy.violated((source, target)),
        held=held.primary if held else None,
        candidates=tuple(found),
        zones=tuple(_zone_effects(decision, source, target)),
        runner_up=runner_up,
        next_ms=next_ms,
    )


def _order(candidate: Candidate) -> tuple[bool, bool, float, int, Path]:
    cost = np.inf if candidate.cost_ms is None else candidate.cost_ms
    return (candidate.role == "", candidate.removed is not None, cost, len(candidate.path), candidate.path)


def _paths(decision: Decision, source: str, target: str) -> list[Path]:
    """The direct path, every path by one relay, and the paths by two relays that are cheapest or in the plan."""
    ids = decision.policy.ids
    others = [node for node in ids if node not in (source, target)]
    paths: list[Path] = [(source, target), *((source, relay, target) for relay in others)]
    paths += _cheapest_by_two(decision, source, target, others)
    route = decision.table.routes.get((source, target))
    if route is not None:
        paths += [path for _, path in route.paths()]
    return list(dict.fromkeys(paths))


def _cheapest_by_two(decision: Decision, source: str, target: str, others: list[str]) -> list[Path]:
    total, position = decision.costs.total, decision.position
    at = [position[node] for node in others]
    if len(at) < 2:
        return []
    legs = total[position[source], at][:, None] + total[np.ix_(at, at)] + total[at, position[target]][None, :]
    shown: list[Path] = []
    # Cheapest usable ones and cheapest of all: the difference is what policy takes away.
    for usable_only in (True, False):
        ranked = np.argsort(legs, axis=None, kind="stable")
        kept = 0
        for flat in ranked:
            k, l = divmod(int(flat), len(at))  # noqa: E741
            if kept == TWO_RELAY_SHOWN or not np.isfinite(legs[k, l]):
                break
            path: Path = (source, others[k], others[l], target)
            if usable_only and obstacle(decision, path):
                continue
            shown.append(path)
            kept += 1
    return shown


def _candidate(decision: Decision, path: Path) -> Candidate:
    costs, known, position = decision.costs, decision.estimate, decision.position
    edges = [(position[a], position[b]) for a, b in pairwise(path)]
    ages = [float(known.age_s[edge]) for edge in edges]
    route = decision.table.routes.get((path[0], path[-1]))
    roles = {taken: role for role, taken in route.paths()} if route else {}
    return Candidate(
        path=path,
        rtt_ms=path_ms(decision, costs.rtt, path),
        caution_ms=0.0 if len(path) == 2 else path_ms(decision, costs.caution, path),
        jitter_ms=path_ms(decision, costs.jitter, path),
        loss_ms=path_ms(decision, costs.loss, path),
        hops_ms=decision.prices.hop_ms * (len(path) - 2),
        cost_ms=path_cost_ms(decision, path),
        removed=obstacle(decision, path),
        role=roles.get(path, ""),
        age_s=round(max(ages), 1) if np.isfinite(ages).all() else None,
        samples=min(int(known.samples[edge]) for edge in edges),
    )


def _runner_up(found: list[Candidate], margin: Margin) -> tuple[Path | None, float | None]:
    """The cheapest usable candidate that is not the primary, and how many ms it must lose to take over."""
    primary = next((c for c in found if c.role == "primary"), None)
    usable = [c for c in found if c.removed is None and c.role != "primary" and c.cost_ms is not None]
    if primary is None or primary.cost_ms is None or not usable:
        return None, None
    rival = min(usable, key=lambda c: (c.cost_ms, len(c.path), c.path))
    assert rival.cost_ms is not None
    need = 0.0 if len(rival.path) == 2 else float(margin.of(np.array(primary.cost_ms)))
    return rival.path, round(max(0.0, rival.cost_ms - (primary.cost_ms - need)), 3)


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
        best = planner.best_paths(costs.total, free, hop_ms=decision.prices.hop_ms, straight=costs.straight)
        without = best.path(rules.ids, i, j)
        without_ms = path_ms(decision, decision.estimate.rtt_ms, without) if without else None
        price = None if rtt_ms is None or without_ms is None else round(rtt_ms - without_ms, 3)
        effects.append(ZoneEffect(zone.id, zone.reason, without, without_ms, price))
    return effects
