"""A TURN server goes on in another process: what one keeps, the other takes, with a clock of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.server import Told, TurnConfig
from tests.relay.turn_world import PEER, Client, World, config, lifetime

STREAM = ("198.51.100.9", 443, "tls")


def through_json(document: dict[str, Any]) -> dict[str, Any]:
    """As it goes from one process to another."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def successor(
    world: World, now: float = 50.0, settings: TurnConfig | None = None, without: tuple[str, ...] = ()
) -> World:
    """Another process, with another clock."""
    heir = World(settings or world.config, world.policy, now=now)
    heir.pool.opened, heir.pool.free = list(world.pool.opened), list(world.pool.free)
    heir.server.take(through_json(world.server.kept(world.now, {}, without)), heir.now)
    return heir


def moved(client: Client, heir: World) -> Client:
    client.world = heir
    return client


def test_a_call_goes_on() -> None:
    world = World()
    client = Client(world)
    relayed = client.allocate().relayed
    client.bind(0x4001)
    client = moved(client, successor(world))
    assert client.channel(0x4001, b"voice") == [(PEER, b"voice")]
    frame = client.world.from_peer(b"back")
    assert frame is not None and frame[:2] == b"\x40\x01" and frame[4:] == b"back"
    assert client.refresh(900).code is None  # with the nonce of the first process
    assert client.allocation.relay == relayed and client.world.server.by_relay[relayed] is client.allocation
    assert client.refresh(0).code is None
    assert client.world.pool.opened == [] and client.world.server.allocations == {}


def test_times_go_on_and_do_not_begin_again() -> None:
    world = World()
    client = Client(world)
    client.allocate(lifetime(700))
    client.bind(0x4001)
    client.permit("1.2.3.4")
    world.passes(250)
    heir = moved(client, successor(world)).world
    heir.passes(49)
    assert client.allocation.permitted("1.2.3.4", heir.now) and client.channel(0x4001, b"x")
    heir.passes(1)
    assert not client.allocation.permitted("1.2.3.4", heir.now)
    assert client.channel(0x4001, b"x")  # 600 s from its binding
    heir.passes(300)
    assert client.channel(0x4001, b"x") == []
    heir.passes(99)
    assert client.refresh(700).code is None
    heir.passes(700)
    assert heir.server.allocations == {} and heir.pool.opened == []


def test_a_nonce_keeps_its_age() -> None:
    world = World()
    client = Client(world)
    client.allocate(lifetime(3600))
    world.passes(3500)
    heir = moved(client, successor(world)).world
    heir.passes(90)
    assert client.refresh(3600).code is None
    heir.passes(12)
    assert client.refresh(3600).code == 438


def test_a_retransmitted_allocate_is_answered_as_before() -> None:
    world = World()
    client = Client(world)
    first = client.allocate(transaction=b"the same one")
    again = moved(client, successor(world)).allocate(transaction=b"the same one")
    assert again.raw == first.raw and len(client.world.server.allocations) == 1
    assert client.allocate().code == 437


def test_reserved_ports_stay_reserved() -> None:
    world = World()
    alice, other = Client(world), Client(world, addr=("198.51.100.7", 40002))
    pair = alice.allocate((stun.EVEN_PORT, b"\x80"))
    token = pair.message.first(stun.RESERVATION_TOKEN)
    assert token is not None
    heir = moved(alice, successor(world)).world
    redeemed = moved(other, heir).allocate((stun.RESERVATION_TOKEN, token))
    assert redeemed.relayed == (pair.relayed[0], pair.relayed[1] + 1)


def test_a_reservation_without_its_allocation_ends_in_time() -> None:
    world = World()
    alice = Client(world)
    alice.allocate((stun.EVEN_PORT, b"\x80"))
    alice.refresh(0)
    world.passes(20)
    heir = successor(world)
    heir.passes(9)
    assert len(heir.pool.opened) == 1
    heir.passes(1.5)
    assert heir.pool.opened == []


def test_quotas_count_what_was_taken_over() -> None:
    world = World(config(user_quota=1))
    client = Client(world)
    client.allocate()
    other = Client(successor(world), addr=("198.51.100.7", 40002))
    assert other.allocate().code == 486


