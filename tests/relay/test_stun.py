"""The STUN codec against another codec (aioice) and hostile bytes. The RFCs' vectors: test_rfc5769.py."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable

import pytest
from aioice import stun as other
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.turn import stun
from commcli.relay.turn.stun import StunError

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def _raw(attributes: bytes, kind: int = 0x0001) -> bytes:
    return kind.to_bytes(2, "big") + len(attributes).to_bytes(2, "big") + stun.COOKIE_BYTES + ID + attributes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "short"),
        (_raw(b"")[:19], "short"),
        (b"\x80" + _raw(b"")[1:], "not stun"),
        (_raw(b"")[:4] + b"\0\0\0\0" + ID, "not stun"),
        (_raw(b"") + b"\0\0\0\0", "length"),
        (_raw(b"\0\x06\0\4")[:-1], "length"),
        (_raw(b"\0\x06\0\1a")[:25], "length"),
        (_raw(b"\0\x06\0\5abcd"), "attribute length"),
        (_raw(b"\0\x08\0\x10" + bytes(16)), "integrity length"),
        (_raw(b"\0\x1c\0\x14" + bytes(20)), "integrity length"),
        (_raw(b"\0\x1c\0\x10" + bytes(16)), "integrity length"),  # truncation is for usages that say so
        (_raw(b"\x80\x28\0\4abcd"), "fingerprint"),
        (_raw(b"\x80\x28\0\4abcd" + b"\0\x06\0\0"), "fingerprint not last"),
        (_raw(b"\x80\x28\0\0"), "fingerprint not last"),
        (_raw(b"\x80\x22\0\0" * (stun.MAX_ATTRIBUTES + 1)), "too many attributes"),
    ],
)
def test_malformed_messages_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(StunError, match=rf"^{reason}$"):
        stun.parse(data)


def test_as_many_attributes_as_are_allowed_are_read() -> None:
    assert len(stun.parse(_raw(b"\x80\x22\0\0" * stun.MAX_ATTRIBUTES)).attributes) == stun.MAX_ATTRIBUTES


def test_the_first_of_duplicates_wins_and_all_are_kept_in_order() -> None:
    built = stun.build(stun.ALLOCATE, stun.REQUEST, ID, [(stun.REALM, b"a"), (stun.REALM, b"b")])
    message = stun.parse(built)
    assert message.first(stun.REALM) == b"a"
    assert message.every(stun.REALM) == [b"a", b"b"]
    assert message.first(stun.NONCE) is None


def test_comprehension_is_required_up_to_7fff() -> None:
    attributes = [(number, b"") for number in (0x7FFF, 0x8000, 0x0001, 0x7FFF, 0xFFFF, stun.REALM)]
    message = stun.parse(stun.build(stun.ALLOCATE, stun.REQUEST, ID, attributes))
    assert message.unknown([stun.REALM]) == [0x7FFF, 0x0001]


def test_what_follows_integrity_is_not_read() -> None:
    """An attacker on the path may append to a signed message; only FINGERPRINT counts there."""
    key = b"k" * 16
    signed = stun.build(stun.REFRESH, stun.REQUEST, ID, [(stun.USERNAME, b"u")], key=key)
    appended = _raw(signed[20:] + b"\0\x0d\0\4\0\0\0\0" + b"\0\x06\0\1x\0\0\0", kind=0x0004)
    message = stun.parse(appended)
    assert message.attributes == [(stun.USERNAME, b"u")]
    assert message.signed_by(key)
    assert not stun.parse(_raw(b"\0\x06\0\1u\0\0\0")).signed_by(key)


def _signed_both_ways(key: bytes) -> bytes:
    """A request that carries MESSAGE-INTEGRITY and then MESSAGE-INTEGRITY-SHA256, as to a server yet unknown."""
    once = stun.build(stun.REFRESH, stun.REQUEST, ID, [(stun.USERNAME, b"u")], key=key)
    longer = _raw(once[20:] + bytes(36), kind=0x0004)[
        :-36
    ]  # the header's length counts the attribute to come
    return longer + b"\0\x1c\0\x20" + hmac.new(key, longer, hashlib.sha256).digest()


def test_both_integrities_may_be_there_in_the_order_of_their_age() -> None:
    message = stun.parse(_signed_both_ways(b"k" * 16))
    assert message.signed_by(b"k" * 16) and message.signed_by(b"k" * 16, sha256=True)
    assert not message.signed_by(b"l" * 16) and not message.signed_by(b"l" * 16, sha256=True)


def test_what_follows_sha256_integrity_is_not_read() -> None:
    key = b"k" * 32
    attributes = [(stun.USERNAME, b"u")]
    signed = stun.build(stun.REFRESH, stun.REQUEST, ID, attributes, key=key, sha256=True)
    forged = stun.build(stun.REFRESH, stun.REQUEST, ID, key=b"other", sha256=True)[20:]
    weak = b"\0\x08\0\x14" + bytes(20)
    message = stun.parse(_raw(signed[20:] + b"\0\x0d\0\4\0\0\0\0" + weak + forged, kind=0x0004))
    assert message.attributes == attributes
    assert message.integrity is None and not message.signed_by(key)
    assert message.signed_by(key, sha256=True)


def test_attributes_between_the_integrities_are_not_read() -> None:
    signed = stun.build(stun.REFRESH, stun.REQUEST, ID, key=b"k" * 16)[20:]
    longer = _raw(signed + b"\0\x0d\0\4\0\0\0\0" + bytes(36), kind=0x0004)[:-36]
    message = stun.parse(longer + b"\0\x1c\0\x20" + hmac.new(b"k" * 16, longer, hashlib.sha256).digest())
    assert message.attributes == []
    assert message.signed_by(b"k" * 16, sha256=True)


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_is_zero_whatever_the_length(size: int) -> None:
    built = stun.build(stun.SEND, stun.INDICATION, ID, [(stun.DATA, b"\xff" * size)])
    assert len(built) % 4 == 0
    assert set(built[24 + size :]) <= {0}


def test_padding_of_others_may_be_anything() -> None:
    assert stun.parse(_raw(b"\0\x06\0\1u\xff\xff\xff")).first(stun.USERNAME) == b"u"


@pytest.mark.parametrize(
    ("method", "kind", "wire"),
    [
        (stun.BINDING, stun.REQUEST, 0x0001),
        (stun.BINDING, stun.SUCCESS, 0x0101),
        (stun.BINDING, stun.ERROR, 0x0111),
        (stun.ALLOCATE, stun.REQUEST, 0x0003),
        (stun.SEND, stun.INDICATION, 0x0016),
        (stun.DATA_METHOD, stun.INDICATION, 0x0017),
        (stun.CHANNEL_BIND, stun.ERROR, 0x0119),
        (0xFFF, stun.ERROR, 0x3FFF),
        (0x0A5, stun.SUCCESS, 0x0345),
    ],
)
def test_method_and_class_are_interleaved(method: int, kind: int, wire: int) -> None:
    built = stun.build(method, kind, ID)
    assert int.from_bytes(built[:2], "big") == wire
    message = stun.parse(built)
    assert (message.method, message.kind) == (method, kind)


@given(st.integers(0, 0xFFF), st.integers(0, 3))
def test_every_method_and_class_comes_back(method: int, kind: int) -> None:
    message = stun.parse(stun.build(method, kind, ID))
    assert (message.method, message.kind) == (method, kind)


COUNTED = (stun.MESSAGE_INTEGRITY, stun.MESSAGE_INTEGRITY_SHA256, stun.FINGERPRINT)
ATTRIBUTES = st.lists(
    st.tuples(st.integers(0, 0xFFFF).filter(lambda n: n not in COUNTED), st.binary(max_size=40)), max_size=12
)


@given(ATTRIBUTES, st.none() | st.binary(min_size=1, max_size=64), st.booleans(), st.booleans())
def test_what_is_built_is_read_back(
    attributes: list[tuple[int, bytes]], key: bytes | None, sha256: bool, fingerprint: bool
) -> None:
    built = stun.build(
        stun.ALLOCATE, stun.REQUEST, ID, attributes, key=key, sha256=sha256, fingerprint=fingerprint
    )
    message = stun.parse(built)
    assert message.attributes == attributes
    assert message.fingerprinted is fingerprint
    assert message.signed_by(key or b"x", sha256) is (key is not None)
    assert not message.signed_by(key or b"x", not sha256)
    assert not message.signed_by((key or b"") + b"x", sha256)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read_but_never_crashes(data: bytes) -> None:
    for candidate in (data, _raw(data[: len(data) & ~3])):
        try:
            stun.parse(candidate)
        except StunError:
            continue


# Attributes whose sizes, types and order are wrong, in a message that is whole: what random bytes hardly ever hit.
SIZES = st.sampled_from([0, 1, 4, 8, 19, 20, 21, 31, 32, 33]) | st.integers(0, 0xFFFF)
MISSHAPEN = st.lists(
    st.tuples(st.sampled_from([*COUNTED, stun.USERNAME, stun.DATA]), SIZES, st.binary(max_size=40)),
    max_size=8,
)


@given(MISSHAPEN, st.binary(max_size=40))
def test_misshapen_attributes_never_crash(attributes: list[tuple[int, int, bytes]], key: bytes) -> None:
    body = b"".join(
        number.to_bytes(2, "big") + size.to_bytes(2, "big") + value + bytes(-len(value) & 3)
        for number, size, value in attributes
    )
    try:
        message = stun.parse(_raw(body))
    except StunError:
        return
    assert not message.signed_by(key) and not message.signed_by(key, sha256=True)


@given(st.data(), ATTRIBUTES, st.booleans())
def test_a_signed_message_that_was_damaged_is_refused_or_unsigned(
    data: st.DataObject, attributes: list[tuple[int, bytes]], sha256: bool
) -> None:
    key = b"k" * 16
    built = bytearray(stun.build(stun.ALLOCATE, stun.REQUEST, ID, attributes, key=key, sha256=sha256))
    built[data.draw(st.integers(0, len(built) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        message = stun.parse(bytes(built))
    except StunError:
        return
    assert not message.signed_by(key, sha256)


READERS: list[Callable[[bytes], object]] = [
    stun.unpack_address,
    lambda value: stun.unpack_address(value, ID),
    stun.unpack_error,
    stun.unpack_u32,
]


@pytest.mark.parametrize("read", READERS, ids=["address", "xor-address", "error", "u32"])
@given(value=st.binary(max_size=24))
def test_attribute_readers_raise_nothing_but_their_own(read: Callable[[bytes], object], value: bytes) -> None:
    try:
        read(value)
    except StunError:
        return


ADDRESSES = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))


@given(ADDRESSES, st.sampled_from([b"", ID]))
def test_addresses_come_back(addr: tuple[str, int], transaction: bytes) -> None:
    ip, port = stun.unpack_address(stun.pack_address(addr, transaction), transaction)
    assert (ipaddress.ip_address(ip), port) == (ipaddress.ip_address(addr[0]), addr[1])


def test_a_mapped_address_is_spelt_as_the_kernel_spells_it() -> None:
    """Permissions are looked up by this text: it must be what recvfrom gives."""
    value = stun.pack_address(("::ffff:c000:201", 1), ID)
    assert stun.unpack_address(value, ID) == ("::ffff:192.0.2.1", 1)
    assert stun.pack_address(("fe80::1%eth0", 1)) == stun.pack_address(("fe80::1", 1))


@pytest.mark.parametrize("ip", ["", "example.org", "1.2.3", "1.2.3.4.5", ":::"])
def test_what_is_no_address_can_not_be_packed(ip: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        stun.pack_address((ip, 1))


@pytest.mark.parametrize(
    "value",
    ["", "00", "00010001", "000100010102", "0001000101020304ff", "00030001" + "00" * 4, "0002000101020304"],
)
def test_malformed_addresses_are_refused(value: str) -> None:
    with pytest.raises(StunError, match=r"^address$"):
        stun.unpack_address(bytes.fromhex(value), ID)


def test_error_codes() -> None:
    assert stun.pack_error(438, "Stale") == b"\0\0\4\x26Stale"
    assert stun.unpack_error(b"\0\0\4\x26Stale") == (438, "Stale")
    for bad in (b"", b"\0\0\4", b"\0\0\4\x64"):
        with pytest.raises(StunError):
            stun.unpack_error(bad)


def test_a_u32_is_four_bytes() -> None:
    assert stun.unpack_u32(b"\0\0\2\x58") == 600
    with pytest.raises(StunError):
        stun.unpack_u32(b"\0\2\x58")


@given(ADDRESSES, st.binary(min_size=12, max_size=12), st.binary(min_size=1, max_size=20))
def test_another_codec_agrees(addr: tuple[str, int], transaction: bytes, key: bytes) -> None:
    """aioice reads what we build, and we read what it builds."""
    ours = stun.build(
        stun.CREATE_PERMISSION,
        stun.REQUEST,
        transaction,
        [(stun.XOR_PEER_ADDRESS, stun.pack_address(addr, transaction)), (stun.USERNAME, "ü".encode())],
        key=key,
        fingerprint=True,
    )
    read = other.parse_message(ours)
    assert read.message_method == other.Method.CREATE_PERMISSION
    assert ipaddress.ip_address(read.attributes["XOR-PEER-ADDRESS"][0]) == ipaddress.ip_address(addr[0])
    theirs = other.Message(other.Method.CREATE_PERMISSION, other.Class.REQUEST, transaction)
    theirs.attributes["XOR-PEER-ADDRESS"] = addr
    theirs.attributes["USERNAME"] = "ü"
    theirs.add_message_integrity(key)
    assert bytes(theirs) == ours
