"""The packets of RFC 8762 by hand, field by field, and the clocks in them."""

from __future__ import annotations

import hashlib
import hmac
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.mesh import stamp
from commcli.relay.mesh.stamp import UNKNOWN_CLOCK, ErrorEstimate, Request

KEY = bytes(range(32))
SEAL = stamp.Seal(KEY)
NTP_2026 = 0xECFF1D00_00000000  # 2026-01-01T00:00:00Z: 3976214400 s since 1900
JAN_1 = 1767225600.0
GOOD_CLOCK = ErrorEstimate(True, 0.001)


def signed(blocks: bytes, key: bytes = KEY) -> bytes:
    assert len(blocks) == 96
    return blocks + hmac.new(key, blocks, hashlib.sha256).digest()[:16]


def test_ntp_timestamps() -> None:
    assert int(JAN_1) + 2208988800 == 3976214400
    assert stamp.to_timestamp(JAN_1) == 3976214400 << 32
    assert stamp.to_timestamp(JAN_1 + 0.5) == (3976214400 << 32) + (1 << 31)
    assert stamp.from_timestamp(3976214400 << 32) == JAN_1
    assert stamp.to_timestamp(0.0) == 2208988800 << 32


def test_the_second_before_and_after_the_era_ends() -> None:
    """2036-02-07T06:28:16Z is 0 again."""
    turn = 2085978496.0
    assert stamp.to_timestamp(turn) == 0
    for unix in (turn - 1, turn, turn + 86400):
        assert stamp.from_timestamp(stamp.to_timestamp(unix)) == unix
    assert stamp.to_timestamp(turn - 2.0**-34) == 0  # rounds up over the end of all fields


def test_ptp_timestamps_are_read_where_their_bit_is_set() -> None:
    word = ErrorEstimate(True, 0.001, is_ptp=True).pack()
    assert stamp.from_timestamp((int(JAN_1) << 32) + 250_000_000, word) == JAN_1 + 0.25


@given(st.floats(0, 4_000_000_000))
def test_times_survive_to_the_microsecond(unix: float) -> None:
    assert stamp.from_timestamp(stamp.to_timestamp(unix)) == pytest.approx(unix, abs=5e-7, rel=0)


@pytest.mark.parametrize(
    ("word", "estimate"),
    [
        (0x0001, ErrorEstimate(False, 2.0**-32)),
        (0x8001, ErrorEstimate(True, 2.0**-32)),
        (0xC001, ErrorEstimate(True, 2.0**-32, is_ptp=True)),
        (0x98FF, ErrorEstimate(True, 255 / 256)),
        (0x3FFF, ErrorEstimate(False, 255 * 2.0**31)),
        (0x8000, ErrorEstimate(True, math.inf)),  # a multiplier of 0 is invalid
    ],
)
def test_error_estimates(word: int, estimate: ErrorEstimate) -> None:
    assert ErrorEstimate.unpack(word) == estimate
    if word & 0xFF:
        assert ErrorEstimate.unpack(estimate.pack()) == estimate


@given(st.floats(0, 1e9), st.booleans())
def test_an_error_is_never_understated_nor_much_overstated(error_s: float, synchronized: bool) -> None:
    read = ErrorEstimate.unpack(ErrorEstimate(synchronized, error_s).pack())
    assert read.synchronized == synchronized
    # The unit of the field is 2^-32 s: below a few dozen of them, rounding up to the next is the larger part.
    assert error_s <= read.error_s <= error_s * 1.02 + 2.0**-32


def test_nothing_known_of_the_clock_is_the_largest_error() -> None:
    assert not ErrorEstimate.unpack(UNKNOWN_CLOCK.pack()).synchronized
    assert ErrorEstimate.unpack(UNKNOWN_CLOCK.pack()).error_s >= 2.0**38


def test_an_open_request() -> None:
    """Section 4.2.1."""
    data = stamp.pack_request(7, stamp.to_timestamp(JAN_1), GOOD_CLOCK.pack(), None)
    assert data == struct.pack(">IQH", 7, 3976214400 << 32, GOOD_CLOCK.pack()) + bytes(30)
    assert len(data) == 44
    read = stamp.unpack_request(data, None)
    assert read == Request(7, 3976214400 << 32, GOOD_CLOCK.pack())
    assert read.sent_unix == JAN_1


def test_a_sealed_request() -> None:
    """Section 4.2.2."""
    data = stamp.pack_request(7, stamp.to_timestamp(JAN_1), GOOD_CLOCK.pack(), SEAL)
    blocks = (
        struct.pack(">I", 7) + bytes(12) + struct.pack(">QH", 3976214400 << 32, GOOD_CLOCK.pack()) + bytes(70)
    )
    assert data == signed(blocks)
    assert len(data) == 112
    assert stamp.unpack_request(data, SEAL) == Request(7, 3976214400 << 32, GOOD_CLOCK.pack())


def asked(reply: stamp.Reply) -> Request:
    return Request(reply.asked_sequence, reply.asked_stamp, reply.asked_error)


REQUEST = Request(7, 3976214400 << 32, GOOD_CLOCK.pack())
TURN_AROUND = (JAN_1 + 0.25, JAN_1 + 0.5)
STAMPS = stamp.to_timestamp(TURN_AROUND[0]), stamp.to_timestamp(TURN_AROUND[1])


