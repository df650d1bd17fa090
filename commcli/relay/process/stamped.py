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
from typing import List, Tuple

from commcli.relay.clients.udp import Addr
from commcli.relay.mesh.reflector import UNKNOWN_TTL
from commcli.relay.mesh.session import GRACE_S

# Longer ones are cut: no test packet is.
MOST_BYTES = 256
# At one tick: what a thousand peers send in a second. A flood costs no more than this.
MOST_DATAGRAMS = 1024
# No answer that is older counts. (A clock that was set meanwhile makes any age of it.)
OLDEST_S = GRACE_S
SO_TIMESTAMPNS = SCM_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not know it
IP_RECVTTL, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 12, 51, 52  # linux/in.h, linux/in6.h
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(4)

# A datagram, where it is from, how many seconds ago it came, and the TTL of its IP header.
Arrival = Tuple[bytes, Addr, float, int]


class StampedSocket:
    """Reads what waits, when it is asked to."""

    def __init__(self, sock: socket.socket, drops: "Counter[str]", *, ttl: bool) -> None:
        """ttl: whether it is wanted; UNKNOWN_TTL if not."""
        self.sock, self._drops = sock, drops
        self._receive = sock.recvmsg
        self.is_told = True  # does the kernel say when they came?
        options = [(socket.SOL_SOCKET, SO_TIMESTAMPNS)]
        if ttl:
            six = (socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT)
            options.append(six if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, IP_RECVTTL))
        for level, option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, 1)

    def read(self) -> List[Arrival]:
        """Up to MOST_DATAGRAMS that wait."""
        received: List[Arrival] = []
        take, clock = self._receive, time.time
        try:
            while len(received) < MOST_DATAGRAMS:
                data, ancillary, _, source = take(MOST_BYTES, _ANCILLARY)
                age_s, ttl = -1.0, UNKNOWN_TTL
                for level, kind, value in ancillary:
                    if kind == SCM_TIMESTAMPNS and level == socket.SOL_SOCKET:
                        seconds, nanoseconds = _TIMESPEC.unpack(value)
                        age_s = min(max(0.0, clock() - seconds - nanoseconds / 1e9), OLDEST_S)
                    else:
                        ttl = int.from_bytes(value, sys.byteorder)
                if age_s < 0:
                    self.is_told, age_s = False, 0.0
                received.append((data, source[:2], age_s, ttl))
        except BlockingIOError:
            pass
        except OSError:
            # The ICMP error of an earlier send is reported here: nothing to read now.
            self._drops["receive_error"] += 1
        return received
