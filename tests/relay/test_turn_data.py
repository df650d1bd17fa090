"""Permissions, channels and data through an allocation, step by step in time (RFC 8656 sections 9 to 12)."""

from __future__ import annotations

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.allocation import MAX_CHANNELS, MAX_PERMISSIONS
from commcli.relay.turn.stun import Addr, Attribute
from tests.relay.turn_world import (
    CLIENT,
    PEER,
    PEER6,
    Client,
    World,
)

ID = b"transaction!"
OTHER_PEER: Addr = ("8.8.4.4", 6000)  # the same address, another port


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return Client(world)


@pytest.fixture
def allocated(client: Client) -> Client:
    assert client.allocate().code is None
    return client


# Permissions, channels and data


def test_permissions_last_300_seconds(world: World, allocated: Client) -> None:
    assert allocated.send(b"early") == []
    assert world.server.drops["no_permission"] == 1
    assert allocated.permit(PEER[0]).code is None
    steps = [(0.0, True), (299.9, True), (0.1, False)]
    for seconds, open_ in steps:
        world.passes(seconds)
        assert bool(allocated.send(b"x")) is open_
        assert (world.from_peer(b"x") is not None) is open_
    assert allocated.permit(PEER[0]).code is None
    world.passes(200)
    assert allocated.permit(PEER[0]).code is None
    world.passes(50)
    assert allocated.send(b"x") == [(PEER, b"x")]
    assert allocated.send(b"x", OTHER_PEER) == [(OTHER_PEER, b"x")]  # a permission is for the address


def test_several_permissions_come_all_or_none(allocated: Client) -> None:
    assert allocated.permit("1.1.1.1", "9.9.9.9", "1.1.1.1").code is None
    assert set(allocated.allocation.permissions) == {"1.1.1.1", "9.9.9.9"}
    assert allocated.permit("8.8.8.8", "10.0.0.1").code == 403
    assert allocated.permit("8.8.8.8", PEER6[0]).code == 443
    assert "8.8.8.8" not in allocated.allocation.permissions


@pytest.mark.parametrize(
    "attributes",
    [[], [(stun.XOR_PEER_ADDRESS, b"")], [(stun.XOR_PEER_ADDRESS, b"\0\1\0\0\0\0\0\0\0")]],
    ids=["none", "empty", "long"],
)
def test_permissions_without_a_sane_address_are_400(allocated: Client, attributes: list[Attribute]) -> None:
    assert allocated.ask(stun.CREATE_PERMISSION, attributes).code == 400


def test_permissions_are_capped_and_room_comes_back(world: World, allocated: Client) -> None:
    def fill() -> list[int | None]:
        ips = [f"8.8.{n >> 8}.{n & 255}" for n in range(MAX_PERMISSIONS)]
        return [allocated.permit(*ips[at : at + 64]).code for at in range(0, len(ips), 64)]

    assert set(fill()) == {None}
    assert allocated.permit("9.9.9.9").code == 508
    assert allocated.bind(0x4000, ("9.9.9.9", 1)).code == 508
    assert set(fill()) == {None}  # refreshing those that are there needs no room
    world.now += 300
    assert allocated.permit("9.9.9.9").code is None
    assert set(allocated.allocation.permissions) == {"9.9.9.9"}


def test_channels_are_capped_and_room_comes_back(world: World, allocated: Client) -> None:
    for n in range(MAX_CHANNELS):
        assert allocated.bind(0x4000 + n, (PEER[0], 1000 + n)).code is None
    assert allocated.bind(0x4000 + MAX_CHANNELS, (PEER[0], 9999)).code == 508
    assert allocated.bind(0x4000, (PEER[0], 1000)).code is None
    world.now += 599
    allocated.refresh(600)
    world.now += 1
    assert allocated.bind(0x4FFF, (PEER[0], 9999)).code is None
    assert len(allocated.allocation.channels) == len(allocated.allocation.numbers) == 1


