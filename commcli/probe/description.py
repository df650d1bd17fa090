"""Session descriptions (SDP, RFC 8866) as text: which relayed addresses they offer, and which we let through. Pure."""

from __future__ import annotations

import ipaddress
import re

# A relay-only description of ours has one candidate; a stranger's with hundreds would have us send to them all.
MAX_CANDIDATES = 4
# Ours has 3 sections (audio, video, data) in some 6 KB. aiortc makes a transceiver and more of each section that it
# is told of: of 4000 in 4 MB, for ten seconds, in which nothing else of the call gets its turn.
MAX_SECTIONS = 3
MAX_CHARACTERS = 32 << 10


def bounded(sdp: object) -> str:
    """`sdp` if it is a text of an honest end's size. Raises ValueError with what is wrong with the description."""
    if not isinstance(sdp, str):
        raise ValueError("is no text")
    if len(sdp) > MAX_CHARACTERS:
        raise ValueError(f"has {len(sdp)} characters, and may have {MAX_CHARACTERS}")
    sections = sum(line.startswith("m=") for line in sdp.splitlines())
    if sections > MAX_SECTIONS:
        raise ValueError(f"has {sections} media sections, and may have {MAX_SECTIONS}")
    return sdp


def relayed_addresses(sdp: str) -> list[tuple[str, int]]:
    """The relayed UDP candidates of a description, each once."""
    found: list[tuple[str, int]] = []
    for line in sdp.splitlines():
        candidate = _candidate(line)
        if candidate and candidate not in found:
            found.append(candidate)
    return found


def only_relays(sdp: str, allowed: tuple[str, ...]) -> str:
    """`sdp` without candidates that are not UDP relays on an address in `allowed`, and without too many of them.

    The other end's description must not be able to have our edge send packets anywhere else.
    """
    kept: list[str] = []
    candidates = 0
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            candidate = _candidate(line)
            if candidate is None or candidate[0] not in allowed or candidates >= MAX_CANDIDATES:
                continue
            candidates += 1
        kept.append(line)
    return "\r\n".join(kept) + "\r\n"


def _candidate(line: str) -> tuple[str, int] | None:
    """(address, port) of an `a=candidate` line (RFC 8839 5.1) if it is a UDP relay at a literal address."""
    words = line.removeprefix("a=candidate:").split()
    if not line.startswith("a=candidate:") or len(words) < 8:
        return None
    if words[2].lower() != "udp" or words[6:8] != ["typ", "relay"] or not words[5].isdecimal():
        return None
    try:
        return str(ipaddress.ip_address(words[4])), int(words[5])
    except ValueError:
        return None


def repair_ssrcs(sdp: str) -> frozenset[int]:
    """The second SSRC of every `a=ssrc-group:FID` (RFC 5576, RFC 4588)."""
    return frozenset(int(ssrc) for ssrc in re.findall(r"^a=ssrc-group:FID \d+ (\d+)", sdp, re.MULTILINE))
