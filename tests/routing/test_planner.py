from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.fleet import Zone
from commcli.routing import policy as policies
from commcli.routing.estimate import Matrix
from commcli.routing.planner import Incumbent, Margin, Paths, Plan, Routes, incumbent, plan
from commcli.routing.policy import Policy, masks
from tests.routing import bruteforce
from tests.routing.fleets import fleet, zone
from tests.routing.strategies import HOP_MS, costs, worlds

INF = np.inf
ROLES = ("primary", "backup", "last_resort")
ZONES = (
    zone("not-sg", "ae", "*", forbid=["sg"]),
    zone("stay", "br,cn", "br,cn", allow=["br", "cn"]),
    zone("few", "de", "br", allow=["de", "br"]),
)


def decide(policy: Policy, total: Matrix, routes: Routes | None = None) -> Plan:
    return plan(policy.ids, total, masks(policy), hop_ms=HOP_MS, routes=routes)


def routes_of(made: Plan) -> Routes:
    """A plan as the routes in force of the next round."""
    return Routes(*(Incumbent(p.first, p.second, p.exists) for p in (getattr(made, role) for role in ROLES)))


def pairs(policy: Policy) -> list[tuple[int, int]]:
    size = len(policy.ids)
    return [(i, j) for i in range(size) for j in range(size) if i != j]


def numbers(paths: Paths, i: int, j: int) -> tuple[int, ...]:
    relays = (int(paths.first[i, j]), int(paths.second[i, j]))
    return (i, *(k for k in relays if k >= 0), j)


