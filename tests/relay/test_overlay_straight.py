"""When packets to another edge leave as plain UDP, because no overlay path answers (yet)."""

from __future__ import annotations

from commcli.relay.table.zones import Zone
from tests.relay.overlay_world import Plan, World

NODES = ["br-1", "us-1", "hk-1"]
PATHS = [["br-1", "us-1", "hk-1"], ["br-1", "hk-1"], ["hk-1", "us-1", "br-1"], ["hk-1", "br-1"]]


def straight(net: World, egress: str = "hk-1") -> bool:
    return net.nodes["br-1"].goes_straight(egress)


def test_a_path_carries_media_once_it_has_answered() -> None:
    net = World(Plan(NODES, PATHS))
    assert straight(net)
    net.run(0.2)
    assert not straight(net)


def test_a_canary_alone_with_the_first_table_keeps_its_calls() -> None:
    net = World(Plan(NODES, PATHS))
    for node in ("us-1", "hk-1"):
        net.nodes[node].set_shard(None)
    net.run(10)
    assert straight(net)
    for node in ("us-1", "hk-1"):
        net.nodes[node].set_shard(net.plan.shard(node))
    net.run(3)
    assert not straight(net)


def test_when_every_path_died_straight_is_what_is_left() -> None:
    net = World(Plan(NODES, PATHS))
    net.run(2)
    net.delay_s = lambda _a, _b: None
    net.run(10)
    assert straight(net)
    net.delay_s = lambda _a, _b: 0.01
    net.run(3)
    assert not straight(net)


def test_one_path_that_answers_is_enough() -> None:
    net = World(Plan(NODES, PATHS))
    net.run(2)
    net.stopped.add("us-1")
    net.run(10)
    assert not straight(net)


def test_what_the_table_blocks_never_goes_straight() -> None:
    net = World(Plan(NODES, [], blocked=[("br-1", "hk-1")]))
    assert not straight(net)
    assert straight(net, "us-1"), "no route and no rule against it: as before there was a table"


def test_what_a_zone_forbids_never_goes_straight() -> None:
    zone = Zone("z", (frozenset({"br"}), frozenset({"hk"})), frozenset({"hk"}), None)
    net = World(Plan(NODES, PATHS, zones=(zone,)))
    assert not straight(net)
    net.run(10)
    assert not straight(net)
    assert straight(World(Plan(NODES, [], zones=(zone,))), "us-1")
    assert not straight(World(Plan(NODES, [], zones=(zone,))))


def test_without_a_table_there_is_nothing_to_say() -> None:
    net = World(Plan(NODES, PATHS))
    net.nodes["br-1"].set_shard(None)
    assert net.nodes["br-1"].egress_of("192.0.2.3", 40001) is None
    assert not straight(net)
