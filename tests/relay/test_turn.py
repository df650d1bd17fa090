"""The TURN server's answers about allocations, step by step in time (RFC 8656 sections 5 to 8)."""

from __future__ import annotations

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.auth import time_limited_password
from commcli.relay.turn.road import OVERLAY
from commcli.relay.turn.stun import Addr, Attribute
from tests.relay.turn_world import (
    CLIENT,
    PEER,
    PEER6,
    UDP_TRANSPORT,
    UNIX,
    Client,
    FakePool,
    Reply,
    World,
    config,
    lifetime,
)

ID = b"transaction!"
OTHER_CLIENT: Addr = ("198.51.100.9", 50000)
FAMILY_4: Attribute = (stun.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0")
FAMILY_6: Attribute = (stun.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
ALSO_6: Attribute = (stun.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0")
EVEN: Attribute = (stun.EVEN_PORT, b"\0")
PAIR: Attribute = (stun.EVEN_PORT, b"\x80")
TOKEN: Attribute = (stun.RESERVATION_TOKEN, bytes(8))


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


# Binding and what the unauthenticated get


@pytest.mark.parametrize(("addr", "size"), [(CLIENT, 32), (("2a00:1450::1", 4000), 44)], ids=["ipv4", "ipv6"])
def test_binding_tells_the_address_and_nothing_more(world: World, addr: Addr, size: int) -> None:
    raw = world.reply(stun.build(stun.BINDING, stun.REQUEST, ID), addr)
    assert raw is not None and len(raw) == size
    [(kind, value)] = stun.parse(raw).attributes
    assert (kind, stun.unpack_address(value, ID)) == (stun.XOR_MAPPED_ADDRESS, addr)


def test_a_reply_has_a_fingerprint_when_the_request_has_one(world: World) -> None:
    raw = world.reply(stun.build(stun.BINDING, stun.REQUEST, ID, fingerprint=True))
    assert raw is not None and len(raw) == 40
    assert stun.parse(raw).fingerprinted


def test_binding_with_an_unknown_attribute_is_420(world: World) -> None:
    attributes = [(0x0024, b"\0\0\0\1"), (0x7FFF, b""), (0x0024, b"\0\0\0\2"), (0xC001, b"")]
    raw = world.reply(stun.build(stun.BINDING, stun.REQUEST, ID, attributes))
    assert raw is not None
    reply = Reply(raw)
    assert reply.code == 420
    assert reply.message.first(stun.UNKNOWN_ATTRIBUTES) == b"\x00\x24\x7f\xff"


def test_a_keepalive_is_not_answered_and_not_a_drop(world: World) -> None:
    assert world.handle(stun.build(stun.BINDING, stun.INDICATION, ID)) == []
    assert not world.server.drops


@pytest.mark.parametrize("method", [stun.ALLOCATE, stun.REFRESH, stun.CREATE_PERMISSION, stun.CHANNEL_BIND])
def test_every_turn_request_is_challenged_in_52_bytes(world: World, method: int) -> None:
    raw = world.reply(stun.build(method, stun.REQUEST, ID))
    assert raw is not None and len(raw) <= 52
    reply = Reply(raw)
    assert reply.code == 401
    assert reply.message.transaction == ID
    assert reply.message.first(stun.REALM) == b"lab"
    assert reply.message.integrity is None
    assert world.server.counters["auth_failed"] == 0


def test_unknown_user_and_bad_password_get_the_same_bytes(world: World) -> None:
    replies = []
    for username, password in [("alice", "wrong"), ("mallory", "wonder")]:
        probe = Client(world, username, password)
        replies.append(probe.ask(stun.ALLOCATE, [UDP_TRANSPORT], ID))
    assert replies[0].raw == replies[1].raw
    assert replies[0].code == 401
    assert world.server.counters["auth_failed"] == 2


def test_a_stale_nonce_is_438_with_a_fresh_one(world: World, client: Client) -> None:
    client.allocate()
    world.now += 3601
    reply = client.refresh(600)
    assert reply.code == 438
    assert reply.message.first(stun.REALM) == b"lab"
    client.nonce = reply.message.first(stun.NONCE) or b""
    assert client.refresh(600).code == 437  # the credentials are good again; the allocation is long gone


def test_integrity_without_a_username_is_400_and_no_challenge(world: World) -> None:
    raw = world.reply(stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT], key=b"k"))
    assert raw is not None and len(raw) == 28
    assert Reply(raw).code == 400


def test_refusals_to_a_source_end_after_ten_a_second(world: World) -> None:
    bare = stun.build(stun.ALLOCATE, stun.REQUEST, ID)
    ports = [(CLIENT[0], 1000 + n) for n in range(15)]
    assert sum(world.reply(bare, addr) is not None for addr in ports) == 10
    assert world.server.drops["refusal_silenced"] == 5
    assert world.reply(bare, OTHER_CLIENT) is not None
    world.now += 1
    assert world.reply(bare) is not None


def test_silence_is_for_strangers_only(world: World, allocated: Client) -> None:
    bare = stun.build(stun.ALLOCATE, stun.REQUEST, ID)
    while world.reply(bare) is not None:
        pass
    assert allocated.refresh(600).code is None
    assert allocated.allocate().code == 437


# Allocate


def test_allocate(world: World, client: Client) -> None:
    reply = client.allocate()
    assert reply.code is None
    assert reply.relayed == ("5.9.0.1", 50000)
    assert reply.lifetime_s == 600
    mapped = reply.message.first(stun.XOR_MAPPED_ADDRESS)
    assert mapped is not None and stun.unpack_address(mapped, reply.message.transaction) == CLIENT
    assert reply.message.signed_by(client.key)
    allocation = client.allocation
    assert world.server.by_relay == {("5.9.0.1", 50000): allocation}
    assert (allocation.client, allocation.username, allocation.road) == (CLIENT, "alice", OVERLAY)
    counters = world.server.counters
    assert (counters["auth_ok"], counters["auth_failed"], counters["allocations_made"]) == (1, 0, 1)


def test_a_retransmitted_allocate_is_answered_alike(world: World, client: Client) -> None:
    first = client.allocate(transaction=ID)
    world.passes(7)
    assert client.allocate(transaction=ID).raw == first.raw
    assert len(world.pool.opened) == 1
    assert world.server.counters["allocations_made"] == 1


def test_a_second_allocate_is_437(world: World, allocated: Client) -> None:
    assert allocated.allocate().code == 437
    bob = Client(world, "bob", "builder", seed=8)
    assert bob.allocate(transaction=allocated.allocation.made_by).code == 437
    assert len(world.pool.opened) == 1


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        pytest.param([], 400, id="no-transport"),
        pytest.param([(stun.REQUESTED_TRANSPORT, b"\x11")], 400, id="short-transport"),
        pytest.param([(stun.REQUESTED_TRANSPORT, b"\x06\0\0\0")], 442, id="tcp"),
        pytest.param(
            [(stun.REQUESTED_TRANSPORT, b"\x06\0\0\0"), UDP_TRANSPORT], 442, id="first-duplicate-wins"
        ),
        pytest.param([UDP_TRANSPORT, (stun.LIFETIME, b"\0\0")], 400, id="short-lifetime"),
        pytest.param([UDP_TRANSPORT, FAMILY_6], 440, id="ipv6"),
        pytest.param([UDP_TRANSPORT, (stun.REQUESTED_ADDRESS_FAMILY, b"\3\0\0\0")], 440, id="family-3"),
        pytest.param([UDP_TRANSPORT, (stun.REQUESTED_ADDRESS_FAMILY, b"\1")], 400, id="short-family"),
        pytest.param([UDP_TRANSPORT, FAMILY_4, ALSO_6], 400, id="both-family-attributes"),
        pytest.param(
            [UDP_TRANSPORT, (stun.ADDITIONAL_ADDRESS_FAMILY, b"\1\0\0\0")], 400, id="additional-must-be-ipv6"
        ),
        pytest.param([UDP_TRANSPORT, PAIR, ALSO_6], 400, id="pair-and-additional"),
        pytest.param([UDP_TRANSPORT, (stun.EVEN_PORT, b"")], 400, id="empty-even-port"),
        pytest.param([UDP_TRANSPORT, TOKEN], 508, id="token"),
        pytest.param([UDP_TRANSPORT, TOKEN, EVEN], 400, id="token-and-even-port"),
        pytest.param([UDP_TRANSPORT, TOKEN, FAMILY_4], 400, id="token-and-family"),
        pytest.param(
            [UDP_TRANSPORT, TOKEN, (stun.REQUESTED_ADDRESS_FAMILY, b"\3\0\0\0")], 400, id="token-and-family-3"
        ),
        pytest.param([UDP_TRANSPORT, (stun.RESERVATION_TOKEN, b"")], 400, id="empty-token"),
        pytest.param([UDP_TRANSPORT, (0x7001, b"")], 420, id="unknown"),
    ],
)
def test_allocates_that_are_refused(
    world: World, client: Client, attributes: list[Attribute], code: int
) -> None:
    reply = client.ask(stun.ALLOCATE, attributes)
    assert reply.code == code
    assert reply.message.signed_by(client.key)
    assert not world.pool.opened and not world.server.allocations
    assert world.server.counters[f"error_{code}"] == 1
    assert client.allocate().code is None  # nothing of it stays