def test_channels_last_600_seconds_and_their_permission_300(world: World, allocated: Client) -> None:
    assert allocated.bind(0x4001).code is None
    assert world.from_peer(b"abc") == b"\x40\x01\x00\x03abc"
    assert allocated.channel(0x4001, b"abc") == [(PEER, b"abc")]
    world.passes(300)
    allocated.refresh(3600)
    assert world.from_peer(b"abc") is None
    assert allocated.channel(0x4001, b"abc") == [(PEER, b"abc")]
    assert allocated.permit(PEER[0]).code is None
    world.passes(299.9)
    assert world.from_peer(b"abc") == b"\x40\x01\x00\x03abc"
    world.passes(0.05)
    assert allocated.permit(PEER[0]).code is None
    world.passes(0.05)
    assert allocated.channel(0x4001, b"abc") == []
    assert world.server.drops["no_channel"] == 1
    back = world.from_peer(b"abc")
    assert back is not None and back[0] == 0  # a Data indication again


def test_rebinding_refreshes_channel_and_permission(world: World, allocated: Client) -> None:
    allocated.bind(0x4001)
    world.passes(299)
    assert allocated.bind(0x4001).code is None
    allocated.refresh(3600)
    world.passes(299)
    assert world.from_peer(b"x") == b"\x40\x01\x00\x01x"
    world.passes(300.9)
    assert allocated.channel(0x4001, b"x") == [(PEER, b"x")]


@pytest.mark.parametrize(
    ("number", "code"),
    [(0, 400), (0x3FFF, 400), (0x4000, None), (0x4FFF, None), (0x7FFF, None), (0x8000, 400), (0xFFFF, 400)],
)
def test_channel_numbers_have_a_range(allocated: Client, number: int, code: int | None) -> None:
    assert allocated.bind(number).code == code


def test_a_channel_has_one_peer_and_a_peer_one_channel(world: World, allocated: Client) -> None:
    assert allocated.bind(0x4000, PEER).code is None
    assert allocated.bind(0x4000, OTHER_PEER).code == 400
    assert allocated.bind(0x4001, PEER).code == 400
    assert allocated.bind(0x4001, OTHER_PEER).code is None
    assert allocated.bind(0x4000, PEER).code is None
    world.passes(599)
    allocated.refresh(600)
    world.passes(1)
    assert allocated.bind(0x4000, OTHER_PEER).code is None
    assert allocated.bind(0x4001, PEER).code is None
    assert allocated.channel(0x4000, b"x") == [(OTHER_PEER, b"x")]
    assert world.from_peer(b"x", PEER) == b"\x40\x01\x00\x01x"


def test_an_expired_binding_makes_way_before_it_is_swept(world: World, allocated: Client) -> None:
    allocated.bind(0x4000, PEER)
    allocated.bind(0x4001, OTHER_PEER)
    world.now += 599
    allocated.refresh(600)
    world.now += 1
    assert allocated.bind(0x4000, OTHER_PEER).code is None
    assert allocated.allocation.channels.keys() == {0x4000}
    assert allocated.allocation.numbers == {OTHER_PEER: 0x4000}


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        [(stun.CHANNEL_NUMBER, b"\x40\0\0\0")],
        [(stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, ID))],
        [(stun.CHANNEL_NUMBER, b"\x40\0"), (stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, ID))],
        [(stun.CHANNEL_NUMBER, b"\x40\0\0\0"), (stun.XOR_PEER_ADDRESS, b"")],
    ],
    ids=["nothing", "no-peer", "no-number", "short-number", "bad-peer"],
)
def test_malformed_binds_are_400(allocated: Client, attributes: list[Attribute]) -> None:
    assert allocated.ask(stun.CHANNEL_BIND, attributes, ID).code == 400
    assert not allocated.allocation.channels


def test_a_bind_needs_a_port_that_exists(allocated: Client) -> None:
    assert allocated.bind(0x4000, (PEER[0], 0)).code == 403


def test_channel_data_is_cut_to_its_length(world: World, allocated: Client) -> None:
    allocated.bind()
    assert allocated.channel(0x4000, b"") == [(PEER, b"")]
    assert allocated.channel(0x4000, b"abc\0", size=3) == [(PEER, b"abc")]
    assert allocated.channel(0x4000, b"abc", size=4) == []
    assert world.handle(b"\x40\x00\x00") == []
    assert world.server.drops["channel_length"] == 2
    assert allocated.channel(0x4001, b"abc") == []
    assert world.server.drops["no_channel"] == 1


