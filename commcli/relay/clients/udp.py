"""UDP sockets of the relay: batches in and out, the pool of relayed ports, and the lab's delay.

The kernel costs most of a relayed packet, so packets that came together leave together: UDP_GRO hands over a train of
them at once, UDP_SEGMENT takes one (udp(7)). Plain calls where the kernel or the path says no.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import math
import resource
import socket
import sys
from collections import Counter
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Literal,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from commcli.relay.config import ConfigError
from commcli.relay.turn import stun

if TYPE_CHECKING:
    from commcli.relay.shaping import Shaper

Addr = Tuple[str, int]

MAX_DATAGRAM = 65535
# A busy socket must not keep the others waiting: this many datagrams, then the next socket's turn.
DRAIN = 64
GROWTH = 4
# Holds a key frame's burst to every client while Python is busy; the kernel caps it at rmem_max.
SOCKET_BUFFER = 4 << 20
# Descriptors that allocations leave to everything else: the control socket, the files that are watched, ssh-keygen.
SPARE_DESCRIPTORS = 64
MAX_DESCRIPTORS = 1 << 17  # more than there are ports
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h; the socket module does not know them
MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of every kernel that has them
MAX_TRAIN = 65_000  # bytes
UNSPLIT = 1 << 16  # longer than any datagram
ANCILLARY = socket.CMSG_SPACE(4)
SO_MEMINFO, MEMINFO_DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h
# linux/in.h, linux/in6.h: level and option IP_MTU_DISCOVER; and how to leave DF out. Over IPv4 ICMP is not believed,
# since routers cut what is too long. Over IPv6 only the sender can, so it must learn what is too long.
MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 5),  # IP_PMTUDISC_OMIT
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 0),  # IPV6_PMTUDISC_DONT
}
PMTUDISC_DONT, PMTUDISC_PROBE = 0, 3
# A port that is taken or forbidden says nothing of the next one; any other error would be the same for all of them.
_NEXT_PORT = (errno.EADDRINUSE, errno.EACCES)
# Held by the lab's delay at most; beyond it the "link" drops, as a router's queue does.
MAX_HELD = 50_000


def open_udp(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound, non-blocking UDP socket, `shared` by several processes (SO_REUSEPORT). Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # A peer ::ffff:a.b.c.d must not make an IPv6 allocation a door into IPv4.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


# Of one datagram or train: the bytes, the control messages, the flags, the source (with more to it in IPv6).
Received = Tuple[bytes, List[Any], int, Any]


class BatchSocket:
    """A UDP socket that reads no more often than it has to, and sends trains."""

    __slots__ = ("_budget", "_last", "_receive", "_run", "_segment", "_sendto", "drops", "sock")

    def __init__(self, sock: socket.socket, drops: "Counter[str]") -> None:
        self.sock, self.drops = sock, drops
        self._budget, self._last, self._run = 1, -2, 0
        self._receive, self._sendto = sock.recvmsg, sock.sendto
        self._segment = UNSPLIT  # what is longer than this the kernel splits
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

    def read(self, turn: int) -> "List[Received]":
        """What waits, as `recvmsg` gives it. `turn`: the number of the loop's turn.

        Asking an empty socket costs as much as reading a full one. So as many are asked for as came together last
        time, and more only if some were left behind: then the socket is ready again in the very next turn.
        """
        budget, receive, before = self._budget, self._receive, 0
        if turn == self._last + 1:
            before = self._run
            budget = min(budget * GROWTH, DRAIN)
        received: "List[Received]" = []
        try:
            if budget == 1:  # the usual case, and the one whose cost counts
                received = [receive(MAX_DATAGRAM, ANCILLARY)]
                if received[0][1]:
                    budget = _datagrams(received[0])
            else:
                count = 0
                while count < budget:  # datagrams, however many of them come as one train
                    got = receive(MAX_DATAGRAM, ANCILLARY)
                    received.append(got)
                    count += _datagrams(got) if got[1] else 1
        except BlockingIOError:
            budget = min(before + len(received), DRAIN) or 1
        except OSError:
            # The ICMP error of an earlier send is reported here: nothing to read now.
            self.drops["receive_error"] += 1
        self._last, self._run, self._budget = turn, before + len(received), budget
        return received

    def send(self, data: bytes, to: Addr) -> None:
        """Send one datagram; one that can not be sent is counted, never raised."""
        if len(data) > self._segment:
            self.whole()
        try:
            self._sendto(data, to)
        except BlockingIOError:
            self.drops["send_buffer_full"] += 1
        except OSError:
            if self._segment != UNSPLIT:
                # Where trains are split nothing is fragmented, not even what is a datagram by itself.
                self.whole()
                self.send(data, to)
                return
            # Unreachable, refused by a firewall, or the allocation closed while the lab held the packet.
            self.drops["send_error"] += 1

    def send_all(self, datagrams: Sequence[bytes], to: Addr) -> None:
        """Send datagrams; those of one length (the last may be shorter) with one call, if the kernel takes it."""
        count = len(datagrams)
        if count == 1:
            self.send(datagrams[0], to)
            return
        at = 0
        while at < count:
            size = len(datagrams[at])
            end, most = at + 1, min(count, at + min(MAX_SEGMENTS, MAX_TRAIN // (size or MAX_TRAIN)))
            while end < most and len(datagrams[end]) == size:
                end += 1
            if end < most and 0 < len(datagrams[end]) < size:
                end += 1
            if end - at == 1:
                self.send(datagrams[at], to)
            else:
                self._send_train(b"".join(datagrams[at:end]), size, to)
            at = end

    def send_train(self, train: bytes, size: int, to: Addr) -> None:
        """Send datagrams of `size` bytes, of which the last may be shorter, that stand one behind the other."""
        at, step = 0, min(MAX_SEGMENTS, MAX_TRAIN // size or 1) * size
        while at < len(train):
            self._send_train(train[at : at + step], size, to)
            at += step

    def _send_train(self, train: bytes, size: int, to: Addr) -> None:
        try:
            if size != self._segment:
                # Set on the socket and not on each train: a control message costs Python more than this call.
                self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
                self._segment = size
            self._sendto(train, to)
            return
        except BlockingIOError:
            self.drops["send_buffer_full"] += -(-len(train) // size)
            return
        except OSError:
            # The kernel, the interface or the path's MTU says no: one by one they may be fragmented.
            self.whole()
        for at in range(0, len(train), size):
            self.send(train[at : at + size], to)

    def may_be_cut(self) -> None:
        """From now on routers may fragment what leaves (no DF), whatever ICMP says: all but probes."""
        level, option, value = MTU_DISCOVER[self.sock.family]
        try:
            self.sock.setsockopt(level, option, value)
        except OSError:  # a kernel before 3.14
            self.sock.setsockopt(level, option, PMTUDISC_DONT)

    def probe(self, data: bytes, to: Addr) -> bool:
        """Send one datagram that must arrive whole (DF); False if our own interface can not take it, then counted.

        What leaves afterwards is as before.
        """
        self.whole()  # a split probe would prove nothing
        level, option, _ = MTU_DISCOVER[self.sock.family]
        before = self.sock.getsockopt(level, option)
        self.sock.setsockopt(level, option, PMTUDISC_PROBE)
        try:
            self._sendto(data, to)
        except BlockingIOError:
            self.drops["send_buffer_full"] += 1
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self.drops["probe_too_big"] += 1
                return False
            self.drops["send_error"] += 1
        finally:
            self.sock.setsockopt(level, option, before)
        return True

    def whole(self) -> None:
        """Let the next datagrams leave as they are, however long."""
        if self._segment != UNSPLIT:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            self._segment = UNSPLIT


def train_size(ancillary: List[Any]) -> int:
    """The length of the datagrams of a train that UDP_GRO made, 0 for a single datagram."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            return int.from_bytes(value, sys.byteorder)
    return 0


