"""STUN messages (RFC 8489): bytes to values and back.

Pure: nothing here knows a clock, a socket or a peer. `parse` raises only `StunError`; so do the attribute readers.
Attribute order and duplicates are kept, because "first duplicate wins" (RFC 8489 section 5) is the reader's rule
and CreatePermission means every XOR-PEER-ADDRESS it carries.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import zlib
from typing import Iterable, List, Optional, Sequence, Tuple, Union

Addr = Tuple[str, int]
Attribute = Tuple[int, bytes]

COOKIE = 0x2112A442
COOKIE_BYTES = COOKIE.to_bytes(4, "big")
HEADER_SIZE = 20
TRANSACTION_SIZE = 12
# A datagram of empty attributes could hold 16 000 of them; nobody's real request has more than a dozen or so, and
# walking the rest is work that an attacker would get for free.
MAX_ATTRIBUTES = 100

# Classes (RFC 8489 section 5)
REQUEST, INDICATION, SUCCESS, ERROR = range(4)

# Methods (RFC 8489 section 18.2, RFC 8656 section 17)
BINDING = 0x001
ALLOCATE = 0x003
REFRESH = 0x004
SEND = 0x006
DATA_METHOD = 0x007
CREATE_PERMISSION = 0x008
CHANNEL_BIND = 0x009

# Attributes (RFC 8489 section 18.3, RFC 8656 section 18). Up to 0x7fff comprehension is required.
MAPPED_ADDRESS = 0x0001
USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
CHANNEL_NUMBER = 0x000C
LIFETIME = 0x000D
XOR_PEER_ADDRESS = 0x0012
DATA = 0x0013
REALM = 0x0014
NONCE = 0x0015
XOR_RELAYED_ADDRESS = 0x0016
REQUESTED_ADDRESS_FAMILY = 0x0017
EVEN_PORT = 0x0018
REQUESTED_TRANSPORT = 0x0019
DONT_FRAGMENT = 0x001A
MESSAGE_INTEGRITY_SHA256 = 0x001C
PASSWORD_ALGORITHM = 0x001D
USERHASH = 0x001E
XOR_MAPPED_ADDRESS = 0x0020
RESERVATION_TOKEN = 0x0022
ADDITIONAL_ADDRESS_FAMILY = 0x8000
DRAFT_ADDITIONAL_ADDRESS_FAMILY = 0x8032  # as drafts of RFC 8656 had it; coturn's clients still do
ADDRESS_ERROR_CODE = 0x8001
PASSWORD_ALGORITHMS = 0x8002
ALTERNATE_DOMAIN = 0x8003
SOFTWARE = 0x8022
ALTERNATE_SERVER = 0x8023
FINGERPRINT = 0x8028

IPV4, IPV6 = 0x01, 0x02

REASONS = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    486: "Allocation Quota Reached",
    508: "Insufficient Capacity",
}

_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_SIZE = 20
_INTEGRITY_TLV = 4 + _INTEGRITY_SIZE
_SHA256_SIZE = 32  # RFC 8489 section 14.6 lets a usage allow truncation; TURN does not
_SHA256_TLV = 4 + _SHA256_SIZE
FINGERPRINT_SIZE = 8
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")

_header = struct.Struct("!HHI12s")
_tlv = struct.Struct("!HH")
_INTEGRITIES = (MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256)


class StunError(ValueError):
    """Not a STUN message, or a malformed attribute. `str(e)` is one short reason, fit for a counter's name."""


