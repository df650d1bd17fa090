"""No oracle: whoever is refused learns nothing of why. And nobody touches what another made."""

from __future__ import annotations

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.auth import MD5, SHA256, time_limited_password
from commcli.relay.turn.auth import Client as ClientKey
from tests.relay.turn_world import (
    CLIENT,
    PEER,
    REALM,
    UDP_TRANSPORT,
    UNIX,
    Client,
    Reply,
    World,
    config,
    lifetime,
)

SECRET = "s3cret"
ID = b"transaction!"
CLIENTS: list[ClientKey] = [CLIENT, (*CLIENT, "tcp"), (*CLIENT, "tls")]
EXPIRED, FAR, SOON = int(UNIX) - 1000, int(UNIX) + 10**9, int(UNIX) + 5000


def _password(name: str) -> str:
    return time_limited_password(SECRET, name)


# Of one length, because the request's length is no secret, and over UDP the offer of SHA-256 depends on it.
WRONG = {
    "unknown user": ("nobody-of-that-name", "wonder"),
    "bad password": ("alice-with-password", "guess"),
    "revoked": ("mallory-is-revoked!", "evil"),
    "expired": (f"{EXPIRED}:carol123", None),
    "too far away": (f"{FAR}:carol123", None),
    "wrong secret": (f"{SOON}:carol123", "guess"),
    "revoked id": (f"{SOON}:eve12345", None),
    "name of nobody": ("\0" * 19, ""),
}


def _world() -> World:
    users = {"alice-with-password": "wonder", "mallory-is-revoked!": "evil"}
    revoked = frozenset({"mallory-is-revoked!", "eve12345"})
    return World(config(users=users, secrets=[SECRET], revoked=revoked, refusals_per_second=255))


def _refusal(world: World, who: str, client: ClientKey, sha256: bool, method: int) -> bytes:
    """The reply to this login, with transaction and nonce blanked out."""
    name, password = WRONG[who]
    key = stun.long_term_key(name, REALM, _password(name) if password is None else password, sha256)
    nonce = world.server.auth.nonces.issue(client, world.now)
    attributes = [
        UDP_TRANSPORT, (stun.USERNAME, name.encode()), (stun.REALM, REALM.encode()), (stun.NONCE, nonce),
        (stun.PASSWORD_ALGORITHM, SHA256 if sha256 else MD5),
    ]  # fmt: skip
    raw = stun.build(method, stun.REQUEST, ID, attributes, key=key, sha256=sha256)
    [action] = world.server.handle(raw, client, world.now, UNIX)
    assert action[0] == "client"
    reply = stun.parse(action[2])
    fresh = reply.first(stun.NONCE)
    assert fresh and Reply(action[2]).code == 401
    return action[2].replace(ID, b"").replace(fresh, b"")


@pytest.mark.parametrize("client", CLIENTS, ids=["udp", "tcp", "tls"])
@pytest.mark.parametrize("sha256", [False, True], ids=["md5", "sha256"])
def test_all_refused_get_the_same_bytes(client: ClientKey, sha256: bool) -> None:
    assert len({len(name.encode()) for name, _ in WRONG.values()}) == 1
    for method in (stun.ALLOCATE, stun.REFRESH, stun.CREATE_PERMISSION, stun.CHANNEL_BIND):
        world = _world()
        replies = {who: _refusal(world, who, client, sha256, method) for who in WRONG}
        assert len(set(replies.values())) == 1, replies
        assert world.server.counters["auth_failed"] == len(WRONG)
        assert not world.server.drops


def test_the_ones_beside_them_are_let_in() -> None:
    """So it is the credentials that are refused, not the form."""
    world = _world()
    assert Client(world, "alice-with-password", "wonder").allocate().code is None
    name = f"{SOON}:carol123"
    assert Client(world, name, _password(name), addr=(CLIENT[0], 2)).allocate().code is None


# Hijack: what another made


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def victim(world: World) -> Client:
    alice = Client(world)
    assert alice.allocate((stun.EVEN_PORT, b"\x80")).code is None
    assert alice.bind().code is None
    return alice


@pytest.mark.parametrize("seconds", [0, 600, 3600])
def test_another_user_on_the_same_5_tuple_is_441(world: World, victim: Client, seconds: int) -> None:
    before = victim.allocation.expires
    bob = Client(world, "bob", "builder", seed=8)
    assert bob.refresh(seconds).code == 441
    assert bob.permit(PEER[0]).code == 441
    assert bob.bind(0x4000, PEER).code == 441
    assert bob.allocate().code == 437
    assert victim.allocation.expires == before and set(victim.allocation.channels) == {0x4000}


def test_another_user_who_repeats_the_transaction_gets_no_copy_of_the_reply(
    world: World, victim: Client
) -> None:
    bob = Client(world, "bob", "builder", seed=8)
    reply = bob.allocate(transaction=victim.allocation.made_by)
    assert reply.code == 437 and reply.message.first(stun.XOR_RELAYED_ADDRESS) is None


@pytest.mark.parametrize(
    "other",
    [(CLIENT[0], CLIENT[1] + 1), ("198.51.100.8", CLIENT[1]), (*CLIENT, "tcp"), (*CLIENT, "tls")],
    ids=["port", "address", "tcp", "tls"],
)
def test_the_same_user_elsewhere_holds_nothing(world: World, victim: Client, other: ClientKey) -> None:
    """An allocation is its 5-tuple's: also the transport counts."""
    elsewhere = Client(world, addr=other)
    assert elsewhere.refresh(0).code == 437
    assert elsewhere.permit(PEER[0]).code == 437
    assert world.server.handle(b"\x40\0\0\1x\0\0\0", other, world.now, UNIX) == []
    assert victim.channel(0x4000, b"mine") == [(PEER, b"mine")]


def test_a_reserved_port_is_not_for_who_guesses_or_steals_its_token(world: World, victim: Client) -> None:
    token, address = victim.allocation.reserved, (victim.allocation.relay[0], victim.allocation.relay[1] + 1)
    assert token is not None
    bob = Client(world, "bob", "builder", addr=(CLIENT[0], 2), seed=8)
    assert bob.allocate((stun.RESERVATION_TOKEN, token)).code == 508
    guess = bytes([token[0] ^ 1]) + token[1:]
    assert Client(world, addr=(CLIENT[0], 3), seed=9).allocate((stun.RESERVATION_TOKEN, guess)).code == 508
    taken = Client(world, addr=(CLIENT[0], 4), seed=10).allocate((stun.RESERVATION_TOKEN, token))
    assert taken.relayed == address
    assert Client(world, addr=(CLIENT[0], 5), seed=11).allocate((stun.RESERVATION_TOKEN, token)).code == 508


def test_a_stolen_request_is_worth_nothing_from_elsewhere(world: World, victim: Client) -> None:
    """Recorded on the way and sent again from another address: its nonce is not for there."""
    recorded = victim.request(stun.REFRESH, [lifetime(0)], ID)
    raw = world.reply(recorded, ("198.51.100.66", CLIENT[1]))
    assert raw is not None and Reply(raw).code == 438
    assert victim.addr in world.server.allocations


def test_a_revoked_user_loses_the_call_and_gets_no_other(world: World, victim: Client) -> None:
    port = victim.allocation.relay
    world.server.reconfigure(config(revoked=frozenset({"alice"})))
    assert world.pool.opened == [] and world.server.by_relay.get(port) is None
    assert victim.refresh(600).code == 401
    assert victim.allocate().code == 401
