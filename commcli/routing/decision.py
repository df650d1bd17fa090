"""From what is stored to what would be published: estimate, plan, table, and what changes and why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from commcli.fleet.model import Fleet
from commcli.relay.table import zones as zone_rule
from commcli.routing import estimate as estimates
from commcli.routing import planner, policy, table
from commcli.routing.capacity import Load, load_of
from commcli.routing.cost import EdgeCosts, Prices, edge_costs
from commcli.routing.estimate import Estimate, Matrix, Repair
from commcli.routing.past import Past
from commcli.routing.planner import Margin, Paths, Plan, Routes
from commcli.routing.policy import Mask, Masks, Policy
from commcli.routing.table import Pair, Path, Table


@dataclass(frozen=True, slots=True)
class Change:
    """A pair whose primary path changes. RTT and cost are today's, in ms; None where unusable or unmeasured."""

    pair: Pair
    before: Path | None
    after: Path | None
    rtt_before_ms: float | None
    rtt_after_ms: float | None
    cost_before_ms: float | None
    cost_after_ms: float | None
    why: str


@dataclass(frozen=True, slots=True)
class ZonePrice:
    """What a zone costs. `pairs` it concerns; `paying` those whose best path would be another without it;
    `blocked` those that it leaves without any; `mean_ms` and `worst_ms` RTT that the paying ones lose,
    `worst` the pair.
    """

    zone: str
    pairs: int
    paying: int
    blocked: int
    mean_ms: float | None
    worst_ms: float | None
    worst: Pair | None


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Everything that a plan was made from and what came of it. `table` is not signed yet."""

    policy: Policy
    masks: Masks
    prices: Prices
    estimate: Estimate
    costs: EdgeCosts
    plan: Plan
    table: Table
    in_force: Table | None
    position: Mapping[str, int]
    hops: Matrix
    load: Load | None

    @property
    def changed(self) -> bool:
        """Whether relays would do anything else under the new table than under the one in force."""
        return self.in_force is None or not self.table.same_routing(self.in_force)


def decide(
    fleet: Fleet,
    windows: Iterable[Mapping[str, Any]],
    *,
    in_force: Table | None,
    serial: int,
    now_unix: float,
    away: Collection[str] = (),
    draining: Collection[str] = (),
    prices: Prices | None = None,
    margin: Margin | None = None,
    lifetime_s: int = table.LIFETIME_S,
    repairs: Iterable[Repair] = (),
    sessions: Mapping[str, int] | None = None,
) -> Decision:
    """Decide from mesh windows (see `estimate`), the inventory and the table in force what the next table is.

    `away` are nodes that the caller knows to be out of service, whatever was measured of them; `draining`
    those whose relays say that they drain. `repairs` as of `estimate`. `sessions` is how many each edge has now; None:
    nobody asked, and no cap is looked at.
    """
    rules = policy.of(fleet, away, draining)
    known = estimates.estimate(rules.ids, windows, now_unix=now_unix, repairs=repairs)
    return decide_on(
        fleet.name,
        rules,
        known,
        in_force=in_force,
        serial=serial,
        now_unix=now_unix,
        prices=prices,
        margin=margin,
        lifetime_s=lifetime_s,
        load=None if sessions is None else load_of(fleet, rules.ids, sessions),
    )


def decide_on(
    fleet_name: str,
    rules: Policy,
    known: Estimate,
    *,
    in_force: Table | None,
    serial: int,
    now_unix: float,
    prices: Prices | None = None,
    margin: Margin | None = None,
    lifetime_s: int = table.LIFETIME_S,
    load: Load | None = None,
) -> Decision:
    """`decide` on a finished estimate (a replay's, or a what-if's)."""
    prices, margin = prices or Prices(), margin or Margin()
    costs, masks = edge_costs(known, prices), policy.masks(rules)
    hops = prices.hop_ms + np.array([rules.price_ms.get(node, 0.0) for node in rules.ids])
    past = Past(known.rounds, costs, masks, hops, margin)
    routes = in_force.incumbents(rules.ids) if in_force else None
    made = made_on(rules.ids, costs, masks, past, routes, alike=policy.alike(rules), load=load)
    new = table.from_plan(
        made,
        rules,
        fleet=fleet_name,
        serial=serial,
        created=int(now_unix),
        measurements=known.sha256(),
        rules=table.sha256(f"{rules.sha256()} {prices} {margin}".encode()),
        lifetime_s=lifetime_s,
    )
    position = {node: index for index, node in enumerate(rules.ids)}
    return Decision(rules, masks, prices, known, costs, made, new, in_force, position, hops, load)


def made_on(
    ids: Sequence[str],
    costs: EdgeCosts,
    masks: Masks,
    past: Past,
    routes: Routes | None,
    *,
    alike: Mask | None = None,
    load: Load | None = None,
) -> Plan:
    """The plan by all rules: what has become bad is left, and what is new has to have been good for a while."""
    if routes is not None:
        routes = replace(routes, primary=past.held(routes.primary))
    return planner.plan(
        ids,
        costs.total,
        masks,
        hop_ms=past.hops,
        routes=routes,
        margin=past.margin,
        straight=costs.straight,
        kept=costs.kept,
        believed=past.believed,
        alike=alike,
        load=load,
    )


def path_ms(decision: Decision, matrix: Matrix, path: Path) -> float | None:
    """The sum of a per-edge figure along a path, None where an edge has none or a node is unknown."""
    position = decision.position
    if any(node not in position for node in path):
        return None
    edges = sum(float(matrix[position[a], position[b]]) for a, b in pairwise(path))
    return estimates.unmeasured_as_none(edges)


def path_cost_ms(decision: Decision, path: Path) -> float | None:
    """Today's cost of a path, the price of its relays included, None where an edge is unusable."""
    edges = path_ms(decision, costs_of(decision, path), path)
    return None if edges is None else round(edges + hops_ms(decision, path), 3)