@pytest.mark.parametrize(
    "attributes",
    [
        [FAMILY_4],
        [EVEN],
        [(stun.DONT_FRAGMENT, b"")],
        [(0x8888, b"optional")],
        [UDP_TRANSPORT, lifetime(777)],
    ],
)
def test_allocates_that_are_granted(client: Client, attributes: list[Attribute]) -> None:
    assert client.allocate(*attributes).code is None


def test_of_two_families_the_one_we_have_is_given_and_the_other_is_named(client: Client) -> None:
    reply = client.allocate(ALSO_6)
    assert reply.code is None
    assert reply.message.first(stun.ADDRESS_ERROR_CODE) == b"\2\0\4\x28"


def test_an_ipv6_relay_serves_who_asks_for_ipv6() -> None:
    world = World(config(relay_families=(stun.IPV6,)))
    client = Client(world)
    assert client.allocate().code == 440  # no family asked for means IPv4
    assert client.allocate(FAMILY_6).relayed == ("2a01:4f8::1", 50000)
    assert client.refresh(600, FAMILY_4).code == 443
    assert client.permit(PEER[0]).code == 443
    assert client.permit("127.0.0.1").code == client.bind(0x4001, ("127.0.0.1", 1)).code == 443
    assert client.permit(PEER6[0]).code is None
    assert client.bind(0x4000, PEER6).code is None
    assert client.channel(0x4000, b"hi") == [(PEER6, b"hi")]
    data = world.from_peer(b"yo", (PEER6[0], 9))
    assert data is not None
    assert stun.unpack_address(
        stun.parse(data).first(stun.XOR_PEER_ADDRESS) or b"", stun.parse(data).transaction
    ) == (PEER6[0], 9)


