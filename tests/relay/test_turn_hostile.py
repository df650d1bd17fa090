"""The TURN server against those who mean harm: dangerous peers, junk, floods."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commcli.relay.turn import stun
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.server import Action
from commcli.relay.turn.stun import Addr, Attribute
from tests.relay.test_peers import DANGEROUS
from tests.relay.turn_world import (
    CLIENT,
    PEER,
    PEER6,
    UDP_TRANSPORT,
    Client,
    FakePool,
    World,
    config,
    lifetime,
)

ID = b"transaction!"
OTHER_CLIENT: Addr = ("198.51.100.9", 50000)
FAMILY_4: Attribute = (stun.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0")
FAMILY_6: Attribute = (stun.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
EVEN: Attribute = (stun.EVEN_PORT, b"\0")


@pytest.fixture
def world() -> World:
    return World()


# Dangerous peers, on every road: an open relay is a door into our own network


def _server_for(ip: str, policy: PeerPolicy) -> tuple[World, Client]:
    """A world whose relayed addresses are of the peer's family, so that only the policy stands in the way."""
    six = ":" in ip
    world = World(
        config(relay_families=(stun.IPV6 if six else stun.IPV4,)),
        policy,
        FakePool("2a01:4f8::1" if six else "5.9.0.1"),
    )
    client = Client(world)
    assert client.allocate(FAMILY_6 if six else FAMILY_4).code is None
    return world, client


@pytest.mark.parametrize("ip", DANGEROUS)
def test_dangerous_peers_are_refused_on_every_method(ip: str) -> None:
    world, client = _server_for(ip, PeerPolicy())
    assert client.permit(ip).code == 403
    assert client.permit(PEER6[0] if ":" in ip else PEER[0], ip).code == 403
    assert client.bind(0x4000, (ip, 5000)).code == 403
    assert client.allocation.permissions == {} and client.allocation.channels == {}
    spelling, _ = stun.unpack_address(stun.pack_address((ip, 0)))
    client.allocation.permissions[spelling] = world.now + 300  # even if one had slipped through
    assert client.send(b"GET /", (ip, 80)) == []
    assert dict(world.server.drops) == {"forbidden_peer": 1}


OWN, NEIGHBOUR = "127.77.0.1", "127.77.0.2"
SERVICE_PORTS = {"turn": 3478, "overlay": 3479, "stamp": 3480, "metrics": 9478}


@pytest.mark.parametrize("allow", [[], ["127.0.0.0/8"]], ids=["denied", "allowed"])
@pytest.mark.parametrize("ip", [OWN, NEIGHBOUR, "127.0.0.1"], ids=["own", "neighbour", "loopback"])
@pytest.mark.parametrize("port", SERVICE_PORTS.values(), ids=SERVICE_PORTS.keys())
def test_service_ports_are_refused_on_every_method(ip: str, port: int, allow: list[str]) -> None:
    relays = {OWN: (40000, 42000), NEIGHBOUR: (40000, 42000)}
    policy = PeerPolicy(allow, relays, [OWN], SERVICE_PORTS.values())
    world, client = _server_for(ip, policy)
    client.permit(ip)  # may be granted: other ports of the address are open
    assert client.bind(0x4000, (ip, port)).code == 403
    client.allocation.permissions[ip] = world.now + 300
    assert client.send(b"x", (ip, port)) == []
    assert world.server.drops["forbidden_peer"] == 1


def test_what_a_new_policy_forbids_ends_at_once() -> None:
    """A channel is asked about when it is bound, not for every packet."""
    away, stays = ("10.9.0.1", 5000), ("10.9.0.2", 5000)
    world, client = _server_for(away[0], PeerPolicy(["10.9.0.0/24"]))
    assert client.bind(0x4000, away).code is None
    assert client.bind(0x4001, stays).code is None
    world.server.obey(PeerPolicy(["10.9.0.2/32"]))
    assert client.channel(0x4000, b"x") == []
    assert client.channel(0x4001, b"x") == [(stays, b"x")]
    assert world.from_peer(b"x", away) is None
    assert world.from_peer(b"x", stays) is not None
    assert client.bind(0x4000, away).code == 403


