"""Which ports of the lab's addresses are in use, asked of the kernel (/proc/net), so that nothing can be
overlooked.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TCP_LISTEN = "0A"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A TCP port that listens, or a UDP port that is bound."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.address}:{self.port}/{self.protocol}"


def parse(table: str, protocol: str) -> list[Port]:
    """The kernel's text table (/proc/net/tcp, /proc/net/udp) -> ports. Only listening TCP sockets count."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if protocol == "tcp" and fields[3] != _TCP_LISTEN:
            continue
        address, port = fields[1].split(":")
        # The kernel prints the 32 bits as they lie in memory: little endian on every machine we run on.
        found.append(Port(socket.inet_ntoa(struct.pack("<I", int(address, 16))), int(port, 16), protocol))
    return found


def in_use(addresses: Iterable[str]) -> list[Port]:
    """Ports in use on these addresses; a wildcard listener (0.0.0.0) is not counted as theirs."""
    wanted = set(addresses)
    found = []
    for protocol in ("tcp", "udp"):
        found += parse(Path(f"/proc/net/{protocol}").read_text(), protocol)
    return sorted(port for port in set(found) if port.address in wanted)