def test_rates_are_not_filled_up_again() -> None:
    world = World(config(session_kbit_s=1000))
    client = Client(world)
    client.allocate()
    client.bind(0x4001)
    while client.channel(0x4001, bytes(1000)):
        pass
    assert moved(client, successor(world)).channel(0x4001, bytes(1000)) == []


def test_counters_go_on() -> None:
    world = World()
    client, ended = Client(world), Client(world, "bob", "builder", addr=("198.51.100.8", 1))
    ended.allocate()
    ended.bind(0x4001)
    ended.channel(0x4001, b"four")
    ended.refresh(0)
    client.allocate()
    client.bind(0x4001)
    client.channel(0x4001, b"voice")
    client.channel(0x4002, b"nobody's")
    heir = successor(world).server
    assert heir.totals() == world.server.totals()
    assert heir.totals()["bytes", "from_client", "udp"] == 9
    assert heir.counters == world.server.counters and heir.drops == world.server.drops


def test_most_of_it_goes_before_the_rest() -> None:
    world = World()
    told: Told = {}
    stays, ends, changes, comes = (Client(world, addr=("198.51.100.7", port)) for port in range(1, 5))
    for client in (stays, ends, changes):
        client.allocate()
    heir = World(now=50.0)
    sizes = []
    while rows := (portion := world.server.kept_allocations(world.now, told, (), 2))["rows"]:
        sizes.append(len(rows))
        heir.server.take_allocations(through_json(portion), heir.now)
    assert sizes == [2, 1] and len(heir.server.allocations) == 3
    ends.refresh(0)
    changes.bind(0x4001)
    changes.channel(0x4001, b"four")
    comes.allocate()
    rest = world.server.kept(world.now, told)
    assert [row["client"] for row in rest["rows"]] == [changes.addr, comes.addr]
    heir.pool.opened, heir.pool.free = list(world.pool.opened), list(world.pool.free)
    heir.server.take(through_json(rest), heir.now)
    assert heir.server.allocations.keys() == world.server.allocations.keys()
    assert heir.server.by_relay.keys() == world.server.by_relay.keys()
    assert heir.server.totals() == world.server.totals()
    assert moved(changes, heir).channel(0x4001, b"x") and moved(stays, heir).refresh(0).code is None
    for client in (changes, comes):
        moved(client, heir).refresh(0)
    assert heir.pool.opened == []
    assert heir.server.counters["allocations_ended"] == 4


def test_what_can_not_move_is_counted_as_ended() -> None:
    world = World()
    stays, goes = Client(world), Client(world, "bob", "builder", addr=STREAM)  # type: ignore[arg-type]
    stays.allocate()
    goes.allocate()
    goes.bind(0x4001)
    goes.channel(0x4001, b"four")
    heir = successor(world, without=("tls",)).server
    assert list(heir.allocations) == [stays.addr] and heir.counters["allocations_ended"] == 1
    assert heir.totals() == world.server.totals()
    assert len(world.server.allocations) == 2  # and the first process could go on


def test_the_configuration_of_the_new_process_holds() -> None:
    world = World()
    alice, bob = Client(world), Client(world, "bob", "builder", addr=("198.51.100.8", 1))
    alice.allocate()
    bob.allocate()
    heir = successor(world, settings=config(revoked=frozenset({"bob"}), user_quota=1)).server
    assert list(heir.allocations) == [alice.addr] and heir.counters["allocations_ended"] == 1


def test_the_policy_of_the_new_process_holds() -> None:
    world = World(policy=PeerPolicy(["10.0.0.0/8"]))
    client = Client(world)
    client.allocate()
    client.bind(0x4001, ("10.1.2.3", 9))
    client.bind(0x4002)
    world.policy = PeerPolicy()
    heir = moved(client, successor(world)).world
    heir.server.judge()
    assert not heir.server.judging
    assert client.channel(0x4001, b"x") == [] and client.channel(0x4002, b"x")


@pytest.mark.parametrize("part", ["nonces", "rows", "figures", "reserved", "lapsing", "carried"])
def test_a_state_that_is_none_is_refused(part: str) -> None:
    world = World()
    Client(world).allocate()
    document = {**world.server.kept(world.now, {}), part: [{"client": 3}]}
    with pytest.raises((ValueError, KeyError, TypeError)):
        World().server.take(document, 0.0)