def test_an_even_port() -> None:
    world = World(pool=FakePool(ports=[50001, 50003, 50004, 50005]))
    assert Client(world).allocate(EVEN).relayed[1] == 50004
    assert world.pool.opened == [("5.9.0.1", 50004)]
    assert sorted(world.pool.free) == [50001, 50003, 50005]


def _reserved(world: World) -> tuple[Client, Attribute]:
    """A client that has reserved the next port, and the token for it."""
    client = Client(world)
    reply = client.allocate(PAIR)
    assert reply.relayed == ("5.9.0.1", 50000)
    token = reply.message.first(stun.RESERVATION_TOKEN)
    assert token is not None and len(token) == 8
    return client, (stun.RESERVATION_TOKEN, token)


def test_a_reserved_port_goes_to_whoever_shows_its_token(world: World) -> None:
    first, token = _reserved(world)
    assert world.pool.opened == [("5.9.0.1", 50000), ("5.9.0.1", 50001)]
    second = Client(world, addr=OTHER_CLIENT)
    assert second.allocate(token).relayed == ("5.9.0.1", 50001)
    assert Client(world, addr=("198.51.100.9", 1)).allocate(token).code == 508  # it holds once
    first.refresh(0)
    assert world.pool.opened == [("5.9.0.1", 50001)]
    second.refresh(0)
    assert world.pool.opened == []