def test_an_open_reply() -> None:
    """Section 4.3.1."""
    data = stamp.pack_reply(9, *STAMPS, GOOD_CLOCK.pack(), REQUEST, 61, None)
    whole = 3976214400 << 32
    assert data == (
        struct.pack(">IQH", 9, whole + (1 << 31), GOOD_CLOCK.pack()) + bytes(2) + struct.pack(">Q", whole + (1 << 30))
        + struct.pack(">IQH", *REQUEST) + bytes(2) + b"\x3d" + bytes(3)
    )  # fmt: skip
    assert len(data) == 44
    reply = stamp.unpack_reply(data, None)
    assert reply is not None
    assert (reply.sequence, reply.received_unix, reply.sent_unix, reply.ttl) == (9, *TURN_AROUND, 61)
    assert asked(reply) == REQUEST


def test_a_sealed_reply() -> None:
    """Section 4.3.2."""
    data = stamp.pack_reply(9, *STAMPS, GOOD_CLOCK.pack(), REQUEST, 61, SEAL)
    whole, error = 3976214400 << 32, struct.pack(">H", GOOD_CLOCK.pack())
    blocks = struct.pack(">I", 9) + bytes(12) + struct.pack(">Q", whole + (1 << 31)) + error + bytes(6)
    blocks += struct.pack(">Q", whole + (1 << 30)) + bytes(8)
    blocks += (
        struct.pack(">I", 7) + bytes(12) + struct.pack(">Q", whole) + error + bytes(6) + b"\x3d" + bytes(15)
    )
    assert data == signed(blocks)
    assert len(data) == 112
    reply = stamp.unpack_reply(data, SEAL)
    assert reply is not None
    assert (reply.sequence, reply.received_unix, reply.sent_unix, reply.ttl) == (9, *TURN_AROUND, 61)
    assert asked(reply) == REQUEST


@pytest.mark.parametrize(("size", "ttl"), [(38, None), (40, None), (41, 61), (44, 61), (60, 61)])
def test_twamp_light_answers_of_other_lengths(size: int, ttl: int | None) -> None:
    """Section 4.6: no more than the first 38 bytes are sure to be there."""
    data = (stamp.pack_reply(9, *STAMPS, GOOD_CLOCK.pack(), REQUEST, 61, None) + bytes(30))[:size]
    reply = stamp.unpack_reply(data, None)
    assert reply is not None
    assert (asked(reply), reply.ttl) == (REQUEST, ttl)


@pytest.mark.parametrize("size", range(38))
def test_too_short_to_be_an_answer(size: int) -> None:
    data = stamp.pack_reply(9, *STAMPS, GOOD_CLOCK.pack(), REQUEST, 61, None)[:size]
    assert stamp.unpack_reply(data, None) is None
    assert stamp.unpack_request(data, None) is None


@given(st.integers(0, 111), st.integers(1, 255))
def test_one_changed_byte_breaks_the_seal(place: int, change: int) -> None:
    for data, unpack in (
        (stamp.pack_request(7, stamp.to_timestamp(JAN_1), GOOD_CLOCK.pack(), SEAL), stamp.unpack_request),
        (stamp.pack_reply(9, *STAMPS, GOOD_CLOCK.pack(), REQUEST, 61, SEAL), stamp.unpack_reply),
    ):
        spoiled = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
        assert unpack(spoiled, SEAL) is None
        assert unpack(data[:place], SEAL) is None
        assert unpack(data, SEAL) is not None


@given(st.binary(max_size=150))
def test_garbage_never_raises(data: bytes) -> None:
    for seal in (None, SEAL):
        request, reply = stamp.unpack_request(data, seal), stamp.unpack_reply(data, seal)
        assert (request is None) == (reply is None) == (seal is not None or len(data) < 38)
        if reply is not None:
            assert isinstance(reply.sent_unix, float)


def test_every_direction_and_role_has_a_key_of_its_own() -> None:
    keys = {stamp.session_key(KEY, node, reply=reply) for node in ("ae-1", "kr-1") for reply in (False, True)}
    assert len(keys) == 4
    plain = hashlib.blake2s(b"request\0ae-1", key=KEY, person=b"commstmp").digest()
    assert stamp.session_key(KEY, "ae-1", reply=False) == plain


# Built by scapy.contrib.stamp: T1, T2, T3 = 1800000001, 2, 3; error S=1 Z=0 scale=15 multiplier=132; TTL 61.
FOREIGN_REQUEST = "00000007eef45081000000008f840001" + "00" * 28
FOREIGN_REPLY = "00000009eef45083000000008f840001eef450820000000000000007eef45081000000008f8400003d000000"


def test_packets_that_somebody_else_built() -> None:
    """Its session id (RFC 8972) stands where RFC 8762 has zeros, which a receiver ignores."""
    request = stamp.unpack_request(bytes.fromhex(FOREIGN_REQUEST), None)
    assert request is not None
    assert (request.sequence, request.sent_unix) == (7, 1800000001.0)
    reply = stamp.unpack_reply(bytes.fromhex(FOREIGN_REPLY), None)
    assert reply is not None
    assert asked(reply) == request
    assert (reply.sequence, reply.received_unix, reply.sent_unix, reply.ttl) == (
        9,
        1800000002.0,
        1800000003.0,
        61,
    )
    clock = ErrorEstimate.unpack(reply.error)
    assert clock == ErrorEstimate(True, 132 * 2.0**-17)
    ours = stamp.pack_reply(
        9, stamp.to_timestamp(1800000002.0), stamp.to_timestamp(1800000003.0), clock.pack(), request, 61, None
    )
    assert ours == bytes.fromhex(FOREIGN_REPLY.replace("0001eef45082", "0000eef45082"))
    assert stamp.pack_request(
        7, stamp.to_timestamp(1800000001.0), clock.pack(), None
    ).hex() == FOREIGN_REQUEST.replace("840001", "840000")
