"""A TURN client's words, to servers that answer well and to servers that answer strangely."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from commcli.probe.onnode.dialogue import Dialogue
from commcli.relay.turn import stun
from commcli.relay.turn.stun import Attribute

USER, PASSWORD, REALM = "9999:probe", "password", "lab"
CHALLENGE: list[Attribute] = [(stun.REALM, REALM.encode()), (stun.NONCE, b"nonce")]
OFFER: Attribute = (stun.PASSWORD_ALGORITHMS, b"\0\2\0\0\0\1\0\0")
RELAYED = ("192.0.2.1", 50000)


def dialogue() -> Dialogue:
    counter = itertools.count()
    return Dialogue(USER, PASSWORD, lambda size: next(counter).to_bytes(size, "big"))


def error(request: bytes, code: int, *attributes: Attribute) -> bytes:
    message = stun.parse(request)
    rows = [(stun.ERROR_CODE, stun.pack_error(code, "why")), *attributes]
    return stun.build(message.method, stun.ERROR, message.transaction, rows)


def success(request: bytes, *, password: str = PASSWORD, sha256: bool = False, relayed: bool = True) -> bytes:
    message = stun.parse(request)
    rows = [(stun.XOR_RELAYED_ADDRESS, stun.pack_address(RELAYED, message.transaction))] if relayed else []
    key = stun.long_term_key(USER, REALM, password, sha256)
    return stun.build(message.method, stun.SUCCESS, message.transaction, rows, key=key, sha256=sha256)


def test_from_the_first_word_to_the_last() -> None:
    talk = dialogue()
    bare = talk.begin()
    assert stun.parse(bare).first(stun.USERNAME) is None
    answered, login = talk.receive(error(bare, 401, *CHALLENGE))
    assert answered and login is not None and talk.state == "challenged"
    request = stun.parse(login)
    assert request.first(stun.USERNAME) == USER.encode() and request.first(stun.NONCE) == b"nonce"
    assert request.signed_by(stun.long_term_key(USER, REALM, PASSWORD))
    assert talk.receive(success(login)) == (True, None)
    assert (talk.state, talk.relayed, talk.held) == ("allocated", RELAYED, True)
    goodbye = talk.end()
    assert stun.parse(goodbye).method == stun.REFRESH and stun.parse(goodbye).first(stun.LIFETIME) == bytes(4)
    assert talk.receive(success(goodbye)) == (True, None)
    assert (talk.state, talk.held) == ("ended", False)


def test_sha256_where_it_is_offered_and_the_offer_is_echoed() -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE, OFFER))
    assert login is not None
    request = stun.parse(login)
    assert request.signed_by(stun.long_term_key(USER, REALM, PASSWORD, True), True)
    assert (request.first(stun.PASSWORD_ALGORITHMS), request.first(stun.PASSWORD_ALGORITHM)) == (
        OFFER[1],
        b"\0\2\0\0",
    )
    assert talk.receive(success(login, sha256=True))[0] and talk.held


def test_a_stale_nonce_is_replaced_but_not_for_ever() -> None:
    talk = dialogue()
    request: bytes | None = talk.begin()
    for code in (401, 438, 438):
        assert request is not None
        answered, request = talk.receive(error(request, code, *CHALLENGE))
        assert answered
    assert request is not None
    assert talk.receive(error(request, 438, *CHALLENGE)) == (True, None)
    assert (talk.state, talk.code) == ("refused", 438)


def test_a_stale_nonce_at_the_end_does_not_keep_the_allocation() -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE))
    assert login is not None and talk.receive(success(login))[0]
    _, again = talk.receive(error(talk.end(), 438, *CHALLENGE))
    assert again is not None and stun.parse(again).method == stun.REFRESH and talk.held
    assert talk.receive(success(again)) == (True, None) and talk.state == "ended"


def test_a_wrong_password_is_not_tried_again() -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE))
    assert login is not None
    assert talk.receive(error(login, 401, *CHALLENGE)) == (True, None)
    assert (talk.state, talk.code, talk.reason) == ("refused", 401, "why")


def test_a_redirect_says_where_to() -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE))
    assert login is not None
    talk.receive(error(login, 300, (stun.ALTERNATE_SERVER, stun.pack_address(("192.0.2.9", 3478)))))
    assert (talk.state, talk.code, talk.alternate) == ("refused", 300, ("192.0.2.9", 3478))


Junk = Callable[[bytes], bytes]
JUNK: Sequence[tuple[str, Junk]] = [
    ("no STUN", lambda request: b"hello"),
    ("another transaction", lambda request: error(stun.build(stun.ALLOCATE, 0, b"x" * 12), 400)),
    (
        "another method",
        lambda request: stun.build(stun.REFRESH, stun.SUCCESS, stun.parse(request).transaction),
    ),
    ("a forged success", lambda request: success(request, password="guessed")),
    (
        "an unsigned success",
        lambda request: stun.build(stun.ALLOCATE, stun.SUCCESS, stun.parse(request).transaction),
    ),
    (
        "an indication",
        lambda request: stun.build(stun.ALLOCATE, stun.INDICATION, stun.parse(request).transaction),
    ),
]


@pytest.mark.parametrize(("junk"), [junk for _, junk in JUNK], ids=[name for name, _ in JUNK])
def test_what_is_no_answer_is_waited_past(junk: Junk) -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE))
    assert login is not None
    assert talk.receive(junk(login)) == (False, None) and not talk.held
    assert talk.receive(success(login))[0] and talk.held


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: error(request, 401),
        lambda request: stun.build(stun.ALLOCATE, stun.ERROR, stun.parse(request).transaction),
    ],
    ids=["a challenge without a nonce", "an error without a code"],
)
def test_a_malformed_answer_is_a_refusal_with_its_reason(answer: Any) -> None:
    talk = dialogue()
    assert talk.receive(answer(talk.begin())) == (True, None)
    assert talk.state == "refused" and "malformed" in talk.reason


def test_a_success_without_an_address_is_malformed() -> None:
    talk = dialogue()
    _, login = talk.receive(error(talk.begin(), 401, *CHALLENGE))
    assert login is not None
    assert talk.receive(success(login, relayed=False)) == (True, None)
    assert talk.state == "refused" and "no relayed address" in talk.reason