def test_a_new_policy_closes_one_port_of_an_address_that_stays_open() -> None:
    peer, service = ("8.8.4.4", 5000), ("8.8.4.4", 3479)
    world, client = _server_for(peer[0], PeerPolicy())
    assert client.bind(0x4000, peer).code is None
    assert client.bind(0x4001, service).code is None
    world.server.obey(PeerPolicy(services=[service]))
    assert client.channel(0x4000, b"x") == [(peer, b"x")]
    assert client.channel(0x4001, b"x") == []


def test_two_clients_of_one_node_can_talk_although_private_peers_are_denied() -> None:
    policy = PeerPolicy(relays={OWN: (50000, 50100)}, own_addresses=[OWN])
    world = World(policy=policy, pool=FakePool(OWN))
    one, two = Client(world), Client(world, addr=OTHER_CLIENT, seed=9)
    relays = [one.allocate().relayed, two.allocate().relayed]
    assert one.bind(0x4000, relays[1]).code is None
    assert two.permit(OWN).code is None
    assert one.channel(0x4000, b"hello") == [(relays[1], b"hello")]
    assert world.from_peer(b"hello", relays[0], OTHER_CLIENT) is not None


# Junk


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "stun_short"),
        (b"\0", "stun_short"),
        (b"\x16\x03\x01" + bytes(40), "stun_not_stun"),
        (b"\x80" + bytes(40), "stun_not_stun"),
        (stun.build(stun.ALLOCATE, stun.SUCCESS, ID), "stun_unexpected"),
        (stun.build(stun.ALLOCATE, stun.ERROR, ID), "stun_unexpected"),
        (stun.build(stun.ALLOCATE, stun.INDICATION, ID), "stun_unexpected"),
        (stun.build(stun.DATA_METHOD, stun.INDICATION, ID), "stun_unexpected"),
        (stun.build(stun.SEND, stun.REQUEST, ID), "stun_method"),
        (stun.build(0xABC, stun.REQUEST, ID), "stun_method"),
        (b"\x40\0\0\0", "no_allocation"),
        (b"\x7f", "no_allocation"),
    ],
)
def test_junk_is_dropped_with_a_reason(world: World, data: bytes, reason: str) -> None:
    assert world.handle(data) == []
    assert dict(world.server.drops) == {reason: 1}


# Whatever arrives: nothing raises, nobody but the sender is answered, and no stranger is answered at length

METHODS = [
    stun.BINDING,
    stun.ALLOCATE,
    stun.REFRESH,
    stun.SEND,
    stun.CREATE_PERMISSION,
    stun.CHANNEL_BIND,
    0x00A,
]
ATTRIBUTES = st.lists(
    st.tuples(
        st.sampled_from([*range(0x26), *range(0x8000, 0x8030)]).filter(lambda n: n != stun.FINGERPRINT),
        st.binary(max_size=24) | st.sampled_from([b"\x11\0\0\0", b"\x40\0\0\0", b"\1\0\0\0", bytes(8)]),
    ),
    max_size=8,
)
MESSAGES = st.builds(
    stun.build,
    st.sampled_from(METHODS) | st.integers(0, 0xFFF),
    st.integers(0, 3),
    st.binary(min_size=12, max_size=12),
    ATTRIBUTES,
    key=st.none() | st.just(stun.long_term_key("alice", "lab", "wonder")),
    fingerprint=st.booleans(),
)


def _busy_world() -> tuple[World, Client]:
    """A server with one live allocation that has a permission and a channel."""
    world = World()
    client = Client(world)
    client.allocate()
    client.bind(0x4000, PEER)
    return world, client