def test_a_reserved_port_is_its_users(world: World) -> None:
    _, token = _reserved(world)
    stranger = Client(world, "bob", "builder", addr=OTHER_CLIENT)
    assert stranger.allocate(token).code == 508
    assert Client(world, addr=("198.51.100.9", 1)).allocate(token).code is None


def test_a_reserved_port_is_held_for_half_a_minute_whatever_becomes_of_the_allocation(world: World) -> None:
    first, token = _reserved(world)
    first.refresh(0)
    world.passes(29)
    second = Client(world, addr=OTHER_CLIENT)
    assert second.allocate(token).relayed == ("5.9.0.1", 50001)
    world.passes(2)
    assert world.pool.opened == [("5.9.0.1", 50001)]
    second.refresh(0)
    assert world.pool.opened == []


def test_a_reserved_port_goes_when_nobody_comes_for_it(world: World) -> None:
    first, token = _reserved(world)
    world.passes(40)
    assert len(world.pool.opened) == 2  # its allocation lives
    first.refresh(0)
    world.passes(1)
    assert world.pool.opened == []
    assert Client(world, addr=OTHER_CLIENT).allocate(token).code == 508


def test_ports_that_are_only_held_count_for_the_quota() -> None:
    world = World(config(user_quota=2))
    for n in (1, 2):
        client = Client(world, addr=(CLIENT[0], n))
        assert client.allocate(PAIR).code is None
        client.refresh(0)
    assert Client(world, addr=(CLIENT[0], 3)).allocate().code == 486
    world.passes(31)
    assert Client(world, addr=(CLIENT[0], 3)).allocate().code is None
    assert len(world.pool.opened) == 1


def test_a_reservation_of_an_ipv6_relay() -> None:
    world = World(config(relay_families=(stun.IPV6,)))
    reply = Client(world).allocate(FAMILY_6, PAIR)
    token = stun.RESERVATION_TOKEN, reply.message.first(stun.RESERVATION_TOKEN) or b""
    assert Client(world, addr=OTHER_CLIENT).allocate(token).relayed == ("2a01:4f8::1", 50001)


def test_a_pair_needs_two_ports_in_a_row() -> None:
    world = World(pool=FakePool(ports=[50000, 50002, 50003]))
    assert Client(world).allocate(PAIR).relayed[1] == 50002
    assert Client(world, addr=OTHER_CLIENT).allocate(PAIR).code == 508


BOTH = (stun.IPV4, stun.IPV6)


def test_one_allocation_of_two_families() -> None:
    world = World(config(relay_families=BOTH))
    client = Client(world)
    reply = client.allocate(ALSO_6)
    relays = [
        stun.unpack_address(value, reply.message.transaction)
        for value in reply.message.every(stun.XOR_RELAYED_ADDRESS)
    ]
    assert relays == [("5.9.0.1", 50000), ("2a01:4f8::1", 50001)]
    assert reply.message.first(stun.ADDRESS_ERROR_CODE) is None
    assert client.bind(0x4000, PEER).code is client.bind(0x4001, PEER6).code is None
    assert client.channel(0x4001, b"six") == [(PEER6, b"six")]
    assert client.allocation.towards(PEER6[0]) == relays[1]
    assert client.allocation.towards(PEER[0]) == relays[0]
    assert world.from_peer(b"x", PEER) == b"\x40\x00\x00\x01x"
    assert world.from_peer(b"x", PEER6) == b"\x40\x01\x00\x01x"