def _datagrams(received: Received) -> int:
    size = train_size(received[1])
    return -(-len(received[0]) // size) if size else 1


def split(data: bytes, ancillary: List[Any]) -> Sequence[bytes]:
    """The datagrams of what `BatchSocket.read` gave: one, or those of a train that UDP_GRO made."""
    size = train_size(ancillary)
    return [data[at : at + size] for at in range(0, len(data), size)] if size else (data,)


def bound_udp(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """`open_udp` for a port that the configuration names. Raises ConfigError."""
    try:
        return open_udp(address, port, shared=shared)
    except OSError as error:
        raise ConfigError(f"cannot bind UDP {address}:{port}: {error.strerror}") from error


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket, mostly because its buffer was full."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (MEMINFO_DROPS + 1))
        return int.from_bytes(info[4 * MEMINFO_DROPS :], sys.byteorder)
    except OSError:
        return 0


class RelayPool:
    """The relayed transport addresses: an unpredictable free port for each allocation (RFC 8656 s. 7.2)."""

    TRIES = 64
    # Ports that other programs hold cost a system call each to find out.
    MOST_TAKEN = 256

    def __init__(
        self,
        addresses: Sequence[str],
        ports: Tuple[int, int],
        below: Callable[[int], int],
        opened: Callable[[Addr, socket.socket], None],
        closed: Callable[[Addr, socket.socket], None],
        slice_: Tuple[int, int] = (0, 1),
        bound: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`addresses`: one a family. `below(n)` gives a random int in 0..n-1; `opened`/`closed` tell the loop.

        `slice_` (k, n): of every n pairs of ports the k-th, so that n processes share the range. `bound`: of an
        address that is not the machine's own, the one to bind.
        """
        self._bound = bound
        self.sockets: Dict[Addr, socket.socket] = {}
        # Is it kept for somebody, although it is not bound?
        self.is_held: Callable[[Addr], bool] = lambda _relay: False
        self.errors: "Counter[str]" = Counter()  # why the system gave no socket, by errno's name
        self._most_descriptors = _descriptor_limit() - SPARE_DESCRIPTORS
        self._addresses = {_family(address): address for address in addresses}
        low, high = ports
        mine: Sequence[int] = range(low, high + 1)
        even: Sequence[int] = range(low + (low & 1), high + 1, 2)
        if slice_ != (0, 1):
            part, parts = slice_
            mine, even = ([port for port in some if (port >> 1) % parts == part] for some in (mine, even))
        self._ports = {"any": mine, "even": even, "pair": even[:-1] if even and even[-1] == high else even}
        self._below, self._opened, self._closed = below, opened, closed

    def open(self, family: int, kind: Literal["any", "even", "pair"] = "any") -> List[Addr]:
        """The new relayed address, with "pair" the next port's too; [] when none is free or no socket to be had."""
        address = self._addresses[family]
        try:
            tries = 0
            for port in self._candidates(address, self._ports[kind]):
                if kind == "pair" and (address, port + 1) in self.sockets:
                    continue
                opened = self._bind(address, port, 2 if kind == "pair" else 1)
                if opened:
                    return opened
                tries += 1
                if tries >= self.MOST_TAKEN:
                    break
        except OSError as error:
            # Out of descriptors or buffers, or our address is gone from its interface: this client is refused,
            # the calls that are up stay up.
            self.errors[errno.errorcode.get(error.errno or 0, "EUNKNOWN")] += 1
        return []

    def _candidates(self, address: str, ports: Sequence[int]) -> Iterator[int]:
        """Ports that we have not taken: random ones first, then all of them."""
        if not ports:
            return
        for _ in range(self.TRIES):
            port = ports[self._below(len(ports))]
            if (address, port) not in self.sockets:
                yield port
        # A nearly full pool: random tries fail although ports are left, so walk it from a random start.
        start = self._below(len(ports))
        for offset in range(len(ports)):
            port = ports[(start + offset) % len(ports)]
            if (address, port) not in self.sockets:
                yield port

    def _bind(self, address: str, port: int, count: int) -> List[Addr]:
        """Relayed addresses with `count` ports from here on, [] if one is taken. Raises OSError when none would do."""
        opened: List[Addr] = []
        try:
            for number in range(port, port + count):
                if self.is_held((address, number)) or not self._bind_one(address, number):
                    break
                opened.append((address, number))
        except OSError:
            self._close_all(opened)
            raise
        if len(opened) == count:
            return opened
        self._close_all(opened)
        return []

    def take(self, relay: Addr) -> bool:
        """Bind this very port, whoever's slice it is in and whether it is held or not; False if that can not be."""
        try:
            return self._bind_one(*relay)
        except OSError as error:
            self.errors[errno.errorcode.get(error.errno or 0, "EUNKNOWN")] += 1
            return False

    def adopt(self, relay: Addr, sock: socket.socket) -> None:
        """Go on with a socket that another process has bound. Raises OSError."""
        self._opened(relay, sock)
        self.sockets[relay] = sock

    def _bind_one(self, address: str, port: int) -> bool:
        if (address, port) in self.sockets:
            return False
        try:
            sock = open_udp(self._bound.get(address, address), port)
        except OSError as error:
            if error.errno in _NEXT_PORT:
                return False
            raise
        try:
            # The lowest free number is given first, so the number says how many are in use.
            if sock.fileno() >= self._most_descriptors:
                raise OSError(errno.EMFILE, "too many allocations for this process")
            self._opened((address, port), sock)
        except OSError:
            sock.close()
            raise
        self.sockets[address, port] = sock
        return True

    def _close_all(self, relays: List[Addr]) -> None:
        for relay in relays:
            self.close(relay)

    def close(self, relay: Addr) -> None:
        """Give the port back."""
        sock = self.sockets.pop(relay)
        self._closed(relay, sock)
        sock.close()


def _family(address: str) -> int:
    return stun.IPV6 if ":" in address else stun.IPV4


class Egress:
    """The way out to other machines: at once, or through the lab's shaper. Clients come by lastmile.py."""

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
