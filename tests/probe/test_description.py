"""What of the other end's description is let through."""

from __future__ import annotations

from commcli.probe.description import MAX_CANDIDATES, only_relays, relayed_addresses, repair_ssrcs

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
