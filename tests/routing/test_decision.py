from __future__ import annotations

import dataclasses

import pytest

from commcli.routing import answer, preflight
from commcli.routing.decision import changes, mean_rtt_ms, obstacle, vanished, zone_prices
from commcli.routing.explain import Explanation, edge_of, explain
from commcli.routing.planner import SHARED_MS
from commcli.routing.preflight import Preflight
from tests.routing.fleets import fleet, zone
from tests.routing.worlds import MANY, NOW, RTT_MS, decision, small_fleet

BY_SG = ("ae-1", "sg-1", "kr-1")
BY_HK = ("ae-1", "hk-1", "kr-1")
NOT_SG = zone("not-sg", "ae", "kr", forbid=["sg"])


def test_first_table_says_what_each_relay_gains() -> None:
    made = decision()
    found = {change.pair: change for change in changes(made)}
    assert len(found) == 20
    change = found["ae-1", "kr-1"]
    assert (change.before, change.after) == (None, BY_SG)
    assert (change.rtt_before_ms, change.rtt_after_ms, change.cost_after_ms) == (396.0, 203.0, 205.0)
    assert change.why == "first route: 191 ms (48%) cheaper than ae-1 > kr-1"
    assert found["ae-1", "sg-1"].why == "first route"


def test_nothing_changes_on_the_same_figures() -> None:
    table = decision().table
    again = decision(in_force=table, serial=2)
    assert not again.changed
    assert changes(again) == []


def test_a_new_zone_is_the_reason() -> None:
    made = decision([NOT_SG], in_force=decision().table, serial=2)
    assert made.changed
    found = {change.pair: change for change in changes(made)}
    assert set(found) == {("ae-1", "kr-1"), ("kr-1", "ae-1")}
    assert found["ae-1", "kr-1"].after == BY_HK
    assert found["ae-1", "kr-1"].why == "zone not-sg forbids sg (sg-1)"


@pytest.mark.parametrize("state", ["drain", "no-transit"])
def test_a_state_is_the_reason_and_the_node_stays_an_edge(state: str) -> None:
    made = decision(in_force=decision().table, serial=2, states={"sg-1": state})
    found = {change.pair: change for change in changes(made)}
    assert found["ae-1", "kr-1"].why == f"sg-1 is in state {state}"
    assert made.table.routes["ae-1", "sg-1"].primary == ("ae-1", "sg-1")


def test_a_node_that_is_away_has_no_route_at_all() -> None:
    made = decision(in_force=decision().table, serial=2, away=["sg-1"])
    assert not any("sg-1" in pair for pair in made.table.routes)
    assert all("sg-1" not in path for route in made.table.routes.values() for _, path in route.paths())
    found = {change.pair: change for change in changes(made)}
    assert (found["ae-1", "sg-1"].after, found["ae-1", "sg-1"].why) == (None, "sg-1 is away")


def test_a_silent_edge_is_the_reason() -> None:
    rest = {pair: rtt for pair, rtt in RTT_MS.items() if pair != ("kr-1", "sg-1")}
    made = decision(rtt_ms=rest, in_force=decision().table, serial=2)
    found = {change.pair: change for change in changes(made)}
    assert found["ae-1", "kr-1"].why == "sg-1 > kr-1 is not measured"
    assert found["ae-1", "kr-1"].after == BY_HK
    # Its own direct path is gone, too, but others lead there.
    assert made.table.routes["kr-1", "sg-1"].primary == ("kr-1", "hk-1", "sg-1")


def test_a_faster_path_is_the_reason() -> None:
    slower = {**RTT_MS, ("kr-1", "sg-1"): 200.0}
    made = decision(rtt_ms=slower, in_force=decision().table, serial=2)
    found = {change.pair: change for change in changes(made)}
    assert found["ae-1", "kr-1"].why == "51 ms (18%) cheaper than ae-1 > sg-1 > kr-1"


