"""What the links did to the packets of each kind, and when: the truth that a probe's figures are held against. Pure.

Kinds: of UDP to a port that has a name, that name (`stamp`); of UDP from such a port, NAME-reply; of other UDP that
looks like RTP, `rtp-96` and so on by payload type (RFC 3550 s. 5.1; the header of SRTP is in the clear); else `other`.
What relays wrap into their overlay shows as theirs: media is seen only where it goes straight.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_UDP = 17
_PORTS = struct.Struct("!HH")
_UDP_HEADER_BYTES = 8
# RFC 7983: an RTP or RTCP packet begins so; RFC 5761 s. 4: of these payload types it is RTCP.
_RTP_FIRST = range(128, 192)
_RTCP_TYPES = range(64, 96)


@dataclass(frozen=True, slots=True)
class Seen:
    """The packets of one kind that should have left a link in some time, and those of them that it lost."""

    src: str
    dst: str
    kind: str
    packets: int
    lost: int

    @property
    def loss(self) -> float | None:
        """0..1; None without packets."""
        return self.lost / self.packets if self.packets else None


@dataclass(slots=True)
class _Record:
    times_s: array[float] = field(default_factory=lambda: array("d"))
    lost: array[int] = field(default_factory=lambda: array("b"))


class Witness:
    """Remembers every packet of every link: when it came out at the far end, or would have."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """names: of the UDP ports that have one."""
        self._names = dict(names)
        self._records: dict[tuple[str, str, str], _Record] = defaultdict(_Record)

    def saw(self, src: str, dst: str, packet: bytes, at_s: float, *, lost: bool) -> None:
        """An IP packet of the link from `src` to `dst`. The times of a link never go back by much."""
        record = self._records[src, dst, self._kind(packet)]
        record.times_s.append(at_s)
        record.lost.append(lost)

    def between(self, since_s: float = -math.inf, until_s: float = math.inf) -> Iterator[Seen]:
        """What should have come out from `since_s` on and before `until_s`."""
        for (src, dst, kind), record in self._records.items():
            first, end = (bisect_left(record.times_s, moment) for moment in (since_s, until_s))
            if end > first:
                yield Seen(src, dst, kind, end - first, sum(record.lost[first:end]))

    def _kind(self, packet: bytes) -> str:
        header_bytes = 4 * (packet[0] & 0x0F)
        payload = header_bytes + _UDP_HEADER_BYTES
        if packet[9] != _UDP or len(packet) < payload + 2:
            return "other"
        source, destination = _PORTS.unpack_from(packet, header_bytes)
        if destination in self._names:
            return self._names[destination]
        if source in self._names:
            return f"{self._names[source]}-reply"
        first, payload_type = packet[payload], packet[payload + 1] & 0x7F
        if first in _RTP_FIRST and payload_type not in _RTCP_TYPES:
            return f"rtp-{payload_type}"
        return "other"
