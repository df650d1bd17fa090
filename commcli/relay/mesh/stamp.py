"""STAMP test packets, RFC 8762: the codecs. Session keeping is in `mesh`.

Unauthenticated packets are 44 bytes, authenticated ones 112, in both directions; fields stand in the order of
sections 4.2.1, 4.2.2, 4.3.1 and 4.3.2. Times are Unix seconds (float), good to 0.3 us until 2038, or `stamp`s: the
64 bits on the wire. `error` is an error estimate as it is on the wire (`ErrorEstimate.pack`).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from typing import NamedTuple, Optional

OPEN_BYTES = 44
SEALED_BYTES = 112
# A TWAMP Light Session-Reflector (RFC 5357 app. I) may answer without the last fields; RFC 8762 s. 4.6 has us bear it.
SHORTEST_OPEN_BYTES = 38
HMAC_BYTES = 16
_BLOCKS_BYTES = SEALED_BYTES - HMAC_BYTES

# Between the NTP era 0 (1900) and the Unix epoch, in 2**-32 s; an era is 2**32 s, and era 1 begins in 2036.
_NTP_EPOCH = 2208988800 << 32
_ERA_1 = (1 << 64) - _NTP_EPOCH

_OPEN_REQUEST = struct.Struct(">IQH30x")
_OPEN_FRONT = struct.Struct(">IQH")
_OPEN_REPLY = struct.Struct(">IQH2xQIQH")  # then MBZ 2, TTL 1, MBZ 3
_OPEN_TAIL = struct.Struct(">2xB3x")
_SEALED_REQUEST = struct.Struct(">I12xQH70x")
_SEALED_REPLY = struct.Struct(">I12xQH6xQ8xI12xQH6xB15x")

_LARGEST_ERROR_S = 255 * 2.0**31


class ErrorEstimate(NamedTuple):
    """How far the sender's clock may be off (RFC 4656 s. 4.1.2). is_ptp: times are PTPv2, not NTP."""

    synchronized: bool
    error_s: float
    is_ptp: bool = False

    def pack(self) -> int:
        """16 bits; rounded up, since a smaller error than the real one would be a lie."""
        units = max(1.0, min(self.error_s, _LARGEST_ERROR_S) * 4294967296.0)
        scale = max(0, math.frexp(units)[1] - 8)
        multiplier = math.ceil(units / 2.0**scale)
        if multiplier > 255:
            scale, multiplier = scale + 1, math.ceil(multiplier / 2)
        return (self.synchronized << 15) | (self.is_ptp << 14) | (scale << 8) | multiplier

    @classmethod
    def unpack(cls, word: int) -> "ErrorEstimate":
        """Of 16 bits. A multiplier of 0 is invalid (RFC 4656) and means an unknown error: infinite."""
        multiplier, scale = word & 0xFF, word >> 8 & 0x3F
        error_s = multiplier * 2.0 ** (scale - 32) if multiplier else math.inf
        return cls(bool(word & 0x8000), error_s, bool(word & 0x4000))

    @property
    def known_s(self) -> Optional[float]:
        """The error of a synchronised clock; None: it may be off by anything."""
        return self.error_s if self.synchronized and self.error_s < math.inf else None


# Nothing is known of the clock: not synchronized, the largest error that fits.
UNKNOWN_CLOCK = ErrorEstimate(False, math.inf)


class Request(NamedTuple):
    """A Session-Sender packet. stamp: the 64 bits of its timestamp, as the reply must repeat them."""

    sequence: int
    stamp: int
    error: int

    @property
    def sent_unix(self) -> float:
        """T1."""
        return from_timestamp(self.stamp, self.error)


class Reply(NamedTuple):
    """A Session-Reflector packet. received: the stamp of T2. asked_*: its copy of the request, with the TTL that that
    came with, None in a TWAMP Light answer too short to hold it.
    """

    sequence: int
    stamp: int
    error: int
    received: int
    asked_sequence: int
    asked_stamp: int
    asked_error: int
    ttl: Optional[int]

    @property
    def received_unix(self) -> float:
        """T2, on the reflector's clock."""
        return from_timestamp(self.received, self.error)

    @property
    def sent_unix(self) -> float:
        """T3, on the reflector's clock."""
        return from_timestamp(self.stamp, self.error)


