"""Password algorithms, user hashes and the guard against a bid-down (RFC 8489 sections 9.2 and 14.4)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.turn import stun
from commcli.relay.turn.auth import (
    MD5,
    PASSWORD_ALGORITHMS_BIT,
    SHA256,
    USERNAME_ANONYMITY_BIT,
    Authenticator,
    Denied,
    Login,
    Nonces,
    PasswordAlgorithms,
    time_limited_password,
)
from commcli.relay.turn.stun import Attribute
from tests.relay.turn_world import CLIENT, REALM, seeded

NOW, UNIX = 5000.0, 1_800_000_000.0
STREAM = (*CLIENT, "tcp")
OFFER = b"\0\2\0\0\0\1\0\0"
LONG = 1000  # bytes of a request: longer than any challenge
USER = f"{int(UNIX) + 60}:carol"
WRONG = Denied(401, forged=True)


def _authenticator(
    secrets: Iterable[str] = ("s3cret",),
    users: Mapping[str, str] | None = None,
    mode: PasswordAlgorithms = "auto",
    realm: str = REALM,
    revoked: Iterable[str] = (),
) -> Authenticator:
    known = {"alice": "wonder"} if users is None else users
    return Authenticator(realm, seeded(), known, secrets, 3600.0, mode, frozenset(revoked))


def _challenge(auth: Authenticator, client: tuple[Any, ...] = CLIENT, size: int = LONG) -> dict[int, bytes]:
    return dict(auth.challenge(client, NOW, size))


class Asks:
    """A client of RFC 8489: what it signs with, and attributes that differ from what it ought to send."""

    def __init__(self, auth: Authenticator, username: str = "alice", password: str = "wonder") -> None:
        self.auth, self.username, self.password = auth, username, password
        self.offer = _challenge(auth)

    def message(
        self, signed_sha256: bool = True, key_sha256: bool = True, /, **changes: bytes | None
    ) -> stun.Message:
        values: dict[str, bytes | None] = {
            "username": self.username.encode(),
            "userhash": None,
            "realm": REALM.encode(),
            "nonce": self.offer[stun.NONCE],
            "algorithms": OFFER,
            "algorithm": SHA256 if key_sha256 else MD5,
            **changes,
        }
        numbers = {
            "username": stun.USERNAME,
            "userhash": stun.USERHASH,
            "realm": stun.REALM,
            "nonce": stun.NONCE,
            "algorithms": stun.PASSWORD_ALGORITHMS,
            "algorithm": stun.PASSWORD_ALGORITHM,
        }
        attributes: list[Attribute] = [
            (numbers[name], value) for name, value in values.items() if value is not None
        ]
        key = stun.long_term_key(self.username, REALM, self.password, key_sha256)
        return stun.parse(
            stun.build(stun.ALLOCATE, stun.REQUEST, bytes(12), attributes, key=key, sha256=signed_sha256)
        )

    def __call__(
        self, signed_sha256: bool = True, key_sha256: bool = True, /, **changes: bytes | None
    ) -> Login | Denied:
        return self.auth.check(self.message(signed_sha256, key_sha256, **changes), CLIENT, NOW, UNIX)


def _error(attributes: list[Attribute], fingerprint: bool = False) -> bytes:
    code = (stun.ERROR_CODE, stun.pack_error(401))
    return stun.build(stun.ALLOCATE, stun.ERROR, bytes(12), [code, *attributes], fingerprint=fingerprint)


# What is offered, and to whom


@pytest.mark.parametrize(
    ("mode", "client", "size", "offered"),
    [
        ("auto", CLIENT, 28, False),
        ("auto", CLIENT, LONG, True),
        ("auto", STREAM, 28, True),
        ("auto", (*CLIENT, "tls"), 28, True),
        ("always", CLIENT, 20, True),
        ("md5", CLIENT, LONG, False),
        ("md5", STREAM, LONG, False),
    ],
)
def test_the_offer_and_its_cookie_come_together(
    mode: PasswordAlgorithms, client: tuple[Any, ...], size: int, offered: bool
) -> None:
    challenge = _challenge(_authenticator(mode=mode), client, size)
    assert challenge[stun.REALM] == REALM.encode()
    assert challenge.get(stun.PASSWORD_ALGORITHMS) == (OFFER if offered else None)
    assert challenge[stun.NONCE].startswith(b"obMatJos2") is offered


@given(st.integers(0, 300), st.text(max_size=20), st.booleans())
def test_no_challenge_over_udp_amplifies(size: int, realm: str, fingerprint: bool) -> None:
    """But for the bare minimum: a client has to learn realm and nonce from something."""
    auth = _authenticator(realm=realm)
    reply = _error(auth.challenge(CLIENT, NOW, size), fingerprint)
    bare = _error([(stun.REALM, auth.realm.encode()), (stun.NONCE, bytes(12))], fingerprint)
    assert len(reply) <= max(size, len(bare))


def test_a_refusal_without_the_offer_has_at_most_64_bytes() -> None:
    assert len(_error(_authenticator(realm="r" * 16).challenge(CLIENT, NOW, 28))) == 64


@pytest.mark.parametrize(
    ("secrets", "bits"),
    [
        ([], PASSWORD_ALGORITHMS_BIT | USERNAME_ANONYMITY_BIT),
        (
            ["s3cret"],
            PASSWORD_ALGORITHMS_BIT,
        ),  # a client told of anonymity must send a hash, which hides the expiry
    ],
)
def test_the_cookie_counts_its_bits_from_the_left(secrets: list[str], bits: int) -> None:
    nonce = _challenge(_authenticator(secrets))[stun.NONCE]
    assert int.from_bytes(base64.b64decode(nonce[9:13]), "big") == bits
    assert len(nonce) == 25 and nonce.isascii()


def test_the_mode_may_change_under_way() -> None:
    auth = _authenticator()
    ask = Asks(auth)
    auth.password_algorithms = "md5"
    assert isinstance(ask(), Login)
    assert stun.PASSWORD_ALGORITHMS not in _challenge(auth)


# Who gets in


@pytest.mark.parametrize(("username", "password"), [("alice", "wonder"), (USER, None)])
@pytest.mark.parametrize("key_sha256", [True, False])
def test_both_algorithms_log_in(username: str, password: str | None, key_sha256: bool) -> None:
    ask = Asks(_authenticator(), username, password or time_limited_password("s3cret", USER))
    key = stun.long_term_key(ask.username, REALM, ask.password, key_sha256)
    assert ask(True, key_sha256) == Login(username, key, sha256=True)


def test_the_reply_is_signed_with_sha256_unless_the_client_knows_of_none() -> None:
    ask = Asks(_authenticator())
    old = {"algorithms": None, "algorithm": None}
    cases = [ask(), ask(False), ask(True, False, **old), ask(False, False, **old)]
    assert [isinstance(answer, Login) and answer.sha256 for answer in cases] == [True, True, True, False]


def test_a_client_that_says_nothing_of_algorithms_means_md5() -> None:
    """An old client gives the nonce back, cookie and all, without a thought."""
    ask = Asks(_authenticator())
    assert isinstance(ask(False, False, algorithms=None, algorithm=None), Login)
    assert ask(False, True, algorithms=None, algorithm=None) == WRONG


def test_a_wrong_password_is_wrong_by_every_algorithm() -> None:
    ask = Asks(_authenticator(), password="guess")
    for signed_sha256 in (True, False):
        for key_sha256 in (True, False):
            assert ask(signed_sha256, key_sha256) == WRONG


def test_the_sha256_integrity_is_what_counts_where_both_are() -> None:
    ask = Asks(_authenticator())
    good = ask.message(False)
    forged = stun.build(0, 0, bytes(12), key=b"guess", sha256=True)[20:]
    both = bytearray(good.raw + forged)
    both[2:4] = (len(both) - 20).to_bytes(2, "big")
    assert ask.auth.check(good, CLIENT, NOW, UNIX) != WRONG
    assert ask.auth.check(stun.parse(bytes(both)), CLIENT, NOW, UNIX) == WRONG


# Bid-down


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"algorithms": None}, id="no-list"),
        pytest.param({"algorithm": None}, id="no-choice"),
        pytest.param({"algorithms": MD5}, id="stripped-list"),
        pytest.param({"algorithms": MD5 + SHA256}, id="turned-list"),
        pytest.param({"algorithms": OFFER + b"\0\3\0\0"}, id="longer-list"),
        pytest.param({"algorithms": b""}, id="empty-list"),
        pytest.param({"algorithm": b"\0\3\0\0"}, id="unknown-choice"),
        pytest.param({"algorithm": b"\0\2"}, id="cut-choice"),
        pytest.param({"algorithm": b"\0\2\0\4abcd"}, id="parameters"),
        pytest.param({"algorithm": b""}, id="empty-choice"),
    ],
)
def test_a_list_that_is_not_ours_is_a_bad_request(changes: dict[str, bytes | None]) -> None:
    assert Asks(_authenticator())(**changes) == Denied(400)


@pytest.mark.parametrize("features", [b"AAAA", b"gAAA", b"QAAA", b"////", b""])
def test_a_cookie_with_other_bits_makes_the_nonce_stale(features: bytes) -> None:
    """Clearing a bit on the way hides the offer from the client, but its nonce is then no longer ours."""
    ask = Asks(_authenticator(secrets=[]))
    nonce = ask.offer[stun.NONCE]
    changed = nonce[:9] + features + nonce[13:]
    assert ask(nonce=nonce) != Denied(438) == ask(nonce=changed)
    assert ask(False, False, algorithms=None, algorithm=None, nonce=nonce[13:]) == Denied(438)


def test_a_nonce_without_cookie_does_not_bear_one() -> None:
    ask = Asks(_authenticator())
    plain = _challenge(ask.auth, size=28)[stun.NONCE]
    assert ask(nonce=ask.offer[stun.NONCE][:13] + plain) == Denied(438)


def test_who_was_offered_nothing_may_keep_to_its_choice() -> None:
    """A 438 to a short request makes no offer; the client goes on with the algorithm that it had chosen."""
    ask = Asks(_authenticator())
    plain = _challenge(ask.auth, size=28)[stun.NONCE]
    assert isinstance(ask(nonce=plain, algorithms=None), Login)
    assert isinstance(ask(nonce=plain), Login)
    assert ask(nonce=plain, algorithms=MD5) == Denied(400)
    assert ask(nonce=plain, algorithm=None) == Denied(400)


# User hashes


def test_a_configured_user_may_come_as_a_hash() -> None:
    ask = Asks(_authenticator())
    assert ask(username=None, userhash=stun.userhash("alice", REALM)) == ask()


@pytest.mark.parametrize(
    "value", [b"", bytes(32), stun.userhash("mallory", REALM), stun.userhash("alice", "other")]
)
def test_an_unknown_hash_is_an_unknown_user(value: bytes) -> None:
    assert Asks(_authenticator())(username=None, userhash=value) == WRONG


def test_a_time_limited_user_can_not_be_told_by_its_hash() -> None:
    ask = Asks(_authenticator(), USER, time_limited_password("s3cret", USER))
    assert isinstance(ask(), Login)
    assert ask(username=None, userhash=stun.userhash(USER, REALM)) == WRONG


@pytest.mark.parametrize("missing", ["username", "realm", "nonce"])
def test_sha256_integrity_needs_its_companions_too(missing: str) -> None:
    assert Asks(_authenticator())(**{missing: None}) == Denied(400)


# Names and passwords as clients hash them


def test_a_configured_name_and_password_are_made_opaque_strings() -> None:
    """RFC 8265 section 4.2: composed letters, and one kind of space."""
    auth = _authenticator(users={"zoe\u0308": "a\u00a0b\u3000\u00c5"})
    ask = Asks(auth, "zo\u00eb", "a b \u00c5")
    assert isinstance(ask(), Login)
    assert isinstance(ask(username=None, userhash=stun.userhash("zo\u00eb", REALM)), Login)


# Revocation


@pytest.mark.parametrize(
    ("revoked", "username"),
    [
        ("alice", "alice"),
        ("carol", USER),
        ("carol", USER + "+direct"),
        ("carol+direct", USER + "+direct"),
        ("alice", "alice+direct"),
    ],
)
def test_a_revoked_user_is_refused_as_a_wrong_password_is(revoked: str, username: str) -> None:
    users = {"alice": "wonder", "alice+direct": "wonder"}
    password = time_limited_password("s3cret", username) if ":" in username else "wonder"
    auth = _authenticator(users=users)
    ask = Asks(auth, username, password)
    assert isinstance(ask(), Login)
    auth.set_credentials(users, ["s3cret"], frozenset([revoked]))
    assert auth.revokes(username)
    assert ask() == WRONG
    message = ask.message()
    assert auth.check(message, CLIENT, NOW, UNIX, held_by=username) == WRONG
    auth.set_credentials(users, ["s3cret"])
    assert isinstance(ask(), Login)


def test_a_user_may_be_revoked_from_the_start_and_others_stay() -> None:
    auth = _authenticator(revoked=["alice"])
    assert Asks(auth)() == WRONG
    assert isinstance(Asks(auth, USER, time_limited_password("s3cret", USER))(), Login)
    assert not any(auth.revokes(name) for name in ("alice2", "+direct", "alice1234567", "alic"))
    renewed = f"{int(UNIX) + 999}:alice"  # a later expiry is no other user
    assert Asks(auth, renewed, time_limited_password("s3cret", renewed))() == WRONG


# No oracle


class Counted(stun.Message):
    """A message that counts how often its integrity was computed."""

    __slots__ = ()
    comparisons = 0

    def signed_by(self, key: bytes, sha256: bool = False) -> bool:
        Counted.comparisons += 1
        return super().signed_by(key, sha256)


def _work(ask: Asks, held_by: str | None = None, **changes: bytes | None) -> tuple[Login | Denied, int]:
    message = ask.message(**changes)
    message.__class__ = Counted
    Counted.comparisons = 0
    return ask.auth.check(message, CLIENT, NOW, UNIX, held_by), Counted.comparisons


def test_every_refusal_of_a_plain_name_costs_the_same() -> None:
    auth = _authenticator(["one", "two"], {"alice": "wonder", "dave": "x"}, revoked=["dave"])
    none = {"username": None}
    refused = [
        _work(Asks(auth, "alice", "guess")),
        _work(Asks(auth, "mallory", "wonder")),
        _work(Asks(auth, "dave", "x")),
        _work(Asks(auth, "dave", "guess")),
        _work(Asks(auth, "", "guess")),
        _work(Asks(auth, "a" * 600, "guess")),
        _work(Asks(auth), userhash=stun.userhash("mallory", REALM), **none),
        _work(Asks(auth, "alice", "guess"), userhash=stun.userhash("alice", REALM), **none),
    ]
    assert refused == [(WRONG, 1)] * len(refused)
    answer, work = _work(Asks(auth))
    assert isinstance(answer, Login) and work == 1


def test_every_refusal_of_a_time_limited_name_costs_the_same() -> None:
    in_table = f"{int(UNIX) + 60}:box"
    auth = _authenticator(["one", "two"], {in_table: "x"}, revoked=["dave"])

    def limited(expiry: float, name: str, secret: str) -> Asks:
        username = f"{int(expiry)}:{name}"
        return Asks(auth, username, time_limited_password(secret, username))

    refused = [
        _work(limited(UNIX + 60, "carol", "guess")),
        _work(limited(UNIX - 60, "carol", "one")),
        _work(limited(UNIX + 1e9, "carol", "two")),
        _work(limited(UNIX + 60, "dave", "one")),
        _work(Asks(auth, in_table, "guess")),
    ]
    assert refused == [(WRONG, 3)] * len(refused)
    good = [
        _work(limited(UNIX + 60, "carol", "one")),
        _work(limited(UNIX + 60, "carol", "two")),
        _work(Asks(auth, in_table, "x")),
        _work(limited(UNIX - 60, "carol", "two"), held_by=f"{int(UNIX) - 60}:carol"),
    ]
    assert all(isinstance(answer, Login) and work == 3 for answer, work in good)


@pytest.mark.parametrize("name", ["alice", "mallory"])
def test_a_stale_nonce_tells_nothing_of_the_user(name: str) -> None:
    ask = Asks(_authenticator(), name)
    assert _work(ask, nonce=b"obMatJos2gAAA" + b"A" * 12) == (Denied(438), 0)


# Nonces


def test_a_nonce_is_of_one_transport() -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    transports = [CLIENT, STREAM, (*CLIENT, "tls")]
    for issued_to in transports:
        nonce = nonces.issue(issued_to, NOW)
        assert [nonces.valid(nonce, client, NOW) for client in transports] == [
            client is issued_to for client in transports
        ]


def test_nonces_do_not_tell_the_time() -> None:
    """Two servers that started together: only the key tells their nonces apart, and it does so in every part."""
    stamps = {base64.b64decode(Nonces(bytes([n]) * 32, 600.0).issue(CLIENT, 1.0))[:3] for n in range(50)}
    assert len(stamps) == 50


def test_nonces_of_other_times_and_clients_have_nothing_in_common() -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    macs = {base64.b64decode(nonces.issue((CLIENT[0], port), NOW + port))[3:] for port in range(1000)}
    assert len(macs) == 1000
    for position in range(6):
        assert len({mac[position] for mac in macs}) > 200


@given(st.binary(max_size=60))
def test_no_bytes_are_a_nonce_or_crash_it(nonce: bytes) -> None:
    assert Nonces(b"k" * 32, 600.0).features(nonce, CLIENT, NOW) is None


@given(st.lists(st.tuples(st.sampled_from([6, 20, 21, 29, 30, 0x8002]), st.binary(max_size=50)), max_size=8))
def test_any_attributes_under_a_signature_get_a_verdict(attributes: list[Attribute]) -> None:
    auth = _authenticator()
    nonce = (stun.NONCE, _challenge(auth)[stun.NONCE])
    for sha256 in (False, True):
        raw = stun.build(3, 0, bytes(12), [*attributes, nonce], key=b"guess", sha256=sha256)
        answer = auth.check(stun.parse(raw), CLIENT, NOW, UNIX)
        assert isinstance(answer, Denied) and answer.code in (400, 401, 438)