def test_a_small_gain_moves_nothing() -> None:
    slower = {**RTT_MS, ("kr-1", "sg-1"): 155.0}  # 240 ms by sg-1, 234 by hk-1: 2.5 %
    made = decision(rtt_ms=slower, in_force=decision().table, serial=2)
    assert made.table.routes["ae-1", "kr-1"].primary == BY_SG
    assert made.plan.best.path(made.policy.ids, 0, 3) == BY_HK


def test_what_a_zone_costs() -> None:
    (price,) = zone_prices(decision([NOT_SG]))
    assert (price.pairs, price.paying, price.blocked) == (2, 2, 0)
    assert (price.mean_ms, price.worst_ms, price.worst) == (29.0, 29.0, ("ae-1", "kr-1"))


def test_a_zone_that_blocks_and_one_that_costs_nothing() -> None:
    wall = zone("wall", "ae", "kr", forbid=["kr"])
    idle = zone("idle", "*", "*", forbid=["kp"])
    prices = {price.zone: price for price in zone_prices(decision([wall, idle]))}
    assert (prices["wall"].blocked, prices["wall"].paying, prices["wall"].mean_ms) == (2, 0, None)
    assert (prices["idle"].pairs, prices["idle"].blocked, prices["idle"].paying) == (20, 0, 0)


def test_obstacles_are_named() -> None:
    made = decision([NOT_SG], states={"hk-1": "drain"}, away=["de-1"])
    assert obstacle(made, BY_SG) == "zone not-sg forbids sg (sg-1)"
    assert obstacle(made, BY_HK) == "hk-1 is in state drain"
    assert obstacle(made, ("ae-1", "de-1", "kr-1")) == "de-1 is away"
    assert obstacle(made, ("ae-1", "us-1", "kr-1")) == "us-1 is no longer in the inventory"
    assert obstacle(made, ("ae-1", "kr-1")) is None


def test_mean_rtt_of_direct_and_chosen() -> None:
    direct, chosen = mean_rtt_ms(decision())
    assert direct == pytest.approx(2 * sum(RTT_MS.values()) / 20)
    assert direct is not None and chosen is not None and chosen < 0.9 * direct


def test_a_mesh_that_fell_silent_is_told_from_a_rule() -> None:
    table = decision().table
    assert vanished(decision(in_force=table, serial=2)) == 0.0
    silent = decision(rtt_ms={("ae-1", "sg-1"): 83.0}, in_force=table, serial=2)
    assert vanished(silent) == pytest.approx(0.9)
    # Five of ten edges are silent, though every pair still has a way.
    heard = {pair: rtt for pair, rtt in RTT_MS.items() if "sg-1" in pair or pair == ("ae-1", "de-1")}
    half = decision(rtt_ms=heard, in_force=table, serial=2)
    assert len(half.table.routes) == 20
    assert vanished(half) == pytest.approx(0.5)
    fenced = decision([zone("z", "*", "*", allow=["ae"])], in_force=table, serial=2)
    assert fenced.table.routes == {}
    assert vanished(fenced) == 0.0


def explained(source: str = "ae-1", target: str = "kr-1", **options: object) -> Explanation:
    return explain(decision(**options), source, target)  # type: ignore[arg-type]  # worlds.decision checks them


def test_explain_shows_the_parts_of_every_candidate() -> None:
    found = explained()
    roles = [(c.path, c.role) for c in found.candidates if c.role]
    assert roles == [(BY_SG, "primary"), (BY_HK, "backup"), (("ae-1", "kr-1"), "last_resort")]
    best = found.candidates[0]
    assert (best.rtt_ms, best.jitter_ms, best.loss_ms, best.hops_ms, best.cost_ms) == (203, 0, 0, 2.0, 205.0)
    assert (best.age_s, best.samples, best.removed) == (10.0, MANY, None)
    assert {c.path for c in found.candidates} >= {("ae-1", "de-1", "kr-1"), ("ae-1", "sg-1", "hk-1", "kr-1")}


