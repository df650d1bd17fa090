from __future__ import annotations

import struct

import pytest

from tests.wan.witness import Witness


def udp(source: int, destination: int, payload: bytes) -> bytes:
    header = bytes([0x45, *bytes(8), 17, *bytes(10)])
    return header + struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


AUDIO, VIDEO, RTCP, STUN = bytes([0x80, 96]), bytes([0x90, 0x80 | 97]), bytes([0x80, 200]), bytes([0, 1])


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (udp(40000, 40001, AUDIO), "rtp-96"),
        (udp(40000, 40001, VIDEO), "rtp-97"),
        (udp(40000, 40001, RTCP), "other"),
        (udp(40000, 40001, STUN), "other"),
        (udp(50000, 3480, AUDIO), "stamp"),
        (udp(3480, 50000, AUDIO), "stamp-reply"),
        (udp(40000, 40001, b""), "other"),
        (b"\x45" + bytes(8) + b"\x06" + bytes(30), "other"),
    ],
)
def test_a_packet_has_the_kind_of_its_ports_and_first_bytes(packet: bytes, kind: str) -> None:
    witness = Witness({3480: "stamp"})
    witness.saw("a", "b", packet, 1.0, lost=False)
    assert [seen.kind for seen in witness.between()] == [kind]


def test_it_tells_what_was_lost_of_what_was_due_in_a_time() -> None:
    witness = Witness({})
    for number in range(10):
        witness.saw("a", "b", udp(40000, 40001, AUDIO), float(number), lost=number % 3 == 0)
    (seen,) = witness.between(2.0, 7.0)
    assert (seen.packets, seen.lost, seen.loss) == (5, 2, 0.4)
    assert list(witness.between(10.0, 20.0)) == []
