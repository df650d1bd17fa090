"""The overlay on its bad days: wrong clocks, tables of different ages, new keys, deaths and flapping."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from commcli.relay.overlay import wire
from tests.relay.bad_days_world import (
    DELAY_S,
    NODES,
    TALK,
    WAYS,
    BadWorld,
    BoundPlan,
    both_ways,
    sealed,
    section,
    with_keys,
    world,
)

# --- clocks ------------------------------------------------------------------------------------------------

YEAR_S = 365 * 86400.0


@pytest.mark.parametrize("ahead_s", [-3 * YEAR_S, -3600.0, -90.0, 90.0, 3600.0, 3 * YEAR_S])
@pytest.mark.parametrize("node", ["ae-1", "sg-1", "jp-1"])
def test_a_wrong_clock_from_the_start(node: str, ahead_s: float) -> None:
    net = BadWorld(BoundPlan(NODES, WAYS), delay_s=lambda _a, _b: DELAY_S, ahead_s={node: ahead_s})
    net.run(3.0, TALK)
    net.forget()
    net.run(2.0, TALK)
    assert net.missing() == []
    assert net.active() == ["ae-1", "sg-1", "jp-1", "kr-1"]


@pytest.mark.parametrize("ahead_s", [-3 * YEAR_S, -3600.0, -90.0, 90.0, 3600.0])
@pytest.mark.parametrize("node", ["sg-1", "kr-1"])
def test_a_clock_that_is_wrong_after_a_restart(node: str, ahead_s: float) -> None:
    """Its numbers go back by an hour: nobody waits for two minutes until he believes it again."""
    net = world()
    net.ahead_s[node] = ahead_s
    net.begin_again(node)
    net.run(3.0, TALK)
    net.forget()
    net.run(2.0, TALK)
    assert net.missing() == []


def test_a_clock_that_jumps_in_a_call_is_nobodys_business() -> None:
    net = world()
    for ahead_s in (3600.0, -3600.0, 0.0):
        net.ahead_s["sg-1"] = ahead_s
        net.run(1.0, TALK)
    assert net.missing() == [] and net.switches() == 0


# --- tables ------------------------------------------------------------------------------------------------

FIRST = BoundPlan(NODES, both_ways("sg-1", "hk-1", ""), serial=7)
SECOND = BoundPlan(NODES, both_ways("jp-1", "hk-1", ""), serial=8)
THIRD = BoundPlan(NODES, both_ways("jp-1", "xx-1", ""), serial=9)


@pytest.mark.parametrize(
    "order", list(itertools.permutations(("ae-1", "kr-1", "sg-1", "jp-1"))), ids=" ".join
)
def test_a_new_table_in_any_order_of_nodes_loses_nothing(order: Sequence[str]) -> None:
    net = BadWorld(FIRST, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    for node in (*order, "hk-1", "xx-1"):
        net.nodes[node].set_shard(SECOND.shard(node))
        net.run(0.3, TALK)
    net.run(1.0, TALK)
    assert net.missing() == []


def test_the_new_primary_is_taken_when_all_have_the_table() -> None:
    net = BadWorld(FIRST, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    for node in NODES:
        net.run(0.5, TALK)
        net.nodes[node].set_shard(SECOND.shard(node))
    net.run(32.0, TALK)
    assert net.missing() == [] and net.active() == ["ae-1", "jp-1", "kr-1"]


def test_an_ingress_with_the_table_before_this_one_is_carried() -> None:
    net = BadWorld(FIRST, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    for node in NODES[2:]:
        net.nodes[node].set_shard(SECOND.shard(node))
    net.run(3.0, TALK)
    assert net.missing() == [] and net.active() == ["ae-1", "sg-1", "kr-1"]


def test_an_ingress_two_tables_behind_takes_what_is_left_to_it() -> None:
    net = BadWorld(FIRST, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    for plan in (SECOND, THIRD):
        for node in NODES[1:]:
            net.nodes[node].set_shard(plan.shard(node))
        net.run(0.1, TALK)
    net.run(3.0, TALK)
    assert net.drops()["sg-1"]["not_in_table"] > 0
    assert net.active() == ["ae-1", "hk-1", "kr-1"], "a path of the table before, or the last resort"
    lost = net.missing()
    assert lost and max(lost) - min(lost) < 1.0
    net.forget()
    net.run(2.0, TALK)
    assert net.missing() == []


# No path in common, and none without a relay in between: a zone that leaves nothing of what was.
BEFORE = BoundPlan(NODES, both_ways("sg-1", "hk-1"), serial=7)
AFTER = BoundPlan(NODES, both_ways("jp-1", "xx-1"), serial=8)


@pytest.mark.parametrize("staged", [True, False], ids=["staged", "not staged"])
@pytest.mark.parametrize("canary", ["ae-1", "kr-1"])
def test_who_goes_first_by_a_table_is_not_alone_with_it(canary: str, staged: bool) -> None:
    net = BadWorld(BEFORE, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    for node in NODES if staged else ():
        net.nodes[node].set_staged(AFTER.shard(node))
        net.run(0.1, TALK)
    net.nodes[canary].set_shard(AFTER.shard(canary))
    net.run(3.0, TALK)
    assert (net.missing() == []) is staged, "what is not staged shows what is at stake"
    net.forget()
    for node in NODES:
        net.nodes[node].set_shard(AFTER.shard(node))
        net.nodes[node].set_staged(None)
        net.run(0.3, TALK)
    assert net.missing() == [] or not staged


def test_a_staged_table_sends_nothing_another_way_and_can_be_withdrawn() -> None:
    net = BadWorld(BEFORE, delay_s=lambda _a, _b: DELAY_S)
    for node in NODES:
        net.nodes[node].set_staged(AFTER.shard(node))
    net.run(3.0, TALK)
    assert net.active() == ["ae-1", "sg-1", "kr-1"] and net.missing() == []
    for node in NODES:
        net.nodes[node].set_staged(None)
    net.nodes["ae-1"].set_shard(AFTER.shard("ae-1"))
    net.run(1.0, TALK)
    assert net.drops()["jp-1"]["not_in_table"] > 0


def test_the_same_table_once_more_forgets_nothing() -> None:
    """A reload in the middle of a rollout."""
    net = BadWorld(FIRST, delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    for _ in range(2):
        for node in NODES[2:]:
            net.nodes[node].set_shard(SECOND.shard(node))
    net.run(2.0, TALK)
    assert net.missing() == []


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [0.0, 0.03])
def test_the_keys_change_in_the_middle_of_a_call(seed: int, loss: float) -> None:
    """Step by step, node by node in any order, also while datagrams sealed before are asked for again."""
    chance = random.Random(seed)
    net = BadWorld(BoundPlan(NODES, WAYS), delay_s=lambda _a, _b: None if chance.random() < loss else DELAY_S)
    net.run(4.0, TALK)
    net.forget()
    for names in (("old", "new"), ("new", "old"), ("new",)):
        for node in chance.sample(NODES, len(NODES)):
            net.nodes[node].set_peers(with_keys(net.plan, node, *names))
            net.run(0.3, TALK)
        net.run(0.5, TALK)
    lost = net.missing()
    assert all("forged" not in drops and "end_forged" not in drops for drops in net.drops().values())
    if loss == 0:
        assert lost == [] and net.drops() == {}
    else:
        assert len(lost) <= 0.01 * sum(map(len, net.said.values()))


def test_a_key_that_was_taken_back_is_worth_nothing() -> None:
    net = world()
    data = sealed(
        net, "ae-1", "sg-1", wire.DATA, section(net, ["ae-1", "sg-1", "jp-1", "kr-1"], 1 << 60), b"m"
    )
    for node in NODES:
        net.nodes[node].set_peers(with_keys(net.plan, node, "new"))
    net.hand("sg-1", data, net.plan.overlay("ae-1"))
    assert net.nodes["sg-1"].drops == {"forged": 1}


# --- deaths and flapping -----------------------------------------------------------------------------------


def longest_gap_s(net: BadWorld, node: str, since: float) -> float:
    """The longest time of which nothing that was said arrived, up to now."""
    times = [float(payload.split()[1]) for egress, _, _, payload in net.delivered if egress == node]
    return max(late - early for early, late in itertools.pairwise(sorted([since, *times, net.now])))


@pytest.mark.parametrize(
    ("dead", "left"),
    [
        ("sg-1 jp-1", ["ae-1", "hk-1", "kr-1"]),
        ("sg-1 hk-1", ["ae-1", "kr-1"]),
        ("jp-1 hk-1", ["ae-1", "kr-1"]),
    ],
)
@pytest.mark.parametrize("apart_s", [0.0, 0.05, 0.5])
def test_two_of_three_relays_die(dead: str, left: list[str], apart_s: float) -> None:
    net = world()
    since = net.now
    for node in dead.split():
        net.stopped.add(node)
        net.run(apart_s, TALK)
    net.run(20.0, TALK)
    assert net.active() == left and net.active("kr-1", "ae-1") == left[::-1]
    assert net.switches() <= 2 and net.switches("kr-1", "ae-1") <= 2
    assert longest_gap_s(net, "kr-1", since) <= 0.3 and longest_gap_s(net, "ae-1", since) <= 0.3
    net.forget()
    net.run(2.0, TALK)
    assert net.missing() == []


def test_a_segment_that_flaps_every_second_is_left_once() -> None:
    net = world()
    began = net.now

    def flapping(sender: str, receiver: str) -> float | None:
        is_down = {sender, receiver} == {"sg-1", "jp-1"} and int(net.now - began) % 2 == 0
        return None if is_down and net.now < began + 60 else DELAY_S

    net.delay_s = flapping
    net.run(60.0, TALK)
    assert net.active() == ["ae-1", "hk-1", "kr-1"] and net.switches() == 1
    lost = net.missing()
    assert lost and max(lost) < began + 0.3, "one gap, at the first flap"
    net.forget()
    net.run(32.0, TALK)
    assert net.active() == ["ae-1", "sg-1", "jp-1", "kr-1"], "30 s of health"
    assert net.missing() == []