@pytest.mark.parametrize(("gone", "stays"), [(FAMILY_4, PEER6), (FAMILY_6, PEER)])
def test_of_two_families_one_may_be_given_back(gone: Attribute, stays: Addr) -> None:
    world = World(config(relay_families=BOTH))
    client = Client(world)
    client.allocate(ALSO_6)
    client.bind(0x4000, PEER)
    client.bind(0x4001, PEER6)
    assert client.refresh(0, gone).lifetime_s == 0
    assert len(world.pool.opened) == len(world.server.by_relay) == 1
    assert [client.channel(number, b"x") for number in (0x4000, 0x4001)].count([(stays, b"x")]) == 1
    assert client.refresh(600, gone).code == 443
    assert client.permit(stays[0]).code is None
    client.refresh(0)
    assert not world.pool.opened and not world.server.by_relay


def test_of_two_families_one_without_a_free_port_is_named() -> None:
    world = World(config(relay_families=BOTH), pool=FakePool(ports=[50000]))
    reply = Client(world).allocate(ALSO_6)
    assert reply.relayed == ("5.9.0.1", 50000)
    assert reply.message.first(stun.ADDRESS_ERROR_CODE) == b"\2\0\5\x08"


@pytest.mark.parametrize("ports", [[50001], range(50001, 50099, 2)])
def test_no_even_port_is_508_and_all_ports_go_back(ports: list[int]) -> None:
    world = World(pool=FakePool(ports=ports))
    assert Client(world).allocate(EVEN).code == 508
    assert not world.pool.opened


@pytest.mark.parametrize(
    ("asked", "granted"), [(None, 600), (0, 600), (1, 600), (777, 777), (3600, 3600), (99999, 3600)]
)
def test_lifetimes_are_kept_within_limits(
    world: World, client: Client, asked: int | None, granted: int
) -> None:
    wish = [] if asked is None else [lifetime(asked)]
    assert client.allocate(*wish).lifetime_s == granted
    world.now += granted - 0.001
    assert client.refresh(asked or 1).lifetime_s == granted
    world.now += granted
    assert client.refresh(600).code == (438 if granted == 3600 else 437)


def test_an_expired_allocation_is_freed_without_anybody_asking(world: World, allocated: Client) -> None:
    steps = [(599.9, 1), (0.1, 0)]
    for seconds, left in steps:
        world.passes(seconds)
        assert len(world.server.allocations) == len(world.server.by_relay) == len(world.pool.opened) == left


def test_an_expired_allocation_is_out_of_the_way_of_the_next(world: World, allocated: Client) -> None:
    world.now += 600
    reply = allocated.allocate()
    assert reply.code is None
    assert world.pool.opened == [reply.relayed]


def test_quota_counts_a_user_across_his_credentials() -> None:
    world = World(config(secrets=["s3cret"], user_quota=2))
    codes = []
    for n, name in enumerate(["alice", "alice", "alice", "bob"]):
        username = f"{int(UNIX) + 5000 + n}:{name}"
        codes.append(
            Client(world, username, time_limited_password("s3cret", username), (CLIENT[0], n + 1))
            .allocate()
            .code
        )
    assert codes == [None, None, 486, None]
    world.passes(600)
    username = f"{int(UNIX) + 9000}:alice"
    again = Client(world, username, time_limited_password("s3cret", username))
    assert again.allocate().code is None