class Message:
    """A parsed message. Only the attributes that integrity covers are here, plus none of what follows them."""

    __slots__ = (
        "attributes",
        "fingerprinted",
        "integrity",
        "integrity_at",
        "integrity_sha256",
        "integrity_sha256_at",
        "kind",
        "method",
        "raw",
        "transaction",
    )

    def __init__(self, method: int, kind: int, transaction: bytes, raw: bytes) -> None:
        self.method = method
        self.kind = kind
        self.transaction = transaction
        self.raw = raw
        self.attributes: List[Attribute] = []
        self.integrity: Optional[bytes] = None
        self.integrity_at = 0  # offset of MESSAGE-INTEGRITY in `raw`
        self.integrity_sha256: Optional[bytes] = None
        self.integrity_sha256_at = 0
        self.fingerprinted = False

    def first(self, kind: int) -> Optional[bytes]:
        """Value of the first attribute of this type: a later duplicate never counts (RFC 8489 section 5)."""
        for number, value in self.attributes:
            if number == kind:
                return value
        return None

    def every(self, kind: int) -> List[bytes]:
        """Values of all attributes of this type, in order (CreatePermission, RFC 8656 section 10.1)."""
        return [value for number, value in self.attributes if number == kind]

    def unknown(self, known: Iterable[int]) -> List[int]:
        """Comprehension-required attribute types that are not in `known`, each once, in order."""
        return list(dict.fromkeys(n for n, _ in self.attributes if n < 0x8000 and n not in known))

    def signed_by(self, key: bytes, sha256: bool = False) -> bool:
        """Does MESSAGE-INTEGRITY (or MESSAGE-INTEGRITY-SHA256) match `key`? False if the attribute is missing.

        Compared in constant time.
        """
        given, end, size = self.integrity, self.integrity_at, _INTEGRITY_TLV
        if sha256:
            given, end, size = self.integrity_sha256, self.integrity_sha256_at, _SHA256_TLV
        if given is None:
            return False
        raw = self.raw
        covered = raw[:2] + (end - HEADER_SIZE + size).to_bytes(2, "big") + raw[4:end]
        return hmac.compare_digest(hmac.digest(key, covered, "sha256" if sha256 else "sha1"), given)


def parse(data: bytes) -> Message:
    """The message in one datagram, its FINGERPRINT checked if it has one. Raises StunError.

    Attributes after MESSAGE-INTEGRITY are not covered by it and are left out (RFC 8489 section 14.5), but for
    MESSAGE-INTEGRITY-SHA256, after which nothing but FINGERPRINT counts (section 14.6).
    """
    if len(data) < HEADER_SIZE:
        raise StunError("short")
    kind_and_method, length, cookie, transaction = _header.unpack_from(data)
    if kind_and_method & 0xC000 or cookie != COOKIE:
        raise StunError("not stun")
    if length & 3 or length + HEADER_SIZE != len(data):
        raise StunError("length")
    message = Message(_method(kind_and_method), _class(kind_and_method), transaction, data)
    _read_attributes(message, data)
    return message


def _read_attributes(message: Message, data: bytes) -> None:
    offset, end = HEADER_SIZE, len(data)
    attributes, covered = message.attributes, False
    for _ in range(MAX_ATTRIBUTES):
        if offset == end:
            return
        number, size = _tlv.unpack_from(data, offset)  # there are 4 bytes left: everything is a multiple of 4
        value_at = offset + 4
        if value_at + size > end:
            raise StunError("attribute length")
        if number == FINGERPRINT:
            _check_fingerprint(data, offset)
            message.fingerprinted = True
        elif number in _INTEGRITIES:
            _read_integrity(message, number, offset, size)
            covered = True
        elif not covered:
            attributes.append((number, data[value_at : value_at + size]))
        offset = value_at + size + (-size & 3)
    if offset != end:
        raise StunError("too many attributes")


def _read_integrity(message: Message, number: int, offset: int, size: int) -> None:
    """The first of each kind counts, and nothing after MESSAGE-INTEGRITY-SHA256."""
    if message.integrity_sha256 is not None:
        return
    value = message.raw[offset + 4 : offset + 4 + size]
    if number == MESSAGE_INTEGRITY_SHA256:
        if size != _SHA256_SIZE:
            raise StunError("integrity length")
        message.integrity_sha256, message.integrity_sha256_at = value, offset
    elif message.integrity is None:
        if size != _INTEGRITY_SIZE:
            raise StunError("integrity length")
        message.integrity, message.integrity_at = value, offset


def _check_fingerprint(data: bytes, offset: int) -> None:
    if offset + FINGERPRINT_SIZE != len(data) or data[offset + 2 : offset + 4] != b"\0\4":
        raise StunError("fingerprint not last")
    if data[offset + 4 :] != _fingerprint(data[:offset]):
        raise StunError("fingerprint")


def build(
    method: int,
    kind: int,
    transaction: bytes,
    attributes: Sequence[Attribute] = (),
    *,
    key: Optional[bytes] = None,
    sha256: bool = False,
    fingerprint: bool = False,
) -> bytes:
    """A message as bytes: `attributes` with zero padding, then its integrity under `key`, then FINGERPRINT.

    The integrity is MESSAGE-INTEGRITY, or with `sha256` MESSAGE-INTEGRITY-SHA256.
    """
    out = bytearray(_header.pack(_type(method, kind), 0, COOKIE, transaction))
    for number, value in attributes:
        out += _tlv.pack(number, len(value))
        out += value
        out += _PAD[len(value) & 3]
    if key is not None and sha256:
        _set_length(out, _SHA256_TLV)
        out += _tlv.pack(MESSAGE_INTEGRITY_SHA256, _SHA256_SIZE) + hmac.digest(key, out, "sha256")
    elif key is not None:
        _set_length(out, _INTEGRITY_TLV)
        out += _tlv.pack(MESSAGE_INTEGRITY, _INTEGRITY_SIZE) + hmac.digest(key, out, "sha1")
    if fingerprint:
        _set_length(out, FINGERPRINT_SIZE)
        out += _tlv.pack(FINGERPRINT, 4) + _fingerprint(out)
    _set_length(out, 0)
    return bytes(out)


