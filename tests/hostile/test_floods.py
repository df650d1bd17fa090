"""Floods of strangers at the pure server: nothing is kept of them, nothing pays, and what is exhausted recovers."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.auth import Client as ClientKey
from tests.relay.turn_world import CLIENT, PEER, UDP_TRANSPORT, Client, FakePool, World, config, lifetime

FLOOD = 100_000
ID = b"transaction!"
LONGEST_REALM = "sixteen-letters!"


def _spoofed(world: World, count: int) -> Iterator[tuple[bytes, ClientKey]]:
    """Allocates from ever new sources: bare, with a forged integrity, with a nonce that another source was given,
    with one of its own and a wrong password, with a forged hash of a name."""
    stolen = world.server.auth.nonces.issue(CLIENT, world.now)
    kinds = [
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT]),
        _forged((stun.USERNAME, b"alice"), b"A" * 12),
        _forged((stun.USERNAME, b"alice"), stolen),
        None,
        _forged((stun.USERHASH, bytes(32)), b"A" * 12),
    ]
    for number, kind in zip(range(count), itertools.cycle(kinds), strict=False):
        source = f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1024 + number % 60000
        if kind is None:
            nonce = world.server.auth.nonces.issue(source, world.now)
            yield _forged((stun.USERNAME, b"user-%d" % number), nonce), source
        else:
            yield kind, source


def _forged(name: stun.Attribute, nonce: bytes) -> bytes:
    attributes = [UDP_TRANSPORT, name, (stun.REALM, b"lab"), (stun.NONCE, nonce)]
    return stun.build(stun.ALLOCATE, stun.REQUEST, ID, attributes, key=b"guess")


def _state(world: World) -> dict[str, int]:
    """How much the server holds, by what of it. Counters of reasons hold one entry a reason, whoever came."""
    server = world.server
    return {
        name: len(value)
        for name, value in vars(server).items()
        if hasattr(value, "__len__") and name != "config"
    } | {f"auth.{name}": len(value) for name, value in vars(server.auth).items() if hasattr(value, "__len__")}


def test_a_hundred_thousand_spoofed_allocates_leave_nothing_behind() -> None:
    world = World()
    for data, source in _spoofed(world, 1000):
        world.handle(data, source)
    before = _state(world)
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        for data, source in _spoofed(world, FLOOD):
            world.handle(data, source)
        grown = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert grown < 20_000  # 0.2 bytes a source
    assert _state(world) == before
    assert world.server.counters["allocations_made"] == 0


def test_the_flood_does_not_shut_out_whoever_has_a_password() -> None:
    """Forged sources may fill slots in the table of refusals, but seldom all of a client's."""
    world = World()
    for data, source in _spoofed(world, FLOOD // 5):
        world.handle(data, source)
    served = [Client(world, addr=(f"12.0.0.{n}", 4000)).allocate().code for n in range(50)]
    assert served == [None] * 50


# Reflection: what a forged source address gets, and how often


@pytest.mark.parametrize("method", [stun.ALLOCATE, stun.REFRESH, stun.CREATE_PERMISSION, stun.CHANNEL_BIND])
def test_a_challenge_has_at_most_64_bytes(method: int) -> None:
    world = World(config(realm=LONGEST_REALM))
    raw = world.reply(stun.build(method, stun.REQUEST, ID))
    assert raw is not None and len(raw) <= 64


def test_a_binding_reply_has_32_bytes() -> None:
    raw = World().reply(stun.build(stun.BINDING, stun.REQUEST, ID))
    assert raw is not None and len(raw) == 32


def _provocations(nonce: bytes) -> list[bytes]:
    """Whatever a stranger is refused for, as short as it can be asked for."""
    signed = [(stun.USERNAME, b"x"), (stun.REALM, b"x"), (stun.NONCE, nonce)]
    return [
        stun.build(stun.ALLOCATE, stun.REQUEST, ID),
        stun.build(stun.REFRESH, stun.REQUEST, ID, [lifetime(0)]),
        stun.build(stun.BINDING, stun.REQUEST, ID, [(0x7001, b"")]),
        stun.build(stun.BINDING, stun.REQUEST, ID, [(number, b"") for number in range(0x7001, 0x7064)]),
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, key=b"k"),
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, signed, key=b"k"),
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, [*signed[:2], (stun.NONCE, b"stale")], key=b"k"),
        stun.build(
            stun.ALLOCATE, stun.REQUEST, ID, [*signed, (stun.PASSWORD_ALGORITHM, b"\0\2\0\0")], key=b"k"
        ),
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, signed, key=b"k", sha256=True),
    ]


@pytest.mark.parametrize("fingerprint", [False, True])
def test_no_refusal_is_longer_than_its_request_or_64_bytes(fingerprint: bool) -> None:
    """A FINGERPRINT is answered with one where that fits."""
    world = World(config(realm=LONGEST_REALM, refusals_per_second=255))
    for request in _provocations(world.server.auth.nonces.issue(CLIENT, world.now)):
        data = _with_fingerprint(request) if fingerprint else request
        raw = world.reply(data)
        assert raw is not None
        assert len(raw) <= max(64, len(data))


def _with_fingerprint(request: bytes) -> bytes:
    message = stun.parse(request)
    key = None if message.integrity is None and message.integrity_sha256 is None else b"k"
    sha256 = message.integrity_sha256 is not None
    return stun.build(
        message.method, stun.REQUEST, ID, message.attributes, key=key, sha256=sha256, fingerprint=True
    )


def test_all_refusals_together_are_ten_a_source_and_second() -> None:
    """Whatever they are for, and from whichever port."""
    world = World()
    requests = _provocations(world.server.auth.nonces.issue(CLIENT, world.now))
    replies = [world.reply(request, (CLIENT[0], port)) for port in range(1000, 1010) for request in requests]
    assert sum(reply is not None for reply in replies) == 10
    assert all(reply is not None for reply in replies[:10])
    assert world.server.drops["refusal_silenced"] == len(replies) - 10
    world.now += 1
    assert world.reply(requests[0]) is not None


# What is exhausted recovers


def test_a_pool_that_was_emptied_in_every_way_is_whole_again() -> None:
    """By refreshing to zero, by time, by vanishing, of pairs and of their reserved halves."""
    world = World(pool=FakePool(ports=range(50000, 50040)))
    for round_ in range(3):
        clients = [Client(world, addr=(f"198.51.100.{n}", 1000), seed=n + 100 * round_) for n in range(60)]
        pair = (stun.EVEN_PORT, b"\x80")
        codes = [client.allocate(*([pair] if n % 2 else [])).code for n, client in enumerate(clients)]
        assert codes.count(None) >= 26 and set(codes) == {None, 508}
        assert len(world.pool.free) <= 1
        for n, client in enumerate(clients):
            if codes[n] is None and n % 3 == 0:
                assert client.refresh(0).code is None
            elif codes[n] is None and n % 3 == 1:
                world.server.closed(client.addr)
        world.passes(600)
        assert sorted(world.pool.free) == list(range(50000, 50040)) and not world.pool.opened
        assert not world.server.allocations and not world.server._users and not world.server._lapsing


def test_a_client_can_not_grow_its_own_tables_without_end() -> None:
    world = World()
    client = Client(world)
    client.allocate()
    for n in range(2000):
        client.permit(f"8.{n >> 8}.{n & 255}.1")
        client.bind(0x4000 + n, (PEER[0], 1000 + n))
    allocation = client.allocation
    assert len(allocation.permissions) <= 256 and len(allocation.channels) == len(allocation.numbers) <= 256