@given(worlds())
def test_best_path_equals_trying_every_path(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    made = decide(policy, total)
    for i, j in pairs(policy):
        assert made.best.cost[i, j] == pytest.approx(bruteforce.best(policy, total, HOP_MS, i, j))


@given(worlds())
def test_backup_is_the_best_path_without_the_primarys_relays(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    check_backups(policy, total, decide(policy, total))


def check_backups(policy: Policy, total: Matrix, made: Plan) -> None:
    """In the place of a relayed primary a path with two relays stands only where nothing shorter does."""
    for i, j in pairs(policy):
        if not made.primary.exists[i, j]:
            assert not made.backup.exists[i, j]
            continue
        used = frozenset(numbers(made.primary, i, j)[1:-1])
        most = [1, 2] if used else [2]
        costs = [
            bruteforce.best(policy, total, HOP_MS, i, j, avoid=used, direct=bool(used), most=n) for n in most
        ]
        expected = next((cost for cost in costs if cost < INF), INF)
        assert made.backup.cost[i, j] == pytest.approx(expected)


@given(worlds())
def test_last_resort_is_direct_or_one_relay_of_its_own(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    made = decide(policy, total)
    for i, j in pairs(policy):
        if not made.primary.exists[i, j]:
            assert not made.last_resort.exists[i, j]
            continue
        taken = [numbers(p, i, j) for p in (made.primary, made.backup) if p.exists[i, j]]
        direct = bruteforce.best(policy, total, HOP_MS, i, j, most=0)
        if direct < INF and (i, j) not in taken:
            assert numbers(made.last_resort, i, j) == (i, j)
            continue
        used = frozenset(k for path in taken for k in path[1:-1])
        expected = bruteforce.best(policy, total, HOP_MS, i, j, avoid=used, direct=False, most=1)
        assert made.last_resort.cost[i, j] == pytest.approx(expected)


@given(worlds(), st.data())
def test_every_path_of_every_round_is_lawful_measured_and_disjoint(
    world: tuple[Policy, Matrix], data: st.DataObject
) -> None:
    """Also when routes of an earlier round, made on other figures and without zones, are in force."""
    policy, total = world
    earlier = decide(policy.without_zones(), data.draw(costs(len(policy.ids))))
    made = decide(policy, total, routes_of(earlier))
    for i, j in pairs(policy):
        paths = [numbers(p, i, j) for p in (getattr(made, role) for role in ROLES) if p.exists[i, j]]
        for path in paths:
            names = tuple(policy.ids[k] for k in path)
            assert len(set(path)) == len(path) <= 4
            assert policy.violated(names) is None
            assert not policy.away & set(names)
            assert all(policy.states[name] == "active" for name in names[1:-1])
            assert bruteforce.cost(total, HOP_MS, path) < INF
        assert len(set(paths)) == len(paths)
        relays = [k for path in paths for k in path[1:-1]]
        assert len(set(relays)) == len(relays)


@given(worlds(), st.data())
def test_hysteresis_is_never_violated(world: tuple[Policy, Matrix], data: st.DataObject) -> None:
    policy, total = world
    earlier = decide(policy, data.draw(costs(len(policy.ids))))
    made = decide(policy, total, routes_of(earlier))
    margin = Margin()
    for i, j in pairs(policy):
        if not made.primary.exists[i, j]:
            continue
        now, cost = numbers(made.primary, i, j), made.primary.cost[i, j]
        direct = bruteforce.best(policy, total, HOP_MS, i, j, most=0)
        held = numbers(earlier.primary, i, j)
        held_cost = bruteforce.cost(total, HOP_MS, held) if earlier.primary.exists[i, j] else INF
        if now == held:
            continue
        if held_cost < INF:
            need = max(margin.share * held_cost, margin.least_ms)
            back = now == (i, j) and cost <= held_cost
            assert back or held_cost - cost >= need - 1e-9
        if len(now) > 2 and direct < INF:
            assert direct - cost >= max(margin.share * direct, margin.least_ms) - 1e-9


@given(worlds())
def test_planning_again_on_the_same_figures_changes_nothing(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    first = decide(policy, total)
    second = decide(policy, total, routes_of(first))
    for role in ROLES:
        one, other = getattr(first, role), getattr(second, role)
        np.testing.assert_array_equal(one.exists, other.exists)
        np.testing.assert_array_equal(one.first[one.exists], other.first[one.exists])
        np.testing.assert_array_equal(one.second[one.exists], other.second[one.exists])


@settings(max_examples=15)
@given(costs(11, holes=0.3))
def test_larger_meshes_equal_brute_force_too(total: Matrix) -> None:
    countries = {f"n{k:02}": ("ae", "br", "cn", "de", "sg")[k % 5] for k in range(11)}
    policy = policies.of(fleet(countries, zones=[zone("z", "ae", "*", forbid=["sg"])]))
    made = decide(policy, total)
    for i, j in pairs(policy):
        assert made.best.cost[i, j] == pytest.approx(bruteforce.best(policy, total, HOP_MS, i, j))
    check_backups(policy, total, made)


@pytest.mark.parametrize("zones", [(), ZONES])
def test_fleets_that_are_decided_part_by_part_equal_brute_force_too(zones: tuple[Zone, ...]) -> None:
    size, random = 150, np.random.default_rng(1)
    names = {f"n{k:03}": ("ae", "br", "cn", "de", "sg")[k % 5] for k in range(size)}
    policy = policies.of(fleet(names, zones=zones))
    total = random.uniform(1.0, 300.0, (size, size))
    total[random.random(total.shape) < 0.3] = INF
    made, of = decide(policy, total), masks(policy)
    for i, j in random.permutation(pairs(policy))[:500]:
        direct, one, two = bruteforce.cheapest(total, of, HOP_MS, i, j)
        assert made.best.cost[i, j] == pytest.approx(min(direct, one, two))
        used = numbers(made.primary, i, j)[1:-1]
        if not used:
            assert made.backup.cost[i, j] == pytest.approx(min(one, two))
            continue
        direct, one, two = bruteforce.cheapest(total, of, HOP_MS, i, j, used)
        assert made.backup.cost[i, j] == pytest.approx(min(direct, one) if min(direct, one) < INF else two)


def line(direct: float, via_b: float, via_d: float = INF) -> Matrix:
    """Costs among a, b, c, d where only a -> c matters: direct, by b, or by d, the hop price included."""
    total = np.full((4, 4), INF)
    total[0, 2] = direct
    total[0, 1] = total[1, 2] = (via_b - HOP_MS) / 2
    total[0, 3] = total[3, 2] = (via_d - HOP_MS) / 2
    return total


FOUR = policies.of(fleet({"a": "ae", "b": "br", "c": "cn", "d": "de"}))


def test_what_is_in_force_may_be_judged_more_mildly() -> None:
    nothing = incumbent(FOUR.ids, {})
    routes = Routes(incumbent(FOUR.ids, {("a", "c"): ("a", "b", "c")}), nothing, nothing)
    # By b is no choice any more, but bearable; by d costs as much as before.
    total, kept = line(300.0, INF, 200.0), line(300.0, 205.0, 200.0)
    made = plan(FOUR.ids, total, masks(FOUR), hop_ms=HOP_MS, routes=routes, kept=kept)
    assert made.primary.path(FOUR.ids, 0, 2) == ("a", "b", "c")
    assert decide(FOUR, total, routes).primary.path(FOUR.ids, 0, 2) == ("a", "d", "c")


# (in force, direct, via b, via d) -> chosen; costs in ms. The margin is max(5 %, 3 ms).
STEPS = [
    (None, 100.0, 96.0, INF, "ac"),  # 4 ms, but only 4 %
    (None, 100.0, 95.0, INF, "abc"),  # 5 % exactly is enough
    (None, 40.0, 37.5, INF, "ac"),  # 6 %, but only 2.5 ms
    (None, 40.0, 37.0, INF, "abc"),
    (None, INF, 500.0, INF, "abc"),  # nothing to beat
    ("ac", 100.0, 96.0, INF, "ac"),
    ("ac", 100.0, 95.0, INF, "abc"),
    ("abc", 100.0, 96.0, INF, "abc"),  # inside the band: stay
    ("abc", 100.0, 100.0, INF, "ac"),  # a relay that gains nothing goes
    ("abc", 100.0, 101.0, INF, "ac"),
    ("abc", 300.0, 200.0, 191.0, "abc"),  # relay -> relay: 4.5 %
    ("abc", 300.0, 200.0, 190.0, "adc"),
    ("abc", 300.0, INF, 290.0, "ac"),  # in force but unusable: direct is what d must beat
    ("abc", 300.0, INF, 285.0, "adc"),
    ("abc", 187.0, 200.0, 185.0, "ac"),  # d does not earn its relay, b is worse than direct
]


@pytest.mark.parametrize(("held", "direct", "via_b", "via_d", "expected"), STEPS)
def test_when_a_pair_moves(
    held: str | None, direct: float, via_b: float, via_d: float, expected: str
) -> None:
    nothing = incumbent(FOUR.ids, {})
    routes = None
    if held is not None:
        routes = Routes(incumbent(FOUR.ids, {("a", "c"): tuple(held)}), nothing, nothing)
    made = decide(FOUR, line(direct, via_b, via_d), routes)
    assert made.primary.path(FOUR.ids, 0, 2) == tuple(expected)


def test_backup_stays_within_the_margin() -> None:
    held = {("a", "c"): ("a", "b", "c")}
    nothing = incumbent(FOUR.ids, {})
    routes = Routes(incumbent(FOUR.ids, {("a", "c"): ("a", "c")}), incumbent(FOUR.ids, held), nothing)
    near = decide(FOUR, line(100.0, 130.0, 128.0), routes)
    assert near.backup.path(FOUR.ids, 0, 2) == ("a", "b", "c")
    far = decide(FOUR, line(100.0, 130.0, 120.0), routes)
    assert far.backup.path(FOUR.ids, 0, 2) == ("a", "d", "c")


def test_a_backup_in_force_gives_way_when_the_primary_takes_its_relay() -> None:
    nothing = incumbent(FOUR.ids, {})
    held = Routes(
        incumbent(FOUR.ids, {("a", "c"): ("a", "c")}),
        incumbent(FOUR.ids, {("a", "c"): ("a", "b", "c")}),
        nothing,
    )
    made = decide(FOUR, line(300.0, 100.0, 200.0), held)
    assert made.primary.path(FOUR.ids, 0, 2) == ("a", "b", "c")
    assert made.backup.path(FOUR.ids, 0, 2) == ("a", "d", "c")
    assert made.last_resort.path(FOUR.ids, 0, 2) == ("a", "c")


def test_ties_go_to_fewer_relays_then_to_the_first_name() -> None:
    made = decide(FOUR, line(INF, 100.0, 100.0))
    assert made.primary.path(FOUR.ids, 0, 2) == ("a", "b", "c")
    total = line(INF, 102.0)
    total[0, 3] = total[3, 1] = 24.0  # a > d > b > c costs as much as a > b > c
    assert decide(FOUR, total).primary.path(FOUR.ids, 0, 2) == ("a", "b", "c")


def test_blocked_pairs_have_no_path_at_all() -> None:
    rules = fleet({"a": "ae", "b": "br", "c": "cn", "d": "de"}, zones=[zone("z", "ae", "*", forbid=["cn"])])
    policy = policies.of(rules)
    made = decide(policy, line(100.0, 50.0))
    assert made.blocked[0, 2] and made.blocked[2, 0] and not made.blocked[0, 1]
    assert all(getattr(made, role).path(policy.ids, 0, 2) is None for role in ROLES)


def test_routes_through_nodes_that_are_gone_are_forgotten() -> None:
    held = incumbent(FOUR.ids, {("a", "c"): ("a", "gone", "c"), ("a", "b"): ("a", "b"), ("a", "d"): None})
    assert held.present.sum() == 1 and held.present[0, 1]


def test_a_loop_in_force_is_not_believed() -> None:
    assert not incumbent(FOUR.ids, {("a", "c"): ("a", "b", "a", "c")}).present.any()
