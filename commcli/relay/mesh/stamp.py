"""STAMP test packets, RFC 8762: the codecs. Session keeping is in `mesh`.

Unauthenticated packets are 44 bytes, authenticated ones 112, in both directions; fields stand in the order of
sections 4.2.1, 4.2.2, 4.3.1 and 4.3.2. Times are Unix seconds (float), good to 0.3 us until 2038.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from typing import NamedTuple, Optional, Tuple

OPEN_BYTES = 44
SEALED_BYTES = 112
# A TWAMP Light Session-Reflector (RFC 5357 app. I) may answer without the last fields; RFC 8762 s. 4.6 has us bear it.
SHORTEST_OPEN_BYTES = 38
HMAC_BYTES = 16

# Seconds between the NTP era 0 (1900) and the Unix epoch; an era is 2**32 s, and era 1 begins in 2036.
_NTP_EPOCH_S = 2208988800
_ERA_S = 1 << 32

_OPEN_REQUEST = struct.Struct(">IQH30x")
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
    """A Session-Reflector packet. ttl None: a TWAMP Light answer too short to hold it."""

    sequence: int
    stamp: int
    error: int
    received_stamp: int
    request: Request
    ttl: Optional[int]

    @property
    def received_unix(self) -> float:
        """T2, on the reflector's clock."""
        return from_timestamp(self.received_stamp, self.error)

    @property
    def sent_unix(self) -> float:
        """T3, on the reflector's clock."""
        return from_timestamp(self.stamp, self.error)


def to_timestamp(unix: float) -> int:
    """The 64-bit NTP timestamp of a Unix time."""
    seconds = math.floor(unix)
    fraction = round((unix - seconds) * 4294967296.0)
    return (((seconds + _NTP_EPOCH_S) << 32) + fraction) & 0xFFFFFFFFFFFFFFFF


def from_timestamp(stamp: int, error: int = 0) -> float:
    """The Unix time of a timestamp; `error` says whether it is NTP or truncated PTPv2 (its Z bit)."""
    seconds, fraction = stamp >> 32, stamp & 0xFFFFFFFF
    if error & 0x4000:
        return seconds + fraction / 1e9
    # RFC 4330 s. 3: with the top bit clear it is era 1, 2036 to 2104.
    era_s = 0 if seconds & 0x80000000 else _ERA_S
    return seconds + era_s - _NTP_EPOCH_S + fraction / 4294967296.0


def session_key(pair_key: bytes, sender: str, *, reply: bool) -> bytes:
    """The HMAC key for one direction of one pair's sessions.

    Each Session-Sender and each role has its own. With one key for all, a recorded reply would be a valid request:
    sent to the reflector from another reflector's port, it would bounce between the two for ever.
    """
    role = b"reply" if reply else b"request"
    derived = hashlib.blake2s(role + b"\0" + sender.encode(), key=pair_key, person=b"commstmp")
    return derived.digest()


def pack_request(sequence: int, unix: float, error: ErrorEstimate, key: Optional[bytes]) -> bytes:
    """A Session-Sender packet, authenticated if there is a key (s. 4.2.1, 4.2.2)."""
    fields = (sequence & 0xFFFFFFFF, to_timestamp(unix), error.pack())
    if key is None:
        return _OPEN_REQUEST.pack(*fields)
    return _sealed(_SEALED_REQUEST.pack(*fields), key)


def unpack_request(data: bytes, key: Optional[bytes]) -> Optional[Request]:
    """Of a Session-Sender packet; None if it is too short or its HMAC is wrong. Reserved bytes are ignored."""
    if key is None:
        if len(data) < SHORTEST_OPEN_BYTES:
            return None
        sequence, stamp, error = struct.unpack_from(">IQH", data)
    else:
        if not _is_authentic(data, key):
            return None
        sequence, stamp, error = _SEALED_REQUEST.unpack_from(data)
    return Request(sequence, stamp, error)


def pack_reply(
    sequence: int, received_unix: float, sent_unix: float, error: ErrorEstimate, request: Request, ttl: int,
    key: Optional[bytes],
) -> bytes:  # fmt: skip
    """A Session-Reflector packet (s. 4.3.1, 4.3.2). ttl: of the request's IP header, 255 if not known."""
    front = (sequence & 0xFFFFFFFF, to_timestamp(sent_unix), error.pack(), to_timestamp(received_unix))
    if key is None:
        return _OPEN_REPLY.pack(*front, *request) + _OPEN_TAIL.pack(ttl)
    return _sealed(_SEALED_REPLY.pack(*front, *request, ttl), key)


def unpack_reply(data: bytes, key: Optional[bytes]) -> Optional[Reply]:
    """Of a Session-Reflector packet; None if it is too short or its HMAC is wrong."""
    if key is None:
        if len(data) < SHORTEST_OPEN_BYTES:
            return None
        fields: Tuple[int, ...] = _OPEN_REPLY.unpack_from(data)
        ttl = data[40] if len(data) > 40 else None
    else:
        if not _is_authentic(data, key):
            return None
        *front, ttl = _SEALED_REPLY.unpack_from(data)
        fields = tuple(front)
    sequence, stamp, error, received_stamp = fields[:4]
    return Reply(sequence, stamp, error, received_stamp, Request(*fields[4:7]), ttl)


def _sealed(blocks: bytes, key: bytes) -> bytes:
    """Section 4.4: HMAC-SHA-256 over the first six blocks, truncated to 128 bits."""
    return blocks + hmac.digest(key, blocks, "sha256")[:HMAC_BYTES]


def _is_authentic(data: bytes, key: bytes) -> bool:
    if len(data) < SEALED_BYTES:
        return False
    blocks, tag = data[: SEALED_BYTES - HMAC_BYTES], data[SEALED_BYTES - HMAC_BYTES : SEALED_BYTES]
    return hmac.compare_digest(hmac.digest(key, blocks, "sha256")[:HMAC_BYTES], tag)