def test_a_peer_without_a_channel_comes_as_a_data_indication(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    first, second = world.from_peer(b"hello"), world.from_peer(b"hello")
    assert first is not None and second is not None
    message = stun.parse(first)
    assert (message.method, message.kind) == (stun.DATA_METHOD, stun.INDICATION)
    assert stun.unpack_address(message.first(stun.XOR_PEER_ADDRESS) or b"", message.transaction) == PEER
    assert message.first(stun.DATA) == b"hello"
    assert stun.parse(second).transaction != message.transaction


def test_strangers_do_not_reach_the_client(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    assert world.from_peer(b"x", ("8.8.8.8", PEER[1])) is None
    assert world.server.drops["no_permission"] == 1


def test_what_fits_no_datagram_is_dropped(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    assert world.from_peer(bytes(65457)) is None
    assert world.server.drops["oversize"] == 1
    largest = world.from_peer(bytes(65456))
    assert largest is not None and len(largest) <= 65507
    allocated.allocation.permissions[PEER6[0]] = world.now + 300
    largest = world.from_peer(bytes(65456), PEER6)
    assert largest is not None and len(largest) <= 65507


def test_whoever_still_holds_a_freed_allocation_gets_nothing(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    allocation = allocated.allocation
    allocated.refresh(0)
    assert world.server.from_peer(allocation, PEER, b"x", world.now) is None
    assert world.server.drops["no_allocation"] == 1


@pytest.mark.parametrize(
    "attributes",
    [
        [(stun.DATA, b"x")],
        [(stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, ID))],
        [(stun.XOR_PEER_ADDRESS, b"\0"), (stun.DATA, b"x")],
        [(stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, ID)), (stun.DATA, b"x"), (0x7001, b"")],
    ],
    ids=["no-peer", "no-data", "bad-peer", "unknown"],
)
def test_malformed_sends_are_dropped(world: World, allocated: Client, attributes: list[Attribute]) -> None:
    allocated.permit(PEER[0])
    assert world.handle(stun.build(stun.SEND, stun.INDICATION, ID, attributes)) == []
    assert world.server.drops["send_malformed"] == 1


def test_the_first_peer_of_a_send_wins(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    peers = [(stun.XOR_PEER_ADDRESS, stun.pack_address(peer, ID)) for peer in (PEER, OTHER_PEER)]
    [action] = world.handle(stun.build(stun.SEND, stun.INDICATION, ID, [*peers, (stun.DATA, b"x")]))
    assert action[0] == "peer" and action[2] == PEER


def test_dont_fragment_is_kept(world: World, allocated: Client) -> None:
    allocated.permit(PEER[0])
    whole: Attribute = (stun.DONT_FRAGMENT, b"")
    assert allocated.send(bytes(1472), PEER, whole) == [(PEER, bytes(1472))]
    assert allocated.send(bytes(1473), PEER, whole) == []
    assert world.server.drops["would_fragment"] == 1
    assert allocated.send(bytes(1473)) == [(PEER, bytes(1473))]


def test_traffic_is_counted_by_payload(world: World, allocated: Client) -> None:
    allocated.bind()
    allocated.channel(0x4000, b"12345")
    allocated.send(b"123")
    world.from_peer(b"1234567")
    allocation = allocated.allocation
    assert (allocation.packets_in, allocation.bytes_in) == (2, 8)
    assert (allocation.packets_out, allocation.bytes_out) == (1, 7)


def test_clients_are_told_apart_by_port(world: World, allocated: Client) -> None:
    second = Client(world, addr=(CLIENT[0], CLIENT[1] + 1), seed=9)
    second.allocate()
    allocated.bind()
    assert second.channel(0x4000, b"x") == []
    assert allocated.allocation.relay != second.allocation.relay


def test_nothing_passes_once_the_allocation_is_over_swept_or_not(world: World, allocated: Client) -> None:
    world.now += 400
    allocated.bind()  # channel and permission would hold longer
    world.now += 200
    assert allocated.channel(0x4000, b"x") == []
    assert world.from_peer(b"x") is None
    assert dict(world.server.drops) == {"no_allocation": 2}
