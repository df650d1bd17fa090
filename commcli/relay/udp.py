"""UDP sockets of the relay: the pool of relayed ports, and sending, at once or after the lab's delay."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import math
import resource
import socket
from collections import Counter
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

from commcli.relay.config import ConfigError

if TYPE_CHECKING:
    from commcli.relay.shaping import Shaper

Addr = Tuple[str, int]

MAX_DATAGRAM = 65535
# A busy socket must not keep the others waiting: this many datagrams, then the next socket's turn.
DRAIN = 64
# Holds a key frame's burst to every client while Python is busy; the kernel caps it at rmem_max.
SOCKET_BUFFER = 4 << 20
# Descriptors that allocations leave to everything else: the control socket, the files that are watched, ssh-keygen.
SPARE_DESCRIPTORS = 64
MAX_DESCRIPTORS = 1 << 17  # more than there are ports
# A port that is taken or forbidden says nothing of the next one; any other error would be the same for all of them.
_NEXT_PORT = (errno.EADDRINUSE, errno.EACCES)
# Held by the lab's delay at most; beyond it the "link" drops, as a router's queue does.
MAX_HELD = 50_000


def open_udp(address: str, port: int) -> socket.socket:
    """A bound, non-blocking UDP socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # A peer ::ffff:a.b.c.d must not make an IPv6 allocation a door into IPv4.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def raise_descriptor_limit() -> None:
    """Take as many descriptors as we may need: each allocation is a socket, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    # Refused in some containers: then it is as many as it is.
    with contextlib.suppress(ValueError, OSError):
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _descriptor_limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def waiting(sock: socket.socket, drops: "Counter[str]") -> List[Tuple[bytes, Addr]]:
    """Up to DRAIN datagrams that wait in `sock`, each with its source."""
    received: List[Tuple[bytes, Addr]] = []
    try:
        while len(received) < DRAIN:
            data, source = sock.recvfrom(MAX_DATAGRAM)
            received.append((data, source[:2]))
    except BlockingIOError:
        pass
    except OSError:
        # The ICMP error of an earlier send is reported here: nothing to read now.
        drops["receive_error"] += 1
    return received


def bound_udp(address: str, port: int) -> socket.socket:
    """`open_udp` for a port that the configuration names. Raises ConfigError."""
    try:
        return open_udp(address, port)
    except OSError as error:
        raise ConfigError(f"cannot bind UDP {address}:{port}: {error.strerror}") from error


class RelayPool:
    """The relayed transport addresses: an unpredictable free port for each allocation (RFC 8656 s. 7.2)."""

    TRIES = 64

    def __init__(
        self,
        address: str,
        ports: Tuple[int, int],
        below: Callable[[int], int],
        opened: Callable[[socket.socket], None],
        closed: Callable[[socket.socket], None],
    ) -> None:
        """`below(n)` gives a random int in 0..n-1; `opened`/`closed` tell the loop of each socket."""
        self.sockets: Dict[Addr, socket.socket] = {}
        self.errors: "Counter[str]" = Counter()  # why the system gave no socket, by errno's name
        self._most_descriptors = _descriptor_limit() - SPARE_DESCRIPTORS
        self._address, (self._low, self._high) = address, ports
        self._below, self._opened, self._closed = below, opened, closed

    def open(self) -> Optional[Addr]:
        """The new relayed address, or None when no port is free or the system has no socket for us."""
        try:
            return self._open()
        except OSError as error:
            # Out of descriptors or buffers, or our address is gone from its interface: this client is refused,
            # the calls that are up stay up.
            self.errors[errno.errorcode.get(error.errno or 0, "EUNKNOWN")] += 1
            return None

    def _open(self) -> Optional[Addr]:
        size = self._high - self._low + 1
        for _ in range(self.TRIES):
            port = self._low + self._below(size)
            if (self._address, port) not in self.sockets and (relay := self._bind(port)):
                return relay
        # A nearly full pool: random tries fail although ports are left, so walk it from a random start.
        start = self._below(size)
        for offset in range(size):
            port = self._low + (start + offset) % size
            if (self._address, port) not in self.sockets and (relay := self._bind(port)):
                return relay
        return None

    def _bind(self, port: int) -> Optional[Addr]:
        """The relayed address with this port, None if it is taken. Raises OSError when no port would do."""
        try:
            sock = open_udp(self._address, port)
        except OSError as error:
            if error.errno in _NEXT_PORT:
                return None
            raise
        try:
            # The lowest free number is given first, so the number says how many are in use.
            if sock.fileno() >= self._most_descriptors:
                raise OSError(errno.EMFILE, "too many allocations for this process")
            self._opened(sock)
        except OSError:
            sock.close()
            raise
        relay = (self._address, port)
        self.sockets[relay] = sock
        return relay

    def close(self, relay: Addr) -> None:
        """Give the port back."""
        sock = self.sockets.pop(relay)
        self._closed(sock)
        sock.close()


class Egress:
    """The way out to other machines: at once, or through the lab's shaper. Clients are never shaped."""

    def __init__(self, drops: "Counter[str]") -> None:
        self.shaper: "Optional[Shaper]" = None
        self.drops = drops
        self._held: List[Tuple[float, int, socket.socket, bytes, Addr]] = []
        self._order = itertools.count()

    def send(self, sock: socket.socket, data: bytes, to: Addr, now: float) -> None:
        """Send `data` from `sock`; a datagram that can not be sent is counted, never raised."""
        if self.shaper is None:
            self.send_now(sock, data, to)
            return
        release = self.shaper.release(to[0], len(data), now)
        if release is None:
            self.drops["lab_loss"] += 1
        elif release <= now:
            self.send_now(sock, data, to)
        elif len(self._held) >= MAX_HELD:
            self.drops["lab_queue_full"] += 1
        else:
            heapq.heappush(self._held, (release, next(self._order), sock, data, to))

    def send_now(self, sock: socket.socket, data: bytes, to: Addr) -> None:
        """Send without shaping."""
        try:
            sock.sendto(data, to)
        except BlockingIOError:
            self.drops["send_buffer_full"] += 1
        except OSError:
            # Unreachable, refused by a firewall, or the allocation closed while the lab held the packet.
            self.drops["send_error"] += 1

    def release(self, now: float) -> Optional[float]:
        """Send what is due; the time when the next one is, None when nothing waits."""
        held = self._held
        while held and held[0][0] <= now:
            _, _, sock, data, to = heapq.heappop(held)
            self.send_now(sock, data, to)
        return held[0][0] if held else None