def _set_length(out: bytearray, following: int) -> None:
    struct.pack_into("!H", out, 2, len(out) - HEADER_SIZE + following)


def _fingerprint(covered: Union[bytes, bytearray]) -> bytes:
    return ((zlib.crc32(covered) & 0xFFFFFFFF) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _type(method: int, kind: int) -> int:
    """Method bits M11-M0 and class bits C1 C0 are interleaved (RFC 8489 section 5)."""
    spread = (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
    return spread | (kind & 1) << 4 | (kind & 2) << 7


def _method(number: int) -> int:
    return (number & 0x000F) | (number & 0x00E0) >> 1 | (number & 0x3E00) >> 2


def _class(number: int) -> int:
    return (number & 0x0010) >> 4 | (number & 0x0100) >> 7


def long_term_key(username: str, realm: str, password: str, sha256: bool = False) -> bytes:
    """MD5 (16 bytes) or SHA-256 (32) of username:realm:password (RFC 8489 sections 9.2.2 and 18.5.1).

    The caller has done OpaqueString.
    """
    text = f"{username}:{realm}:{password}".encode()
    if sha256:
        return hashlib.sha256(text).digest()
    return hashlib.md5(text, usedforsecurity=False).digest()


def userhash(username: str, realm: str) -> bytes:
    """The value of USERHASH (RFC 8489 section 14.4). The caller has done OpaqueString."""
    return hashlib.sha256(f"{username}:{realm}".encode()).digest()


def pack_address(addr: Addr, transaction: bytes = b"") -> bytes:
    """The value of an address attribute; XORed if `transaction` is given (RFC 8489 sections 14.1 and 14.2).

    Raises ValueError if addr[0] is not the text of an IPv4 or IPv6 address.
    """
    family, raw = IPV4, b""
    try:
        raw = socket.inet_pton(socket.AF_INET, addr[0])
    except OSError:
        family, raw = IPV6, _pack_ipv6(addr[0])
    port = addr[1]
    if transaction:
        port ^= COOKIE >> 16
        raw = _xor(raw, COOKIE_BYTES + transaction)
    return struct.pack("!BBH", 0, family, port) + raw


def _pack_ipv6(ip: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
    except OSError:
        raise ValueError(f"not an IP address: {ip!r}") from None


def unpack_address(value: bytes, transaction: bytes = b"") -> Addr:
    """The address in an attribute value, as the kernel would spell it; XORed if `transaction` is given."""
    size = {IPV4: 8, IPV6: 20}.get(value[1]) if len(value) >= 4 else None
    if size != len(value):
        raise StunError("address")
    port = int.from_bytes(value[2:4], "big")
    raw = value[4:]
    if transaction:
        port ^= COOKIE >> 16
        raw = _xor(raw, COOKIE_BYTES + transaction)
    return socket.inet_ntop(socket.AF_INET if size == 8 else socket.AF_INET6, raw), port


def _xor(raw: bytes, mask: bytes) -> bytes:
    size = len(raw)
    return (int.from_bytes(raw, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big")


def pack_error(code: int, reason: str = "") -> bytes:
    """The value of ERROR-CODE (RFC 8489 section 14.8)."""
    return struct.pack("!HBB", 0, code // 100, code % 100) + reason.encode()


def unpack_error(value: bytes) -> Tuple[int, str]:
    """(code, reason) of an ERROR-CODE value."""
    if len(value) < 4 or value[3] > 99:
        raise StunError("error code")
    return (value[2] & 7) * 100 + value[3], value[4:].decode("utf-8", "replace")


def pack_unknown(numbers: Iterable[int]) -> bytes:
    """The value of UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13)."""
    return b"".join(number.to_bytes(2, "big") for number in numbers)


def unpack_u32(value: bytes) -> int:
    """A value of exactly four bytes: LIFETIME, and the containers of smaller fields."""
    if len(value) != 4:
        raise StunError("attribute size")
    return int.from_bytes(value, "big")