def test_explain_names_what_removed_a_candidate_and_what_the_zone_costs() -> None:
    found = explained(zones=[NOT_SG])
    removed = {c.path: c.removed for c in found.candidates}
    assert removed[BY_SG] == "zone not-sg forbids sg (sg-1)"
    assert removed[BY_HK] is None
    (effect,) = found.zones
    assert (effect.without, effect.without_rtt_ms, effect.costs_ms) == (BY_SG, 203.0, 29.0)


def test_explain_tells_how_far_the_next_one_is() -> None:
    found = explained(in_force=decision().table)
    # hk-1 costs 234; sg-1 costs 205 and keeps the pair within 5 % = 10.25 ms.
    assert found.runner_up == BY_HK
    assert found.next_ms == pytest.approx(234 - (205 - 10.25))
    # Where nothing is in force, the cheaper one wins as soon as they are not as good as each other.
    assert explained().next_ms == pytest.approx(234 - (205 - SHARED_MS))


def test_explain_of_a_blocked_pair() -> None:
    found = explained(zones=[zone("wall", "ae", "kr", forbid=["kr"])])
    assert found.blocked == "wall"
    assert all(c.removed == "zone wall forbids kr (kr-1)" for c in found.candidates)
    assert (found.runner_up, found.next_ms) == (None, None)


def test_a_market_means_its_first_active_edge() -> None:
    world = fleet({"a": "ae", "b": "ae"}, markets={"ae": ["a", "b"], "om": ["a"]}, states={"a": "drain"})
    assert [edge_of(world, word) for word in ("a", "ae", "om")] == ["a", "b", "a"]
    assert [edge_of(world, word, away=["b"]) for word in ("b", "ae")] == ["b", "a"], "who else is there?"


def test_documents_hold_what_the_screen_shows() -> None:
    made = decision([NOT_SG], in_force=decision().table, serial=2)
    doc = answer.plan(made, "test", unfinished=[])
    assert (doc["kind"], doc["serial"], doc["changed"], doc["in_force"]["serial"]) == (
        "route.plan",
        2,
        True,
        1,
    )
    assert doc["counts"]["pairs"] == doc["counts"]["routed"] == 20
    assert doc["counts"]["primaries_changed"] == 2
    assert doc["zones"][0]["worst_ms"] == 29.0
    assert doc["measured"]["edges_measured"] == 20


def test_reasons_to_publish() -> None:
    table = decision().table
    same = decision(in_force=table, serial=2)
    all_have = Preflight(dict.fromkeys(same.policy.ids, 1))
    assert preflight.why_publish(same, all_have, now_unix=NOW) == []
    assert preflight.why_publish(decision(), all_have, now_unix=NOW) == ["there is no table in force"]
    one_behind = Preflight({**all_have.serials, "kr-1": None})
    assert preflight.why_publish(same, one_behind, now_unix=NOW) == ["not on serial 1: kr-1"]
    (expiring,) = preflight.why_publish(same, all_have, now_unix=NOW + 4 * 86400)
    assert expiring == "the table in force expires in 3.0 days"
    zoned = decision([NOT_SG], in_force=table, serial=2)
    assert preflight.why_publish(zoned, all_have, now_unix=NOW) == ["routes, nodes or zones change"]


def test_preflight_knows_the_highest_serial_and_who_is_there() -> None:
    found = Preflight({"kr-1": 7, "ae-1": None})
    assert found.highest == 7
    assert [node.id for node in found.present(small_fleet())] == ["ae-1", "kr-1"]
    assert Preflight({}).highest == 0


def test_a_moved_node_changes_the_table_though_no_route_does() -> None:
    table = decision().table
    moved = dataclasses.replace(
        table, nodes={**table.nodes, "sg-1": {**table.nodes["sg-1"], "address": "127.9.0.99"}}
    )
    assert decision(in_force=moved, serial=2).changed