def to_timestamp(unix: float) -> int:
    """The 64-bit NTP timestamp of a Unix time."""
    return (int(unix * 4294967296.0) + _NTP_EPOCH) & 0xFFFFFFFFFFFFFFFF


def from_timestamp(stamp: int, error: int = 0) -> float:
    """The Unix time of a timestamp; `error` says whether it is NTP or truncated PTPv2 (its Z bit)."""
    if error & 0x4000:
        return (stamp >> 32) + (stamp & 0xFFFFFFFF) / 1e9
    # RFC 4330 s. 3: with the top bit clear it is era 1, 2036 to 2104.
    return (stamp - _NTP_EPOCH if stamp >> 63 else stamp + _ERA_1) / 4294967296.0


def session_key(pair_key: bytes, sender: str, *, reply: bool) -> bytes:
    """The HMAC key for one direction of one pair's sessions.

    Each Session-Sender and each role has its own. With one key for all, a recorded reply would be a valid request:
    sent to the reflector from another reflector's port, it would bounce between the two for ever.
    """
    role = b"reply" if reply else b"request"
    derived = hashlib.blake2s(role + b"\0" + sender.encode(), key=pair_key, person=b"commstmp")
    return derived.digest()


class Seal:
    """One key's HMAC-SHA-256 over a packet's first six blocks, truncated to 128 bits (section 4.4).

    RFC 2104 s. 4: what the key alone decides is hashed once and copied for each packet, a third of `hmac.digest`.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """key: at most 64 bytes."""
        block = key.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block)).copy
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block)).copy

    def tag(self, blocks: bytes) -> bytes:
        """The 16 bytes that stand behind `blocks`."""
        inner, outer = self._inner(), self._outer()
        inner.update(blocks)
        outer.update(inner.digest())
        return outer.digest()[:HMAC_BYTES]

    def holds(self, data: bytes) -> bool:
        """Is this one of the packets that the key has sealed?"""
        if len(data) < SEALED_BYTES:
            return False
        return hmac.compare_digest(self.tag(data[:_BLOCKS_BYTES]), data[_BLOCKS_BYTES:SEALED_BYTES])


def pack_request(sequence: int, stamp: int, error: int, seal: Optional[Seal]) -> bytes:
    """A Session-Sender packet, authenticated if there is a seal (s. 4.2.1, 4.2.2)."""
    if seal is None:
        return _OPEN_REQUEST.pack(sequence & 0xFFFFFFFF, stamp, error)
    blocks = _SEALED_REQUEST.pack(sequence & 0xFFFFFFFF, stamp, error)
    return blocks + seal.tag(blocks)


def unpack_request(data: bytes, seal: Optional[Seal]) -> Optional[Request]:
    """Of a Session-Sender packet; None if it is too short or its HMAC is wrong. Reserved bytes are ignored."""
    if seal is None:
        return Request(*_OPEN_FRONT.unpack_from(data)) if len(data) >= SHORTEST_OPEN_BYTES else None
    return Request(*_SEALED_REQUEST.unpack_from(data)) if seal.holds(data) else None


def pack_reply(
    sequence: int, received: int, sent: int, error: int, request: Request, ttl: int, seal: Optional[Seal]
) -> bytes:
    """A Session-Reflector packet (s. 4.3.1, 4.3.2). received, sent: the stamps of T2 and T3. ttl: of the request's
    IP header, 255 if not known.
    """
    front = (sequence & 0xFFFFFFFF, sent, error, received)
    if seal is None:
        return _OPEN_REPLY.pack(*front, *request) + _OPEN_TAIL.pack(ttl)
    blocks = _SEALED_REPLY.pack(*front, *request, ttl)
    return blocks + seal.tag(blocks)


def unpack_reply(data: bytes, seal: Optional[Seal]) -> Optional[Reply]:
    """Of a Session-Reflector packet; None if it is too short or its HMAC is wrong."""
    if seal is not None:
        return Reply(*_SEALED_REPLY.unpack_from(data)) if seal.holds(data) else None
    if len(data) < SHORTEST_OPEN_BYTES:
        return None
    return Reply._make((*_OPEN_REPLY.unpack_from(data), data[40] if len(data) > 40 else None))