def costs_of(decision: Decision, path: Path) -> Matrix:
    """The edge costs that this path is judged by: as the direct one, as one in force, or as a new one."""
    if len(path) == 2:
        return decision.costs.straight
    held = decision.in_force.routes.get((path[0], path[-1])) if decision.in_force else None
    in_force = held is not None and any(path == other for _, other in held.paths())
    return decision.costs.kept if in_force else decision.costs.total


def hops_ms(decision: Decision, path: Path) -> float:
    """What its relays add."""
    busy = decision.load.price_ms if decision.load is not None else np.zeros_like(decision.hops)
    relays = [decision.position[node] for node in path[1:-1] if node in decision.position]
    return float(sum(decision.hops[relay] + busy[relay] for relay in relays))


def obstacle(decision: Decision, path: Path) -> str | None:
    """Why a path may not be used now, None if it may: a node, its state, a zone, or an edge without a figure."""
    rules = decision.policy
    for node in path:
        if node not in rules.nodes:
            return f"{node} is no longer in the inventory"
        if node in rules.away:
            return f"{node} is away"
    for relay in path[1:-1]:
        state = rules.not_transit(relay)
        if state is not None:
            return f"{relay} is in state {state}"
    zone = rules.violated(path)
    if zone is not None:
        return f"zone {zone} forbids {rules.offender(zone, path)}"
    for a, b in pairwise(path):
        if path_ms(decision, costs_of(decision, path), (a, b)) is None:
            return f"{a} > {b} {_fault(decision, (a, b))}"
    return None


def _fault(decision: Decision, edge: Pair) -> str:
    if path_ms(decision, decision.estimate.loss, edge) == 1.0:
        return "loses everything"
    if path_ms(decision, decision.costs.straight, edge) is None:
        return "is not measured"
    return "has no skill: its rounds are too far from each other"


def changes(decision: Decision) -> list[Change]:
    """The pairs whose primary path changes, in order, each with its reason."""
    before = decision.in_force.routes if decision.in_force else {}
    after = decision.table.routes
    found = []
    for pair in sorted({*before, *after}):
        was = before[pair].primary if pair in before else None
        now = after[pair].primary if pair in after else None
        if was != now:
            found.append(_change(decision, pair, was, now))
    return found


def _change(decision: Decision, pair: Pair, was: Path | None, now: Path | None) -> Change:
    return Change(
        pair=pair,
        before=was,
        after=now,
        rtt_before_ms=path_ms(decision, decision.estimate.rtt_ms, was or pair),
        rtt_after_ms=path_ms(decision, decision.estimate.rtt_ms, now) if now else None,
        cost_before_ms=path_cost_ms(decision, was or pair),
        cost_after_ms=path_cost_ms(decision, now) if now else None,
        why=_why(decision, pair, was, now),
    )


