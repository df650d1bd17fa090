"""What of the other end's description is let through."""

from __future__ import annotations

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription

from commcli.probe import media
from commcli.probe.description import (
    MAX_CANDIDATES,
    MAX_CHARACTERS,
    MAX_SECTIONS,
    bounded,
    only_relays,
    relayed_addresses,
    repair_ssrcs,
)
from commcli.probe.profiles import PROFILES

SDP = """v=0
m=audio 9 UDP/TLS/RTP/SAVPF 96
a=candidate:1 1 udp 99 127.77.0.2 50002 typ relay raddr 127.77.0.2 rport 4
a=candidate:2 1 udp 99 10.0.0.1 22 typ host
a=candidate:3 1 udp 99 169.254.169.254 80 typ relay raddr 0.0.0.0 rport 0
a=candidate:4 1 tcp 99 127.77.0.2 443 typ relay tcptype passive
a=candidate:5 1 udp 99 evil.local 5 typ relay
a=candidate:6 1 udp
a=ssrc-group:FID 111 222
a=ssrc:111 cname:x
"""


def test_only_relays_at_the_other_edge_are_let_through() -> None:
    kept = only_relays(SDP, ("127.77.0.2",))
    assert [line for line in kept.splitlines() if "candidate" in line] == [
        "a=candidate:1 1 udp 99 127.77.0.2 50002 typ relay raddr 127.77.0.2 rport 4"
    ]
    assert relayed_addresses(kept) == [("127.77.0.2", 50002)]
    assert "a=ssrc:111 cname:x" in kept


def test_not_too_many() -> None:
    flood = "".join(f"a=candidate:{n} 1 udp 9 127.77.0.2 {n} typ relay\n" for n in range(1, 500))
    assert len(relayed_addresses(only_relays(flood, ("127.77.0.2",)))) == MAX_CANDIDATES


def test_repair_streams() -> None:
    assert repair_ssrcs(SDP) == {222}


SECTION = "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n"


@pytest.mark.parametrize(
    ("sdp", "reason"),
    [
        (SECTION * (MAX_SECTIONS + 1), "has 4 media sections, and may have 3"),
        ("a=x\n" + SECTION.rstrip() + ("\n" + SECTION.rstrip()) * 3, "has 4 media sections"),
        ("\x0b".join([SECTION.rstrip()] * 4), "has 4 media sections"),
        (SDP + "a=x\n" * MAX_CHARACTERS, "characters, and may have 32768"),
        (SECTION * 4000, "characters"),
        (None, "is no text"),
        ([SDP], "is no text"),
    ],
)
def test_one_that_would_keep_the_other_end_busy_is_refused(sdp: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bounded(sdp)


async def test_ours_with_all_media_is_not_near_the_bounds() -> None:
    peer, profile = RTCPeerConnection(), PROFILES["sd"]
    try:
        peer.addTrack(media.AudioTrack(profile))
        peer.addTrack(media.VideoTrack(profile))
        peer.createDataChannel("ping")
        offer: RTCSessionDescription = await peer.createOffer()
    finally:
        await peer.close()
    assert bounded(offer.sdp) == offer.sdp and offer.sdp.count("m=") == MAX_SECTIONS
    assert len(offer.sdp) < MAX_CHARACTERS / 4
