"""A whole exchange with a client that chose SHA-256 and may hide its name (RFC 8489 section 9.2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.auth import SHA256
from commcli.relay.turn.stun import Attribute, Message
from tests.relay.turn_world import CLIENT, REALM, UDP_TRANSPORT, World, config

STREAM = (*CLIENT, "tcp")
KEY = stun.long_term_key("alice", REALM, "wonder", sha256=True)
NAMED = (stun.USERNAME, b"alice")
HASHED = (stun.USERHASH, stun.userhash("alice", REALM))


def _exchange(world: World, client: tuple[Any, ...], raw: bytes) -> Message:
    [action] = world.server.handle(raw, client, world.now, world.unix)
    assert action[0] == "client" and action[1] == client
    return stun.parse(action[2])


def _code(reply: Message) -> int | None:
    error = reply.first(stun.ERROR_CODE)
    return None if error is None else stun.unpack_error(error)[0]


def _challenge(world: World, client: tuple[Any, ...]) -> list[Attribute]:
    """What the client echoes of its first refusal, and its choice from the offer."""
    reply = _exchange(world, client, stun.build(stun.ALLOCATE, stun.REQUEST, bytes(12), [UDP_TRANSPORT]))
    assert _code(reply) == 401 and reply.integrity is None and reply.integrity_sha256 is None
    echoed = [
        (number, value)
        for number, value in reply.attributes
        if number in (stun.REALM, stun.NONCE, stun.PASSWORD_ALGORITHMS)
    ]
    return [*echoed, (stun.PASSWORD_ALGORITHM, SHA256)]


def _ask(
    world: World, client: tuple[Any, ...], method: int, user: Attribute, echoed: list[Attribute]
) -> Message:
    attributes = [UDP_TRANSPORT, user, *echoed] if method == stun.ALLOCATE else [user, *echoed]
    raw = stun.build(method, stun.REQUEST, bytes([method] * 12), attributes, key=KEY, sha256=True)
    return _exchange(world, client, raw)


@pytest.mark.parametrize(("mode", "client"), [("auto", STREAM), ("always", STREAM), ("always", CLIENT)])
@pytest.mark.parametrize("user", [NAMED, HASHED], ids=["name", "hash"])
def test_who_is_offered_sha256_can_live_by_it(mode: str, client: tuple[Any, ...], user: Attribute) -> None:
    world = World(config(password_algorithms=mode))
    echoed = _challenge(world, client)
    for method in (stun.ALLOCATE, stun.REFRESH):
        reply = _ask(world, client, method, user, echoed)
        assert _code(reply) is None
        assert reply.signed_by(KEY, sha256=True) and reply.integrity is None
    assert world.server.allocations[client].user == "alice"


def test_an_error_to_a_known_client_is_signed_as_its_request_was() -> None:
    world = World()
    reply = _ask(world, STREAM, stun.REFRESH, NAMED, _challenge(world, STREAM))
    assert _code(reply) == 437 and reply.signed_by(KEY, sha256=True)


def test_a_short_request_by_udp_is_not_offered_more_than_it_is_long() -> None:
    world = World()
    assert stun.PASSWORD_ALGORITHMS not in dict(_challenge(world, CLIENT))


def test_a_stripped_offer_is_a_bad_request() -> None:
    world = World()
    stripped = [a for a in _challenge(world, STREAM) if a[0] != stun.PASSWORD_ALGORITHMS]
    reply = _ask(world, STREAM, stun.ALLOCATE, NAMED, stripped)
    assert _code(reply) == 400 and reply.first(stun.NONCE) is None


def test_a_nonce_of_a_stream_is_stale_by_udp() -> None:
    world = World()
    assert _code(_ask(world, CLIENT, stun.ALLOCATE, NAMED, _challenge(world, STREAM))) == 438


def test_a_revoked_user_loses_its_call_and_its_login_and_others_do_not() -> None:
    world = World()
    echoed = _challenge(world, STREAM)
    assert _code(_ask(world, STREAM, stun.ALLOCATE, NAMED, echoed)) is None
    world.server.reconfigure(dataclasses.replace(world.config, revoked=frozenset(["bob"])))
    assert _code(_ask(world, STREAM, stun.REFRESH, NAMED, echoed)) is None
    world.server.reconfigure(dataclasses.replace(world.config, revoked=frozenset(["alice"])))
    assert not world.server.allocations
    assert _code(_ask(world, STREAM, stun.REFRESH, NAMED, echoed)) == 401


def test_a_user_revoked_loses_its_direct_call_too() -> None:
    world = World(config(users={"alice+direct": "wonder"}))
    key = stun.long_term_key("alice+direct", REALM, "wonder", sha256=True)
    attributes = [UDP_TRANSPORT, (stun.USERNAME, b"alice+direct"), *_challenge(world, STREAM)]
    raw = stun.build(stun.ALLOCATE, stun.REQUEST, bytes(12), attributes, key=key, sha256=True)
    assert _code(_exchange(world, STREAM, raw)) is None
    world.server.reconfigure(dataclasses.replace(world.config, revoked=frozenset(["alice"])))
    assert not world.server.allocations