def _why(decision: Decision, pair: Pair, was: Path | None, now: Path | None) -> str:
    if now is None:
        return obstacle(decision, pair) or "no usable path"
    barrier = obstacle(decision, was) if was else None
    if barrier:
        return barrier
    rival = was or pair
    cost, chosen = path_cost_ms(decision, rival), path_cost_ms(decision, now)
    if was and now == pair and cost is not None and chosen is not None and cost < chosen:
        return "it was the worse one too often, or far behind in the last round"
    if rival == now or cost is None or chosen is None:
        return "first route"
    gain = f"{cost - chosen:.0f} ms ({(cost - chosen) / cost:.0%}) cheaper than {' > '.join(rival)}"
    return gain if was else f"first route: {gain}"


def vanished(decision: Decision) -> float:
    """How much of the mesh fell silent: the share of the edges that are direct paths in the table in force, and nobody
    measured now, or of its pairs that have no usable path today though no rule forbids it; the larger. A mesh that was
    not read back looks like a fleet that died.
    """
    if decision.in_force is None or not decision.in_force.routes:
        return 0.0
    rules, new = decision.policy, decision.table
    expected = [pair for pair in decision.in_force.routes if not rules.away & set(pair)]
    expected = [
        pair for pair in expected if set(pair) <= decision.position.keys() and pair not in new.blocked
    ]
    edges = [
        pair for pair in expected if any(path == pair for _, path in decision.in_force.routes[pair].paths())
    ]
    silent = sum(path_ms(decision, decision.costs.rtt, pair) is None for pair in edges)
    gone = sum(pair not in new.routes for pair in expected)
    return max(gone / max(len(expected), 1), silent / max(len(edges), 1))


def zone_prices(decision: Decision) -> list[ZonePrice]:
    """What each zone costs in RTT, all other zones held: the best path with it against the best without it."""
    found, costs = [], decision.costs
    for zone in decision.policy.zones:
        free = policy.masks(decision.policy.without_zone(zone.id))
        without = planner.best_paths(costs.total, free, hop_ms=decision.hops, straight=costs.straight)
        found.append(_zone_price(decision, zone.id, without))
    return found


def _zone_price(decision: Decision, zone_id: str, without: Paths) -> ZonePrice:
    rules, best = decision.policy, decision.plan.best
    zone = next(zone for zone in rules.zones if zone.id == zone_id)
    pairs = [
        (i, j)
        for i, a in enumerate(rules.ids)
        for j, b in enumerate(rules.ids)
        if i != j and zone_rule.concerns(zone, rules.places[a], rules.places[b])
    ]
    blocked = sum(1 for pair in pairs if without.exists[pair] and not best.exists[pair])
    paying = {}
    for i, j in pairs:
        lawful, free = best.path(rules.ids, i, j), without.path(rules.ids, i, j)
        if lawful is not None and free is not None and lawful != free:
            now = path_ms(decision, decision.estimate.rtt_ms, lawful)
            then = path_ms(decision, decision.estimate.rtt_ms, free)
            if now is not None and then is not None:
                paying[rules.ids[i], rules.ids[j]] = round(now - then, 3)
    worst = max(sorted(paying), key=lambda pair: paying[pair], default=None)
    return ZonePrice(
        zone=zone_id,
        pairs=len(pairs),
        paying=len(paying),
        blocked=blocked,
        mean_ms=round(float(np.mean(list(paying.values()))), 3) if paying else None,
        worst_ms=paying[worst] if worst else None,
        worst=worst,
    )


def mean_rtt_ms(decision: Decision) -> tuple[float | None, float | None]:
    """(direct, chosen) mean RTT over the pairs where both are measured."""
    rtt_ms = decision.estimate.rtt_ms
    return means_ms(
        (path_ms(decision, rtt_ms, pair), path_ms(decision, rtt_ms, route.primary))
        for pair, route in decision.table.routes.items()
    )


def means_ms(figures: Iterable[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """The means of both sides over the rows that have both; None of none."""
    whole = [(one, other) for one, other in figures if one is not None and other is not None]
    if not whole:
        return None, None
    means = np.mean(whole, axis=0)
    return round(float(means[0]), 3), round(float(means[1]), 3)
