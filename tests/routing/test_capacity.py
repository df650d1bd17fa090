from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.fleet.model import Capacity, Limits
from commcli.routing import policy as policies
from commcli.routing.capacity import Load, carried, load_of
from commcli.routing.estimate import Matrix
from commcli.routing.planner import Incumbent, Margin, Plan, Routes, plan
from commcli.routing.policy import Policy, masks
from tests.routing import bruteforce
from tests.routing.fleets import fleet
from tests.routing.strategies import HOP_MS, worlds

INF = np.inf
NODES = {"a": "ae", "b": "br", "c": "cn", "d": "de", "e": "ae"}


def decide(policy: Policy, total: Matrix, load: Load, routes: Routes | None = None) -> Plan:
    return plan(policy.ids, total, masks(policy), hop_ms=HOP_MS, load=load, routes=routes)


def loads(size: int) -> st.SearchStrategy[Load]:
    """Whole sessions, and caps that they often pass."""

    def build(seed: int) -> Load:
        random = np.random.default_rng(seed)
        demand = random.integers(0, 20, (size, size)).astype(np.float64)
        np.fill_diagonal(demand, 0.0)
        room = np.where(random.random(size) < 0.3, INF, random.integers(0, 60, size))
        return Load(demand, room, np.zeros(size))

    return st.integers(0, 2**32 - 1).map(build)


@given(worlds(), st.data())
def test_no_relay_is_above_its_cap_while_there_is_another_way(
    world: tuple[Policy, Matrix], data: st.DataObject
) -> None:
    policy, total = world
    load = data.draw(loads(len(policy.ids)))
    made = decide(policy, total, load)
    first, second = made.primary.first, made.primary.second
    used = carried(
        np.where(made.primary.exists, first, -1), np.where(made.primary.exists, second, -1), load.demand
    )
    for node in np.flatnonzero(used > load.room):
        assert made.crowded[node]
        for i, j in zip(*np.nonzero((first == node) | (second == node)), strict=True):
            if made.primary.exists[i, j] and load.demand[i, j]:
                # It had to stay: it has no direct path.
                assert bruteforce.best(policy, total, HOP_MS, int(i), int(j), most=0) == INF


@given(worlds(), st.data())
def test_pairs_that_give_way_still_have_lawful_paths_and_disjoint_backups(
    world: tuple[Policy, Matrix], data: st.DataObject
) -> None:
    policy, total = world
    free = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS)
    made = decide(policy, total, data.draw(loads(len(policy.ids))))
    np.testing.assert_array_equal(made.primary.exists, free.primary.exists)
    for i in range(len(policy.ids)):
        for j in range(len(policy.ids)):
            path = made.primary.path(policy.ids, i, j)
            if path is None:
                continue
            assert len(set(path)) == len(path)
            assert policy.violated(path) is None
            assert all(policy.not_transit(relay) is None for relay in path[1:-1])
            backup = made.backup.path(policy.ids, i, j)
            assert backup is None or not set(path[1:-1]) & set(backup[1:-1])


def test_those_who_lose_least_give_way() -> None:
    """a > c and e > c both go by b, which has room for one of them; d is the other way, and dearer for a."""
    policy = policies.of(fleet(NODES))
    total = np.full((5, 5), INF)
    for source, by_d in ((0, 90.0), (4, 60.0)):
        total[source, 2], total[source, 1], total[source, 3] = 300.0, 40.0, by_d
    total[1, 2] = total[3, 2] = 40.0
    demand = np.zeros((5, 5))
    demand[0, 2] = demand[4, 2] = 10.0
    room = np.array([INF, 15.0, INF, INF, INF])
    made = decide(policy, total, Load(demand, room, np.zeros(5)))
    assert made.primary.path(policy.ids, 0, 2) == ("a", "b", "c")
    assert made.primary.path(policy.ids, 4, 2) == ("e", "d", "c")
    assert not made.crowded.any()


def test_a_busy_relay_costs_more() -> None:
    policy = policies.of(fleet(NODES))
    total = np.full((5, 5), INF)
    total[0, 2], total[0, 1], total[0, 3], total[1, 2], total[3, 2] = 300.0, 40.0, 45.0, 40.0, 40.0
    idle, busy = np.zeros(5), np.array([0.0, 10.0, 0.0, 0.0, 0.0])
    none, room = np.zeros((5, 5)), np.full(5, INF)
    assert decide(policy, total, Load(none, room, idle)).primary.path(policy.ids, 0, 2) == ("a", "b", "c")
    assert decide(policy, total, Load(none, room, busy)).primary.path(policy.ids, 0, 2) == ("a", "d", "c")


