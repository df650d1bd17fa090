"""Credentials, nonces and the lid on refusals, step by step in time."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.turn import stun
from commcli.relay.turn.auth import (
    MAX_CREDENTIAL_LIFETIME_S,
    Authenticator,
    Denied,
    Login,
    Nonces,
    Throttle,
    time_limited_password,
    user_of,
)
from tests.relay.turn_world import CLIENT, REALM, seeded

NOW, UNIX = 5000.0, 1_800_000_000.0
OTHER = ("198.51.100.8", 40001)


def _authenticator(*secrets: str, **users: str) -> Authenticator:
    return Authenticator(REALM, seeded(), users, secrets)


def _request(
    auth: Authenticator, username: str | bytes, password: str, nonce: bytes | None = None, without: str = ""
) -> stun.Message:
    raw = username if isinstance(username, bytes) else username.encode()
    attributes = {
        "username": (stun.USERNAME, raw),
        "realm": (stun.REALM, REALM.encode()),
        "nonce": (stun.NONCE, auth.nonces.issue(CLIENT, NOW) if nonce is None else nonce),
    }
    key = stun.long_term_key(raw.decode("utf-8", "replace"), REALM, password)
    present = [attribute for name, attribute in attributes.items() if name != without]
    return stun.parse(stun.build(stun.ALLOCATE, stun.REQUEST, bytes(12), present, key=key))


def _check(auth: Authenticator, username: str, password: str, **changes: float) -> Login | Denied:
    return auth.check(_request(auth, username, password), CLIENT, NOW, changes.get("unix", UNIX))


def test_a_configured_user_logs_in() -> None:
    login = _check(_authenticator(alice="wonder"), "alice", "wonder")
    assert login == Login("alice", stun.long_term_key("alice", REALM, "wonder"))


def test_a_first_request_is_challenged_and_no_failure() -> None:
    auth = _authenticator(alice="wonder")
    bare = stun.parse(stun.build(stun.ALLOCATE, stun.REQUEST, bytes(12)))
    assert auth.check(bare, CLIENT, NOW, UNIX) == Denied(401)


@pytest.mark.parametrize("missing", ["username", "realm", "nonce"])
def test_integrity_without_its_companions_is_a_bad_request(missing: str) -> None:
    auth = _authenticator(alice="wonder")
    message = _request(auth, "alice", "wonder", without=missing)
    assert auth.check(message, CLIENT, NOW, UNIX) == Denied(400)


@pytest.mark.parametrize(
    ("username", "password"),
    [
        pytest.param("alice", "wrong", id="bad-password"),
        pytest.param("mallory", "wonder", id="unknown-user"),
        pytest.param("", "wonder", id="no-name"),
        pytest.param(b"\xff\xfe", "wonder", id="not-utf-8"),
        pytest.param("a" * 509, "wonder", id="too-long"),
        pytest.param("1800000600:alice", "wonder", id="no-shared-secret"),
    ],
)
def test_there_is_no_telling_why_a_login_failed(username: str | bytes, password: str) -> None:
    auth = _authenticator(alice="wonder")
    assert auth.check(_request(auth, username, password), CLIENT, NOW, UNIX) == Denied(401, forged=True)


def test_a_user_without_a_name_can_not_be_configured() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        Authenticator(REALM, seeded(), {"": "x"}, [])


def test_the_time_limited_password_is_what_issuers_compute() -> None:
    username = "1800000600:alice"
    expected = base64.b64encode(hmac.new(b"s3cret", username.encode(), hashlib.sha1).digest()).decode()
    assert time_limited_password("s3cret", username) == expected


@pytest.mark.parametrize(
    ("expiry", "good"),
    [
        (UNIX - 1, False),
        (UNIX, False),
        (UNIX + 1, True),
        (UNIX + MAX_CREDENTIAL_LIFETIME_S, True),
        (UNIX + MAX_CREDENTIAL_LIFETIME_S + 1, False),
        (999999999999, False),
    ],
)
def test_time_limited_users_hold_from_now_until_their_expiry(expiry: float, good: bool) -> None:
    username = f"{int(expiry)}:alice"
    answer = _check(_authenticator("s3cret"), username, time_limited_password("s3cret", username))
    assert isinstance(answer, Login) is good
    assert good or answer == Denied(401, forged=True)


def test_several_secrets_hold_at_once_and_a_revoked_one_does_not() -> None:
    auth = _authenticator("old", "new")
    username = f"{int(UNIX) + 60}:alice"
    for secret in ("old", "new"):
        answer = _check(auth, username, time_limited_password(secret, username))
        assert isinstance(answer, Login)
        assert answer.key == stun.long_term_key(username, REALM, time_limited_password(secret, username))
    auth.set_credentials({}, ["new"])
    assert _check(auth, username, time_limited_password("old", username)) == Denied(401, forged=True)
    assert isinstance(_check(auth, username, time_limited_password("new", username)), Login)


def test_a_shared_secret_makes_no_user_without_an_expiry() -> None:
    for username in ("alice", "never:alice", ":alice"):
        answer = _check(_authenticator("s3cret"), username, time_limited_password("s3cret", username))
        assert answer == Denied(401, forged=True)


def test_the_longest_name_is_a_name() -> None:
    name = "a" * 508
    assert isinstance(_check(_authenticator(**{name: "pw"}), name, "pw"), Login)


def test_a_reload_of_credentials_keeps_nonces() -> None:
    auth = _authenticator(alice="wonder")
    message = _request(auth, "alice", "other")
    auth.set_credentials({"alice": "other"}, [])
    assert isinstance(auth.check(message, CLIENT, NOW, UNIX), Login)


def test_an_expiry_does_not_end_a_call_that_is_up() -> None:
    auth = _authenticator("s3cret")
    username = f"{int(UNIX) - 60}:alice"
    message = _request(auth, username, time_limited_password("s3cret", username))
    assert isinstance(auth.check(message, CLIENT, NOW, UNIX, held_by=username), Login)
    assert auth.check(message, CLIENT, NOW, UNIX, held_by=f"{int(UNIX) - 60}:bob") == Denied(401, forged=True)
    forged = _request(auth, username, "guess")
    assert auth.check(forged, CLIENT, NOW, UNIX, held_by=username) == Denied(401, forged=True)


def test_a_configured_user_with_a_name_like_an_expired_one_is_just_a_name() -> None:
    auth = Authenticator(REALM, seeded(), {"12:box": "pw"}, ["s3cret"])
    assert isinstance(_check(auth, "12:box", "pw"), Login)


@pytest.mark.parametrize(
    ("username", "user"),
    [
        ("alice", "alice"),
        ("1800000000:alice", "alice"),
        ("1800000000:alice:2", "alice:2"),
        ("1800000000:", ""),
        ("1800000000", "1800000000"),
        ("tenant:alice", "tenant:alice"),
        ("\u0661\u0662:alice", "\u0661\u0662:alice"),
        ("1" * 12 + ":alice", "alice"),
        ("alice+direct", "alice"),  # or its quota would be doubled
        ("1800000000:alice+direct", "alice"),
        ("1" * 13 + ":alice", "1" * 13 + ":alice"),
    ],
)
def test_quotas_count_the_name_after_the_colon(username: str, user: str) -> None:
    assert user_of(username) == user
    assert Login(username, b"").user == user


def test_a_stale_nonce_is_told_before_anything_else() -> None:
    auth = _authenticator(alice="wonder")
    for nonce in (b"", b"x", b"\xff\xfe", bytes(12), b"A" * 12, b"A" * 4000):
        assert auth.check(_request(auth, "alice", "wonder", nonce), CLIENT, NOW, UNIX) == Denied(438)


@pytest.mark.parametrize(
    ("age_s", "good"), [(0, True), (1, True), (600, True), (601, False), (1 << 23, False), (-5, False)]
)
def test_nonces_expire(age_s: float, good: bool) -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    assert nonces.valid(nonces.issue(CLIENT, NOW), CLIENT, NOW + age_s) is good


def test_the_clock_of_nonces_may_come_round() -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    end = float(1 << 24)
    assert nonces.valid(nonces.issue(CLIENT, end - 10), CLIENT, end + 10)
    assert not nonces.valid(nonces.issue(CLIENT, end - 10), CLIENT, end + 600)


@pytest.mark.parametrize("client", [OTHER, (CLIENT[0], CLIENT[1] + 1), ("198.51.100.74", 1)])
def test_nonces_are_bound_to_the_client_address(client: tuple[str, int]) -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    assert not nonces.valid(nonces.issue(CLIENT, NOW), client, NOW)


def test_nonces_are_short_printable_and_of_their_own_process() -> None:
    nonce = Nonces(b"k" * 32, 600.0).issue(CLIENT, NOW)
    assert len(nonce) == 12 and nonce.isascii()
    assert not Nonces(b"l" * 32, 600.0).valid(nonce, CLIENT, NOW)


@given(st.integers(0, 11), st.binary(min_size=1, max_size=1))
def test_a_changed_nonce_is_not_ours(position: int, byte: bytes) -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    nonce = nonces.issue(CLIENT, NOW)
    changed = nonce[:position] + byte + nonce[position + 1 :]
    assert nonces.valid(changed, CLIENT, NOW) is (changed == nonce)


def test_a_nonce_has_one_spelling() -> None:
    nonces = Nonces(b"k" * 32, 600.0)
    nonce = nonces.issue(CLIENT, NOW)
    for other in (nonce + b"\n", b" " + nonce, nonce[:6] + b"!" + nonce[6:], nonce + b"AAAA"):
        assert not nonces.valid(other, CLIENT, NOW)


def test_a_source_gets_so_many_refusals_a_second() -> None:
    throttle = Throttle(b"k" * 32, 10)
    steps = [(100.0, 10, 10), (100.1, 5, 0), (100.999, 5, 0), (101.0, 20, 10), (103.5, 20, 10)]
    for now, asked, granted in steps:
        assert sum(throttle.allows(CLIENT[0], now) for _ in range(asked)) == granted
    assert throttle.allows(OTHER[0], 103.5)


def test_an_ipv6_source_is_its_network() -> None:
    throttle = Throttle(b"k" * 32, 1)
    assert throttle.allows("2001:db8:1:2::1", 1.0)
    assert not throttle.allows("2001:db8:1:2:ffff::9", 1.0)
    assert not throttle.allows("2001:db8:1:2::7%eth0", 1.0)
    assert throttle.allows("2001:db8:1:3::1", 1.0)


def test_many_sources_leave_no_trace_and_find_room() -> None:
    """A forged flood fills slots only for its second; the table does not grow, and honest sources find room in it."""
    throttle = Throttle(b"k" * 32, 10)
    sources = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000)]
    assert all(throttle.allows(source, 1.0) for source in sources)
    assert throttle.allows(CLIENT[0], 1.0)
    assert throttle.allows(CLIENT[0], 2.0)


@pytest.mark.parametrize("per_second", [0, 256])
def test_a_throttle_needs_a_sane_rate(per_second: int) -> None:
    with pytest.raises(ValueError, match="per_second"):
        Throttle(b"k", per_second)
    throttle = Throttle(b"k", 1)
    with pytest.raises(ValueError, match="per_second"):
        throttle.per_second = per_second


def test_the_rate_of_a_throttle_may_change() -> None:
    throttle = Throttle(b"k" * 32, 1)
    throttle.per_second = 3
    assert sum(throttle.allows(CLIENT[0], 1.0) for _ in range(9)) == 3
