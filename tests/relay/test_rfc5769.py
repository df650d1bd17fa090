"""The test vectors of RFC 5769 (sections 2.1 to 2.4) and RFC 8489 (appendix B.1, as its erratum 6268 corrects it)."""

from __future__ import annotations

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.stun import StunError

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
# RFC 5769 section 2.1 to 2.4
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff"
    "80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249"
    "c1b571a280280004e57a3bcf"
)
RESPONSE_V4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa"
    "a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
LONG_TERM = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c"
    "662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
MATRIX = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"


def test_rfc5769_request() -> None:
    message = stun.parse(REQUEST)
    assert (message.method, message.kind, message.transaction) == (stun.BINDING, stun.REQUEST, ID)
    assert message.first(stun.SOFTWARE) == b"STUN test client"
    assert message.first(stun.USERNAME) == b"evtj:h6vY"
    assert message.fingerprinted
    assert message.signed_by(PASSWORD)
    assert not message.signed_by(PASSWORD[:-1])
    assert message.unknown([stun.USERNAME]) == [0x0024]


@pytest.mark.parametrize(
    ("response", "mapped"),
    [
        pytest.param(RESPONSE_V4, ("192.0.2.1", 32853), id="ipv4"),
        pytest.param(RESPONSE_V6, ("2001:db8:1234:5678:11:2233:4455:6677", 32853), id="ipv6"),
    ],
)
def test_rfc5769_responses(response: bytes, mapped: tuple[str, int]) -> None:
    message = stun.parse(response)
    assert (message.method, message.kind, message.fingerprinted) == (stun.BINDING, stun.SUCCESS, True)
    assert message.signed_by(PASSWORD)
    value = message.first(stun.XOR_MAPPED_ADDRESS)
    assert value is not None and stun.unpack_address(value, ID) == mapped
    assert stun.pack_address(mapped, ID) == value


def test_rfc5769_long_term_request_is_read_and_rebuilt_byte_by_byte() -> None:
    key = stun.long_term_key(MATRIX, "example.org", "TheMatrIX")
    message = stun.parse(LONG_TERM)
    assert message.first(stun.USERNAME) == MATRIX.encode()
    assert message.signed_by(key)
    built = stun.build(
        stun.BINDING,
        stun.REQUEST,
        message.transaction,
        [
            (stun.USERNAME, MATRIX.encode()),
            (stun.NONCE, b"f//499k954d6OL34oL9FSTvy64sA"),
            (stun.REALM, b"example.org"),
        ],
        key=key,
    )
    assert built == LONG_TERM


@pytest.mark.parametrize("vector", [REQUEST, RESPONSE_V4, RESPONSE_V6], ids=["request", "ipv4", "ipv6"])
def test_every_flipped_bit_of_a_vector_is_noticed(vector: bytes) -> None:
    fingerprint_type = range(len(vector) - 8, len(vector) - 6)  # damaged there, it is no fingerprint at all
    for position in set(range(len(vector))) - set(fingerprint_type):
        damaged = bytearray(vector)
        damaged[position] ^= 0x01
        with pytest.raises(StunError):
            stun.parse(bytes(damaged))


@pytest.mark.parametrize("position", [0, 1, 8, 24, 50, 90, 110])
def test_integrity_notices_a_flipped_bit(position: int) -> None:
    damaged = bytearray(LONG_TERM)
    damaged[position] ^= 0x01
    key = stun.long_term_key(MATRIX, "example.org", "TheMatrIX")
    assert not stun.parse(bytes(damaged)).signed_by(key)


# RFC 8489 appendix B.1: the same user, realm and (after OpaqueString) password as in RFC 5769 section 2.4
SHA256_USERHASH = bytes.fromhex(
    "000100902112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    "001500296f624d61744a6f73324141414366"
    "2f2f3439396b39353464364f4c33346f4c39465354767936347341000000"
    "0014000b6578616d706c652e6f726700"
    "001d000400020000"
    "001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
)


def test_rfc8489_request_with_sha256_and_userhash_is_read() -> None:
    message = stun.parse(SHA256_USERHASH)
    assert (message.method, message.kind) == (stun.BINDING, stun.REQUEST)
    assert message.first(stun.USERHASH) == stun.userhash(MATRIX, "example.org")
    assert message.first(stun.NONCE) == b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"
    assert message.first(stun.REALM) == b"example.org"
    assert message.first(stun.PASSWORD_ALGORITHM) == b"\0\2\0\0"
    assert message.integrity is None and message.integrity_sha256 == SHA256_USERHASH[-32:]
    assert message.signed_by(stun.long_term_key(MATRIX, "example.org", "TheMatrIX", sha256=True), sha256=True)


def test_rfc8489_request_is_of_no_other_algorithm() -> None:
    message = stun.parse(SHA256_USERHASH)
    key = stun.long_term_key(MATRIX, "example.org", "TheMatrIX", sha256=True)
    assert not message.signed_by(key)
    assert not message.signed_by(stun.long_term_key(MATRIX, "example.org", "TheMatrIX"), sha256=True)


def test_rfc8489_request_is_rebuilt_byte_by_byte() -> None:
    built = stun.build(
        stun.BINDING,
        stun.REQUEST,
        bytes.fromhex("78ad3433c6ad72c029da412e"),
        [
            (stun.USERHASH, stun.userhash(MATRIX, "example.org")),
            (stun.NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"),
            (stun.REALM, b"example.org"),
            (stun.PASSWORD_ALGORITHM, b"\0\2\0\0"),
        ],
        key=stun.long_term_key(MATRIX, "example.org", "TheMatrIX", sha256=True),
        sha256=True,
    )
    assert built == SHA256_USERHASH


def test_rfc8489_section_9_2_2_key() -> None:
    assert stun.long_term_key("user", "realm", "pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"


@pytest.mark.parametrize("position", [0, 1, 8, 24, 60, 110, 125, 140, 163])
def test_sha256_integrity_notices_a_flipped_bit(position: int) -> None:
    damaged = bytearray(SHA256_USERHASH)
    damaged[position] ^= 0x01
    key = stun.long_term_key(MATRIX, "example.org", "TheMatrIX", sha256=True)
    assert not stun.parse(bytes(damaged)).signed_by(key, sha256=True)