def test_load_comes_from_sessions_and_caps() -> None:
    rules = fleet({"a": "ae", "b": "br", "c": "cn"})
    caps = {"a": Capacity(sessions=100), "b": Capacity(sessions=500, mbps=30.0), "c": Capacity(mbps=80.0)}
    limits = {"a": Limits(), "b": Limits(), "c": Limits(session_kbit_s=1000)}
    nodes = {
        name: replace(node, capacity=caps[name], limits=limits[name]) for name, node in rules.nodes.items()
    }
    load = load_of(replace(rules, nodes=nodes), ("a", "b", "c"), {"a": 75, "b": 5})
    # 30 Mbit/s at 3 Mbit/s a session, 80 at its own limit of one.
    assert load.room.tolist() == [25.0, 5.0, 80.0]
    assert load.price_ms.tolist() == [5.0, 0.0, 0.0]
    assert load.demand[0, 1] == load.demand[1, 0] == pytest.approx(75 * 5 / 80)
    assert load.demand[2].sum() == 0 and not load.demand.diagonal().any()


@pytest.mark.parametrize(("few", "moved"), [(0, 1), (2, 2), (20, 3)])
def test_so_many_pairs_move_at_once_and_those_who_gain_most(few: int, moved: int) -> None:
    """Three pairs towards c would move to relay e; a fourth has lost its path, and is never made to wait."""
    policy = policies.of(fleet(NODES))
    total = np.full((5, 5), INF)
    gains = {0: 100.0, 1: 150.0, 3: 200.0}
    for source, direct in gains.items():
        total[source, 2], total[source, 4] = direct, 10.0
    total[4, 2] = 20.0
    total[2, 4], total[4, 0] = 10.0, 10.0
    ids = policy.ids
    first = np.full((5, 5), -1, np.int32)
    present = np.isfinite(total)
    present[2, 0] = True  # c > a went straight, and that edge is silent now
    nothing = Incumbent(first, first.copy(), np.zeros((5, 5), dtype=bool))
    routes = Routes(Incumbent(first.copy(), first.copy(), present), nothing, nothing)
    made = plan(ids, total, masks(policy), hop_ms=HOP_MS, routes=routes, margin=Margin(changes=1e-9, few=few))
    went = [source for source in gains if made.primary.path(ids, source, 2) != (ids[source], "c")]
    assert went == sorted(gains, key=lambda source: -gains[source])[:moved][::-1]
    assert made.deferred == 3 - moved
    assert made.primary.path(ids, 2, 0) == ("c", "e", "a")


def test_pairs_share_relays_that_are_as_good_as_each_other() -> None:
    size = 12
    names = {f"n{k:02}": "ae" for k in range(size)}
    policy = policies.of(fleet(names))
    total = np.full((size, size), 300.0)
    # Relays 0, 1 and 2 are within half a millisecond, 3 is not.
    for relay, cost in ((0, 40.0), (1, 40.1), (2, 40.2), (3, 45.0)):
        total[relay, :] = total[:, relay] = cost
    np.fill_diagonal(total, INF)
    made = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS)
    used = np.bincount(made.primary.first[4:, 4:][made.primary.first[4:, 4:] >= 0], minlength=size)
    assert used[3:].sum() == 0
    assert min(used[:3]) >= 0.2 * used.sum()


def test_a_backup_stands_elsewhere_when_that_costs_little() -> None:
    """b and d are in one region; e is a little dearer than d, and far dearer in the other world."""
    rules = fleet({"a": "ae", "b": "br", "c": "cn", "d": "br", "e": "de"})
    policy = policies.of(rules)
    total = np.full((5, 5), INF)
    total[0, 2], total[0, 1], total[0, 3], total[0, 4] = 500.0, 40.0, 50.0, 60.0
    total[1, 2] = total[3, 2] = total[4, 2] = 50.0
    alike = policies.alike(policy)
    assert alike[1, 3] and not alike[1, 4]

    def backup(total: Matrix, *, apart: bool) -> tuple[str, ...] | None:
        made = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS, alike=alike if apart else None)
        assert made.primary.path(policy.ids, 0, 2) == ("a", "b", "c")
        return made.backup.path(policy.ids, 0, 2)

    assert backup(total, apart=False) == ("a", "d", "c")
    assert backup(total, apart=True) == ("a", "e", "c")
    # One in force that stands beside the primary is left for one that does not.
    first = np.full((5, 5), -1, np.int32)
    first[0, 2] = 3
    held = Incumbent(first, np.full_like(first, -1), first >= 0)
    nothing = Incumbent(held.second, held.second, np.zeros((5, 5), dtype=bool))
    routes = Routes(nothing, held, nothing)
    kept = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS, routes=routes)
    moved = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS, routes=routes, alike=alike)
    assert kept.backup.path(policy.ids, 0, 2) == ("a", "d", "c")
    assert moved.backup.path(policy.ids, 0, 2) == ("a", "e", "c")
    total[0, 4] = 200.0
    assert backup(total, apart=True) == ("a", "d", "c")


def test_nodes_of_one_provider_are_alike_and_unknown_is_not_the_same() -> None:
    rules = fleet({"a": "ae", "b": "br", "c": "cn", "d": "de"})
    providers = {"a": "alpha", "b": "alpha", "c": None, "d": None}
    nodes = {name: replace(node, provider=providers[name]) for name, node in rules.nodes.items()}
    alike = policies.alike(policies.of(replace(rules, nodes=nodes)))
    assert alike[0, 1] and not alike[2, 3] and not alike[0, 2]
