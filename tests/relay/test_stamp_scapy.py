"""Our open STAMP packets read by scapy, and scapy's by us. (It knows none with an HMAC.)"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib import stamp as foreign

from commcli.relay.mesh import stamp
from commcli.relay.mesh.stamp import ErrorEstimate, Request

NTP_EPOCH_S = 2208988800
words, octets = st.integers(0, 2**32 - 1), st.integers(0, 255)
# Of era 0, as scapy knows no other: until 2036. In eighths of a second, which its arithmetic leaves whole.
times = st.integers(1_600_000_000 << 3, 2_085_000_000 << 3).map(lambda eighths: eighths / 8)
estimates = st.builds(ErrorEstimate, st.booleans(), st.floats(0, 1e6), st.just(False)).map(ErrorEstimate.pack)

UNSURE = stamp.UNKNOWN_CLOCK.pack()


def unix(decimal: Decimal) -> float:
    return float(decimal - NTP_EPOCH_S)


def ntp(time: float) -> Decimal:
    return Decimal(time) + NTP_EPOCH_S


def packed(found: Any) -> int:
    """An error estimate of scapy's, as it is on the wire."""
    return int(found.S) << 15 | int(found.Z) << 14 | int(found.scale) << 8 | int(found.multiplier)


def estimate(error: int) -> Any:
    return foreign.ErrorEstimate(
        S=error >> 15, Z=error >> 14 & 1, scale=error >> 8 & 63, multiplier=error & 255
    )


@given(st.floats(1_600_000_000, 2_085_000_000))
def test_times_are_read_to_the_last_bit(sent: float) -> None:
    read = foreign.STAMPSessionSenderTestUnauthenticated(
        stamp.pack_request(0, stamp.to_timestamp(sent), UNSURE, None)
    )
    assert unix(read.ts) == sent


@settings(max_examples=50)
@given(words, times, estimates)
def test_requests(sequence: int, sent: float, error: int) -> None:
    ours = stamp.pack_request(sequence, stamp.to_timestamp(sent), error, None)
    read = foreign.STAMPSessionSenderTestUnauthenticated(ours)
    assert (read.seq, unix(read.ts), packed(read.err_estimate)) == (sequence, sent, error)
    assert (read.ssid, read.mbz, read.tlv_objects) == (0, 0, [])
    theirs = foreign.STAMPSessionSenderTestUnauthenticated(
        seq=sequence, ts=ntp(sent), err_estimate=estimate(error), ssid=0
    )
    assert bytes(theirs) == ours
    # The session id of RFC 8972 stands where RFC 8762 has zeros, which a receiver ignores.
    named = foreign.STAMPSessionSenderTestUnauthenticated(
        seq=sequence, ts=ntp(sent), err_estimate=estimate(error), ssid=7
    )
    assert stamp.unpack_request(bytes(named), None) == Request(sequence, stamp.to_timestamp(sent), error)


@settings(max_examples=50)
@given(words, times, times, estimates, words, times, estimates, octets)
def test_replies(
    number: int, t2: float, t3: float, error: int, sequence: int, t1: float, asked_error: int, ttl: int
) -> None:
    asked = Request(sequence, stamp.to_timestamp(t1), asked_error)
    ours = stamp.pack_reply(number, stamp.to_timestamp(t2), stamp.to_timestamp(t3), error, asked, ttl, None)
    read = foreign.STAMPSessionReflectorTestUnauthenticated(ours)
    assert (read.seq, unix(read.ts), unix(read.ts_rx)) == (number, t3, t2)
    assert (read.seq_sender, unix(read.ts_sender), read.ttl_sender) == (sequence, t1, ttl)
    assert (packed(read.err_estimate), packed(read.err_estimate_sender)) == (error, asked_error)
    assert (read.ssid, read.mbz1, read.mbz2, read.tlv_objects) == (0, 0, 0, [])
    theirs = bytes(
        foreign.STAMPSessionReflectorTestUnauthenticated(
            seq=number, ts=ntp(t3), err_estimate=estimate(error), ssid=0, ts_rx=ntp(t2), seq_sender=sequence,
            ts_sender=ntp(t1), err_estimate_sender=estimate(asked_error), ttl_sender=ttl,
        )
    )  # fmt: skip
    assert theirs == ours
    reply = stamp.unpack_reply(theirs, None)
    assert reply is not None
    assert (reply.sequence, reply.received_unix, reply.sent_unix, reply.error) == (number, t2, t3, error)
    assert (reply.asked_sequence, reply.asked_stamp, reply.asked_error) == asked
    assert reply.ttl == ttl