def test_a_full_server_is_508_and_recovers() -> None:
    world = World(config(total_quota=2))
    clients = [Client(world, addr=(CLIENT[0], n)) for n in (1, 2, 3)]
    assert [c.allocate().code for c in clients] == [None, None, 508]
    assert clients[0].refresh(0).code is None
    assert clients[2].allocate().code is None


def test_an_empty_pool_is_508_and_recovers() -> None:
    world = World(pool=FakePool(ports=[50000, 50001]))
    clients = [Client(world, addr=(CLIENT[0], n)) for n in (1, 2, 3)]
    assert [c.allocate().code for c in clients] == [None, None, 508]
    world.passes(600)
    assert [c.allocate().code for c in clients] == [None, None, 508]
    for client in clients[:2]:
        client.refresh(0)
    assert sorted(world.pool.free) == [50000, 50001]


def test_a_draining_server_keeps_its_calls_and_takes_no_new_one(world: World, allocated: Client) -> None:
    world.server.drain = True
    newcomer = Client(world, addr=OTHER_CLIENT)
    assert newcomer.allocate().code == 486
    assert allocated.refresh(600).code is None
    assert allocated.bind().code is None


@pytest.mark.parametrize(("name", "direct"), [("probe+direct", True), ("probe", False), ("+directly", False)])
def test_a_user_may_ask_for_the_direct_road(name: str, direct: bool) -> None:
    world = World(config(secrets=["s3cret"]))
    username = f"{int(UNIX) + 5000}:{name}"
    client = Client(world, username, time_limited_password("s3cret", username))
    assert client.allocate().code is None
    assert client.allocation.road.direct is direct


# Refresh, and requests that need an allocation


def test_refresh_of_zero_deletes(world: World, allocated: Client) -> None:
    reply = allocated.refresh(0)
    assert (reply.code, reply.lifetime_s) == (None, 0)
    assert not world.server.allocations and not world.server.by_relay and not world.pool.opened
    assert allocated.refresh(0).code == 437
    assert allocated.channel(0x4000, b"late") == []


def test_refresh_with_a_malformed_lifetime_changes_nothing(allocated: Client) -> None:
    before = allocated.allocation.expires
    assert allocated.ask(stun.REFRESH, [(stun.LIFETIME, b"\0")]).code == 400
    assert allocated.allocation.expires == before


def test_refresh_for_another_family_is_443(allocated: Client) -> None:
    assert allocated.refresh(600, FAMILY_6).code == 443
    assert allocated.refresh(600, FAMILY_4).code is None


def test_without_an_allocation_it_is_437(client: Client) -> None:
    assert client.refresh(600).code == 437
    assert client.permit(PEER[0]).code == 437
    assert client.bind().code == 437
    assert client.world.handle(b"\x40\0\0\0") == []
    transaction = bytes(12)
    send = [(stun.XOR_PEER_ADDRESS, stun.pack_address(PEER, transaction)), (stun.DATA, b"x")]
    assert client.world.handle(stun.build(stun.SEND, stun.INDICATION, transaction, send)) == []
    assert client.world.server.drops["no_allocation"] == 2


def test_another_user_can_not_touch_an_allocation(world: World, allocated: Client) -> None:
    bob = Client(world, "bob", "builder", seed=8)
    assert bob.refresh(0).code == 441
    assert bob.permit(PEER[0]).code == 441
    assert bob.bind().code == 441
    assert allocated.allocation.permissions == {} and allocated.allocation.channels == {}
    assert allocated.refresh(600).code is None


def test_a_call_outlives_its_credential_but_not_its_secret() -> None:
    world = World(config(secrets=["s3cret"]))
    username = f"{int(world.unix) + 60}:alice"
    client = Client(world, username, time_limited_password("s3cret", username))
    client.allocate()
    world.passes(120)
    assert client.refresh(600).code is None
    world.server.auth.set_credentials({}, ["next"])
    assert client.refresh(600).code == 401