def _check_actions(world: World, actions: list[Action], client: Addr) -> None:
    for action in actions:
        if action[0] == "client":
            assert action[1] == client
        else:
            assert world.server.allocations[client] is action[1]
            assert action[2][0] == PEER[0]


@given(st.binary(max_size=1500) | MESSAGES, st.sampled_from([CLIENT, OTHER_CLIENT]))
def test_anything_is_survived(data: bytes, sender: Addr) -> None:
    world, _ = _busy_world()
    _check_actions(world, world.handle(data, sender), sender)


@given(st.sampled_from(METHODS), ATTRIBUTES)
def test_any_attributes_from_a_user_are_survived_and_answered(
    method: int, attributes: list[Attribute]
) -> None:
    world, client = _busy_world()
    transaction = bytes(12)
    actions = world.handle(client.request(method, attributes, transaction))
    _check_actions(world, actions, CLIENT)
    if method not in (stun.SEND, 0x00A):
        # Bytes that only look like MESSAGE-INTEGRITY make it no STUN message at all; any other is answered.
        assert len(actions) == 1 or set(world.server.drops) == {"stun_integrity_length"}


@given(st.data())
def test_damaged_and_cut_requests_are_survived(data: st.DataObject) -> None:
    world, client = _busy_world()
    transaction = bytes(12)
    peer = (stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, transaction))
    whole = data.draw(
        st.sampled_from(
            [
                client.request(stun.ALLOCATE, [UDP_TRANSPORT, lifetime(600)], transaction),
                client.request(stun.REFRESH, [lifetime(600)], transaction),
                client.request(stun.CREATE_PERMISSION, [peer, peer], transaction),
                client.request(stun.CHANNEL_BIND, [(stun.CHANNEL_NUMBER, b"\x40\1\0\0"), peer], transaction),
                stun.build(stun.SEND, stun.INDICATION, transaction, [peer, (stun.DATA, b"payload")]),
                b"\x40\0\0\7payload",
            ]
        )
    )
    damaged = bytearray(whole)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)))
    ):
        damaged[position] = value
    cut = bytes(damaged[: data.draw(st.integers(0, len(whole)))])
    for candidate in (bytes(damaged), cut):
        _check_actions(world, world.handle(candidate), CLIENT)


@given(st.binary(max_size=200) | MESSAGES)
def test_strangers_are_answered_in_few_bytes(data: bytes) -> None:
    """32 bytes for a Binding over IPv4, 52 for a challenge in this realm, 8 more each for a FINGERPRINT asked for."""
    world = World()
    raw = world.reply(data, OTHER_CLIENT)
    if raw is not None:
        fingerprint = 8 if stun.parse(raw).fingerprinted else 0
        assert len(raw) <= max(52 + fingerprint, len(data) + 16)
        assert not fingerprint or stun.parse(data).fingerprinted


