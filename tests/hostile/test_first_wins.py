"""Attributes said twice: the first one counts (RFC 8489 section 5), so that two readers of one message agree."""

from __future__ import annotations

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.stun import Addr, Attribute
from tests.relay.turn_world import CLIENT, PEER, UDP_TRANSPORT, Client, Reply, World, lifetime

ID = b"transaction!"
OTHER: Addr = ("8.8.4.4", 6000)
FORBIDDEN: Addr = ("10.0.0.1", 80)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    alice = Client(world)
    assert alice.allocate().code is None
    return alice


def _peer(addr: Addr) -> Attribute:
    return stun.XOR_PEER_ADDRESS, stun.pack_address(addr, ID)


def _number(number: int) -> Attribute:
    return stun.CHANNEL_NUMBER, number.to_bytes(2, "big") + b"\0\0"


def test_the_first_lifetime(client: Client) -> None:
    assert client.ask(stun.REFRESH, [lifetime(1800), lifetime(0)]).lifetime_s == 1800
    assert client.ask(stun.REFRESH, [lifetime(0), lifetime(1800)]).lifetime_s == 0
    assert not client.world.server.allocations


def test_the_first_channel_and_the_first_peer(client: Client) -> None:
    twice = [_number(0x4001), _number(0x4002), _peer(PEER), _peer(OTHER)]
    assert client.ask(stun.CHANNEL_BIND, twice, ID).code is None
    assert {n: peer for n, (peer, _) in client.allocation.channels.items()} == {0x4001: PEER}


def test_a_lawful_second_peer_does_not_cover_a_forbidden_first(client: Client) -> None:
    assert client.ask(stun.CHANNEL_BIND, [_number(0x4001), _peer(FORBIDDEN), _peer(PEER)], ID).code == 403
    client.permit(PEER[0])
    send = [_peer(FORBIDDEN), _peer(PEER), (stun.DATA, b"x")]
    assert client.world.handle(stun.build(stun.SEND, stun.INDICATION, ID, send)) == []


def test_the_first_data(client: Client) -> None:
    client.permit(PEER[0])
    send = [_peer(PEER), (stun.DATA, b"one"), (stun.DATA, b"two")]
    [action] = client.world.handle(stun.build(stun.SEND, stun.INDICATION, ID, send))
    assert action[0] == "peer" and action[3] == b"one"


@pytest.mark.parametrize("which", [stun.USERNAME, stun.NONCE])
def test_the_first_name_and_nonce_are_those_that_are_judged(world: World, which: int) -> None:
    client = Client(world)
    client.allocate()
    good = {stun.USERNAME: b"alice", stun.REALM: b"lab", stun.NONCE: client.nonce}
    for first, code in ((False, 401 if which == stun.USERNAME else 438), (True, None)):
        attributes = [(kind, value) for kind, value in good.items() if kind != which]
        pair = [(which, good[which]), (which, b"bob")]
        attributes += pair if first else pair[::-1]
        raw = world.reply(stun.build(stun.REFRESH, stun.REQUEST, ID, attributes, key=client.key))
        assert raw is not None and Reply(raw).code == code


def test_what_follows_the_integrity_does_not_count(world: World, client: Client) -> None:
    """On the way, anybody can add to the end of a message."""
    whole = client.request(stun.REFRESH, [], ID)
    added = bytearray(whole + b"\0\x0d\0\4" + bytes(4))  # LIFETIME 0
    added[2:4] = (len(added) - 20).to_bytes(2, "big")
    raw = world.reply(bytes(added))
    assert raw is not None and Reply(raw).lifetime_s == 600
    assert CLIENT in world.server.allocations


@pytest.mark.parametrize("method", [stun.ALLOCATE, stun.REFRESH, stun.CREATE_PERMISSION, stun.CHANNEL_BIND])
def test_unknown_required_attributes_are_named_each_once(world: World, method: int) -> None:
    client = Client(world)
    strange = [(0x7001, b""), (0x0050, b"x"), (0x7001, b"y"), (0x8001, b"optional"), (0xFFFF, b"")]
    reply = client.ask(method, [UDP_TRANSPORT, *strange])
    assert reply.code == 420
    assert reply.message.first(stun.UNKNOWN_ATTRIBUTES) == b"\x70\x01\x00\x50"
    assert reply.message.signed_by(client.key)


def test_strangers_are_not_told_what_we_know(world: World) -> None:
    """Who has not authenticated gets a challenge, whatever else is in the request (RFC 8656 section 7.2)."""
    raw = world.reply(stun.build(stun.ALLOCATE, stun.REQUEST, ID, [(0x7001, b""), (0x7002, b"")]))
    assert raw is not None and Reply(raw).code == 401
