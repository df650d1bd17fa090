"""A UDP socket of the STAMP mesh. The kernel says when a datagram came, so nobody has to be woken by it.

So a thousand packets a second, each from another peer, cost their system calls and not a turn of the loop each: they
are read together at the next tick, and neither T2 nor T4 holds what they waited.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.clients.udp import Addr
from commcli.relay.mesh.reflector import UNKNOWN_TTL

# Longer ones are cut: no test packet is.
MOST_BYTES = 1024
# At one tick: what a thousand peers send in half a second. A flood costs no more than this.
MOST_DATAGRAMS = 512
# Older than this is not what the kernel said, but a clock that was set meanwhile.
OLDEST_S = 1.0
SO_TIMESTAMPNS = SCM_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not know it
IP_RECVTTL = 12  # linux/in.h
IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 51, 52  # linux/in6.h
_ANCILLARY = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_TIMES = {size: struct.Struct(form) for form in ("@ll", "@qq") for size in (struct.calcsize(form),)}


class Arrival(NamedTuple):
    """A datagram, and how many seconds ago it came. ttl: of its IP header."""

    data: bytes
    source: Addr
    age_s: float
    ttl: int


class StampedSocket:
    """Reads what waits, when it is asked to."""

    def __init__(self, sock: socket.socket, drops: "Counter[str]") -> None:
        self.sock, self._drops = sock, drops
        self.is_told = True  # does the kernel say when they came?
        self._receive = sock.recvmsg
        options = [(socket.SOL_SOCKET, SO_TIMESTAMPNS), (socket.IPPROTO_IP, IP_RECVTTL)]
        if sock.family == socket.AF_INET6:
            options[1] = (socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT)
        for level, option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, 1)

    def read(self) -> List[Arrival]:
        """Up to MOST_DATAGRAMS that wait."""
        received: List[Arrival] = []
        try:
            while len(received) < MOST_DATAGRAMS:
                data, ancillary, _, source = self._receive(MOST_BYTES, _ANCILLARY)
                age_s, ttl = _noted(ancillary, time.time())
                if age_s is None:
                    self.is_told, age_s = False, 0.0
                received.append(Arrival(data, source[:2], age_s, ttl))
        except BlockingIOError:
            pass
        except OSError:
            # The ICMP error of an earlier send is reported here: nothing to read now.
            self._drops["receive_error"] += 1
        return received


def _noted(ancillary: Sequence[Tuple[int, int, Any]], unix: float) -> Tuple[Optional[float], int]:
    """(age, TTL) as the kernel wrote them down; None and UNKNOWN_TTL where it did not."""
    age_s, ttl = None, UNKNOWN_TTL
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET:
            if kind == SCM_TIMESTAMPNS and len(value) in _TIMES:
                seconds, nanoseconds = _TIMES[len(value)].unpack(value)
                age_s = unix - seconds - nanoseconds / 1e9
                if not 0.0 <= age_s <= OLDEST_S:
                    age_s = 0.0
        elif kind in (socket.IP_TTL, IPV6_HOPLIMIT):
            ttl = int.from_bytes(value, sys.byteorder)
    return age_s, ttl