def test_forged_allocates_leave_nothing_behind() -> None:
    """No state for a source before a valid integrity check, however many sources there are."""
    world = World()
    bare = stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT])
    forged = stun.build(
        stun.ALLOCATE,
        stun.REQUEST,
        ID,
        [UDP_TRANSPORT, (stun.USERNAME, b"alice"), (stun.REALM, b"lab"), (stun.NONCE, b"A" * 12)],
        key=b"guess",
    )

    def flood(first: int) -> None:
        for n in range(first, first + 2000):
            source = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 4000 + n)
            world.handle(bare, source)
            world.handle(forged, source)

    flood(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flood(2000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert not world.server.allocations


class Churn(RuleBasedStateMachine):
    """Clients come, go, refresh, forget; the tables, the quota and the pool always tell the same story."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(config(user_quota=3, total_quota=5), pool=FakePool(ports=range(50000, 50006)))
        self.clients = [
            Client(self.world, *credentials, addr=(f"198.51.{n >> 8}.{n & 255}", 1), seed=n)
            for n, credentials in enumerate([("alice", "wonder"), ("bob", "builder")] * 4)
        ]

    someone = st.integers(0, 7)

    @rule(who=someone, even=st.booleans())
    def allocate(self, who: int, even: bool) -> None:
        code = self.clients[who].allocate(*([EVEN] if even else [])).code
        assert code in (None, 437, 438, 486, 508)

    @rule(who=someone, seconds=st.sampled_from([0, 600, 3600]))
    def refresh(self, who: int, seconds: int) -> None:
        assert self.clients[who].refresh(seconds).code in (None, 437, 438)

    @rule(who=someone, channel=st.integers(0x4000, 0x4002), port=st.integers(1, 3))
    def bind(self, who: int, channel: int, port: int) -> None:
        assert self.clients[who].bind(channel, (PEER[0], port)).code in (None, 400, 437, 438)

    @rule(seconds=st.sampled_from([1, 299, 300, 600]), sweep=st.booleans())
    def time_passes(self, seconds: float, sweep: bool) -> None:
        self.world.now += seconds
        if sweep:
            self.world.server.expire(self.world.now)

    @invariant()
    def tables_agree(self) -> None:
        server = self.world.server
        live = list(server.allocations.values())
        assert {a.client for a in live} == set(server.allocations)
        assert {a.relay: a for a in live} == server.by_relay
        assert sorted(server.by_relay) == sorted(self.world.pool.opened)
        assert server._users == Counter(a.user for a in live)
        assert len(live) <= 5 and max(server._users.values(), default=0) <= 3
        for allocation in live:
            assert {peer: n for n, (peer, _) in allocation.channels.items()} == allocation.numbers


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# What one user can have done in one go


def test_many_allocations_end_in_portions() -> None:
    world = World(pool=FakePool(ports=range(20000, 20450)))
    for n in range(450):
        assert Client(world, addr=(f"198.51.{n >> 8}.{n & 255}", 1), seed=n).allocate().code is None
    world.now += 600
    left = []
    while world.server.expire(world.now):
        left.append(len(world.server.allocations))
    assert left == [250, 50] and not world.server.allocations and not world.pool.opened


def test_a_new_policy_is_applied_in_portions_and_an_equal_one_not_at_all() -> None:
    world = World(pool=FakePool(ports=range(20000, 20050)))
    for n in range(20):
        client = Client(world, addr=(f"198.51.{n >> 8}.{n & 255}", 1), seed=n)
        client.allocate()
        for block in range(8):
            assert client.permit(*(f"8.8.{block}.{m}" for m in range(1, 21))).code is None
    allocations = list(world.server.allocations.values())
    before = world.server.policy
    world.server.obey(PeerPolicy())
    assert world.server.policy is before
    world.server.obey(PeerPolicy(services=[("8.8.1.1", 53)], neighbours=[("8.8.4.4", (1, 2))]))
    world.server.obey(PeerPolicy(allow=["10.0.0.0/8"]))
    ticks = 0
    while world.server._unjudged:
        world.server.judge()
        ticks += 1
    assert ticks == 2
    assert all(len(allocation.permissions) == 160 for allocation in allocations)


def test_empty_packets_are_not_free() -> None:
    world = World(config(session_kbit_s=8))
    client = Client(world)
    client.allocate()
    client.bind(0x4000, PEER)
    carried = sum(bool(client.channel(0x4000, b"")) for _ in range(5000))
    assert 1000 < carried < 3000
    assert world.server.drops["session_rate"] == 5000 - carried


def test_guessing_on_a_stream_meets_silence() -> None:
    world = World()
    stream: Any = (*CLIENT, "tcp")
    client = Client(world, password="guess", addr=stream)
    codes = [client.ask(stun.REFRESH).code for _ in range(100)]
    assert codes == [401] * 100
    assert world.reply(client.request(stun.REFRESH), client.addr) is None
    other: Any = (CLIENT[0], 9, "tcp")
    assert Client(world, addr=other).allocate().code is None
