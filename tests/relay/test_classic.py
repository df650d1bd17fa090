"""Binding requests of RFC 3489: no magic cookie."""

from __future__ import annotations

import pytest

from commcli.relay.turn import classic

CLIENT = ("192.0.2.1", 32853)
TRANSACTION = bytes(range(16))
REPLY = bytes.fromhex("0101000c") + TRANSACTION + bytes.fromhex("000100080001 8055 c0000201")


@pytest.mark.parametrize("attributes", [b"", b"\0\3\0\4\0\0\0\0"], ids=["bare", "no change asked"])
def test_an_old_client_learns_its_address_in_32_bytes(attributes: bytes) -> None:
    request = b"\0\1" + len(attributes).to_bytes(2, "big") + TRANSACTION + attributes
    assert classic.answer(request, CLIENT) == REPLY
    assert len(REPLY) == 32


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0\1\0\0" + TRANSACTION[:-1], id="short"),
        pytest.param(b"\0\1\0\4" + TRANSACTION, id="another length"),
        pytest.param(b"\0\3\0\0" + TRANSACTION, id="another method"),
        pytest.param(b"\1\1\0\0" + TRANSACTION, id="a reply, so that two servers do not talk for ever"),
        pytest.param(b"\0\1\0\x08" + TRANSACTION + b"\0\3\0\4\0\0\0\6", id="from another address"),
        pytest.param(b"\0\1\0\4" + TRANSACTION + b"\0\x06\0\0", id="credentials"),
    ],
)
def test_nothing_else_is_answered(data: bytes) -> None:
    assert classic.answer(data, CLIENT) is None
