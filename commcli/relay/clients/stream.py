"""TURN over TCP and TLS to the client (RFC 8656 section 2.1): listeners, their connections, and the limits on both.

A client that is slow, silent or hostile costs only itself: what it may leave unread or unfinished is bounded
(connection.py), strangers together are bounded and the oldest of them gives way (admission.py), and the time for
accepting and for TLS handshakes is a share of the loop's. A client with an allocation never gives way to anybody.
"""

from __future__ import annotations

import errno
import math
import resource
import select
import socket
import struct
import time
from collections import Counter, OrderedDict
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from commcli.relay.clients.admission import HalfOpen, Share, source_of
from commcli.relay.clients.connection import Client, Connection, Gone, StreamLimits
from commcli.relay.clients.tls import Certificates, Session
from commcli.relay.config import ConfigError

__all__ = ["Client", "Handlers", "StreamLimits", "Streams", "bound_tcp"]

BACKLOG = 1024
# In all, the kernel's part of a client's unread data: enough for 10 Mbit/s over 300 ms, and no megabytes of the past.
SOCKET_BUFFER = 1 << 18
# Of that, what is not on its way yet: it can no longer be dropped when it gets stale.
NOT_SENT = 1 << 15
ACCEPTS = 16  # a turn of the loop
# Work that is saved up for a burst: half of a tick.
BURST_S = 0.01
ACCEPT_S, HANDSHAKE_S = 0.00004, 0.0004  # what these cost at least, whatever the clock says
EXHAUSTED_S = 0.5  # out of descriptors or memory: the listener rests, it would only spin
SPARE_DESCRIPTORS = 32
SWEEP_S = 1.0  # in which every connection is looked at once
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_IN_ORDER = (
    "",
    "tcp_tls_handshake",
)  # ends after which the client may read what was sent: TLS says why in an alert
_BROKEN = select.EPOLLHUP | select.EPOLLERR


class Handlers(Protocol):
    """Who is asked and told. None of it is called while another of it runs."""

    def frames(self, client: Client, frames: List[bytes], now: float) -> None:
        """Whole frames came, in order."""

    def closed(self, client: Client) -> None:
        """The stream is gone (also after `drop`)."""

    def holds(self, client: Client) -> bool:
        """Has this client an allocation?"""


class Poller(Protocol):
    """What is needed of loop.Loop."""

    def add(self, sock: socket.socket, callback: Callable[[int], None], events: int = ...) -> None: ...

    def change(self, sock: socket.socket, events: int) -> None: ...

    def remove(self, sock: socket.socket) -> None: ...


def bound_tcp(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening, non-blocking TCP socket; `shared` by several processes (SO_REUSEPORT). Raises ConfigError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot bind TCP {address}:{port}: {error.strerror}") from error
    return sock


class _Listener:
    __slots__ = ("certificates", "rests_until", "sock", "transport")

    def __init__(self, sock: socket.socket, transport: str, certificates: Optional[Certificates]) -> None:
        self.sock, self.transport, self.certificates = sock, transport, certificates
        self.rests_until: Optional[float] = None


class Streams:
    """All stream clients of a relay. The loop calls `tick`, the relay calls `send` and `drop`.

    Connections are closed at the end of a turn, never inside `send`: who sends may be in the middle of something
    that needs the client's allocation.
    """

    def __init__(
        self,
        loop: Poller,
        handlers: Handlers,
        drops: "Counter[str]",
        limits: Optional[StreamLimits] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`drops` counts by reason, all of them "tcp_...", TLS too."""
        self._loop, self._handlers, self._drops, self._clock = loop, handlers, drops, clock
        self._limits = limits = StreamLimits() if limits is None else limits
        self._listeners: List[_Listener] = []
        self._connections: Dict[Client, Connection] = {}
        descriptors = _descriptor_limit()
        strangers = int(min(limits.half_open, max(1, descriptors / 4)))
        self._most_descriptors = descriptors - SPARE_DESCRIPTORS
        self._half_open: "HalfOpen[Connection]" = HalfOpen(strangers, limits.half_open_per_source)
        now = clock()
        self._accepting = Share(limits.accept_share, BURST_S, ACCEPT_S, now)
        self._greeting = Share(limits.handshake_share, BURST_S, HANDSHAKE_S, now)
        self._handshakes = 0
        self._queue: "OrderedDict[Connection, None]" = OrderedDict()  # handshakes that wait for their share
        # Connections of which more is here than one turn's portion. No event of theirs would tell, so a socket that is
        # always ready stands for them.
        self._pending: "OrderedDict[Connection, None]" = OrderedDict()
        self._waker, self._wake = socket.socketpair()
        self._wake.send(b"!")
        loop.add(self._waker, self._go_on, 0)
        self._corked: Optional[Connection] = None
        self._doomed: List[Tuple[Connection, bool]] = []
        self._round: List[Connection] = []
        self._swept = now
        self._totals = Counter(accepted=0, handshakes_done=0)

    def listen(self, sock: socket.socket, transport: str, tls: Optional[Certificates] = None) -> None:
        """Take clients in on a listening, non-blocking socket; "tls" needs certificates."""
        if (transport == "tls") != (tls is not None):
            raise ValueError("certificates are for TLS, and TLS needs them")
        # What is accepted inherits these. A buffer must be set before the handshake to count for the window's scale.
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        listener = _Listener(sock, transport, tls)
        self._listeners.append(listener)
        self._loop.add(sock, partial(self._accept, listener), select.EPOLLIN)

    def send(self, client: Client, data: bytes) -> None:
        """Write a whole frame, at once or when the client reads on."""
        self.send_all(client, (data,))

    def send_all(self, client: Client, frames: Sequence[bytes]) -> None:
        """Write whole frames, all of them at once or when the client reads on."""
        connection = self._connections.get(client)
        if connection is None or connection.dead or connection.greeting is not None:
            self._count("tcp_gone", len(frames))
            return
        # While its own frames are handled the replies are gathered: one write for all of them.
        gathering = connection is self._corked
        later, dropped, now = gathering or len(frames) > 1, 0, self._clock()
        try:
            for frame in frames:
                dropped += connection.send(frame, now, later=later)
            if later and not gathering:
                self._count("tcp_stale", connection.flush(now))
        except Gone as gone:
            self._doom(connection, str(gone))
        self._count("tcp_backlog", dropped)
        if not gathering and (connection.backlog is not None or connection.events & select.EPOLLOUT):
            self._settle(connection)

    def drop(self, client: Client) -> None:
        """Close this client's stream, at the end of the turn; `closed` tells of it."""
        connection = self._connections.get(client)
        if connection is not None:
            self._doom(connection, "")

    def tick(self, now: float) -> None:
        """Timeouts, and what had to wait for its share of the time. Call it every 20 ms or so."""
        for listener in self._listeners:
            if listener.rests_until is not None and now >= listener.rests_until:
                listener.rests_until = None
                self._loop.change(listener.sock, select.EPOLLIN)
        while self._queue and self._greeting.allows(now):
            connection, _ = self._queue.popitem(last=False)
            connection.queued = False
            self._ready(connection, select.EPOLLIN)
        self._sweep(now)
        self._reap()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def close(self) -> None:
        """Close every socket. Nobody is told: the relay ends."""
        listeners = [listener.sock for listener in self._listeners]
        for sock in (self._waker, *listeners, *(row.sock for row in self._connections.values())):
            self._loop.remove(sock)
            sock.close()
        self._wake.close()
        self._listeners.clear()
        self._connections.clear()

    def kept(self, now: float, put: Callable[[socket.socket], int]) -> Dict[str, Any]:
        """All connections but those of TLS, and the totals, for another process (JSON).

        `put(sock)` hands a socket over and gives the number that `take` finds it by. Nothing changes here.
        """
        self._reap()
        plain = [connection for connection in self._connections.values() if connection.session is None]
        rows = [{**connection.kept(now), "sock": put(connection.sock)} for connection in plain]
        return {"connections": rows, "totals": self._totals}

    def take(self, kept: Mapping[str, Any], sock_of: Callable[[int], socket.socket], now: float) -> None:
        """Go on with the connections that another process `kept`; `sock_of` gives the socket of a number.

        Raises what `Connection.take` does, and OSError.
        """
        self._totals.update(kept["totals"])
        for row in kept["connections"]:
            sock, client = sock_of(row["sock"]), tuple(row["client"])
            connection = Connection(sock, client, None, self._limits, now)
            connection.take(row, now)
            self._loop.add(sock, partial(self._ready, connection), select.EPOLLIN)
            connection.events = select.EPOLLIN
            self._connections[client] = connection
            if not connection.held:
                self._make_stranger(connection)
            self._settle(connection)

    def figures(self) -> Dict[str, int]:
        """Now: open connections, in all and by transport, those without an allocation, and TLS handshakes. Since the
        start: "accepted" and "handshakes_done"."""
        tls = sum(client[2] == "tls" for client in self._connections)
        return {
            "open": len(self._connections),
            "open_tcp": len(self._connections) - tls,
            "open_tls": tls,
            "half_open": len(self._half_open),
            "handshakes": self._handshakes,
            **self._totals,
        }

    # --- coming --------------------------------------------------------------------------------------------

    def _accept(self, listener: _Listener, _events: int) -> None:
        for _ in range(ACCEPTS):
            now = self._clock()
            if not self._accepting.allows(now):
                self._rest(listener, now)  # until the next tick
                break
            try:
                sock, address = listener.sock.accept()
            except BlockingIOError:
                break
            except OSError as error:
                self._count("tcp_accept_error")
                if error.errno in _EXHAUSTED:
                    self._rest(listener, now + EXHAUSTED_S)
                    break
                continue  # that client was gone before we came to it
            if sock.fileno() >= self._most_descriptors:
                # The lowest free number is given first: this few are left for the operator's socket and the files.
                self._count("tcp_accept_error")
                sock.close()
                self._rest(listener, now + EXHAUSTED_S)
                break
            self._admit(listener, sock, address, now)
            self._accepting.spend(self._clock() - now)
        self._reap()

    def _rest(self, listener: _Listener, until: float) -> None:
        listener.rests_until = until
        self._loop.change(listener.sock, 0)

    def _admit(
        self, listener: _Listener, sock: socket.socket, address: Tuple[object, ...], now: float
    ) -> None:
        context = None if listener.certificates is None else listener.certificates.context
        if listener.certificates is not None and context is None:
            self._count("tcp_no_certificate")
            sock.close()
            return
        sock.setblocking(False)
        client: Client = (address[0], address[1], listener.transport)
        old = self._connections.get(client)
        if old is not None:
            # The kernel has given its 5-tuple away, so it is long gone; we were not told yet.
            self._doom(old, "tcp_reset")
            self._reap()
        session = None if context is None else Session(context)
        connection = Connection(sock, client, session, self._limits, now)
        try:
            self._loop.add(sock, partial(self._ready, connection), select.EPOLLIN)
        except OSError:
            self._count("tcp_accept_error")
            sock.close()
            return
        connection.events = select.EPOLLIN
        self._totals["accepted"] += 1
        self._handshakes += session is not None
        self._connections[client] = connection
        self._make_stranger(connection)

    def _make_stranger(self, connection: Connection) -> None:
        gone = self._half_open.enter(connection, source_of(connection.client[0]))
        if gone is not None:
            self._doom(gone, "tcp_half_open")

    # --- staying -------------------------------------------------------------------------------------------

    def _ready(self, connection: Connection, events: int) -> None:
        if connection.dead:
            return
        now = self._clock()
        try:
            if connection.greeting is not None:
                self._greet(connection, events, now)
            else:
                if connection.backlog is not None:
                    self._count("tcp_stale", connection.flush(now))
                if connection.listens and events & ~select.EPOLLOUT:
                    self._receive(connection, now)
        except Gone as gone:
            self._doom(connection, str(gone))
        finally:
            self._settle(connection)
            self._reap()

    def _go_on(self, _events: int) -> None:
        """One more portion of one connection; then others have their turn."""
        if self._pending:
            connection, _ = self._pending.popitem(last=False)
            self._ready(connection, select.EPOLLIN)
        if not self._pending:
            self._loop.change(self._waker, 0)

    def _greet(self, connection: Connection, events: int, now: float) -> None:
        if connection.queued:
            if events & _BROKEN and _is_dead(connection.sock):
                raise Gone("tcp_reset")
        elif not self._greeting.allows(now):
            connection.queued = True
            self._queue[connection] = None
        else:
            try:
                done = connection.greet()
            finally:
                self._greeting.spend(self._clock() - now)
            if done:
                self._handshakes -= 1
                self._totals["handshakes_done"] += 1
                self._receive(connection, now)

    def _receive(self, connection: Connection, now: float) -> None:
        frames = connection.read(now)
        if not frames:
            return
        self._corked = connection
        try:
            self._handlers.frames(connection.client, frames, now)
        finally:
            self._corked = None
        if not connection.held and not connection.dead and self._handlers.holds(connection.client):
            self._half_open.leave(connection)
            connection.hold()
        if connection.backlog is not None:
            self._count("tcp_stale", connection.flush(now))

    def _settle(self, connection: Connection) -> None:
        """Wait for what this connection needs next."""
        if connection.dead:
            return
        if connection.greeting is not None:
            events = 0 if connection.queued else select.EPOLLIN
        else:
            events = 0 if connection.backlog is None else select.EPOLLOUT
            if connection.listens and not connection.more:
                events |= select.EPOLLIN
            elif connection.listens:
                if not self._pending:
                    self._loop.change(self._waker, select.EPOLLIN)
                self._pending[connection] = None
        if events != connection.events:
            connection.events = events
            self._loop.change(connection.sock, events)

    def _sweep(self, now: float) -> None:
        """Look at a part of all connections, so that ten thousand of them do not hold up a turn."""
        if not self._round:
            self._round = list(self._connections.values())
        share = len(self._connections) * (now - self._swept) / SWEEP_S
        if share < 1:
            if not self._connections:
                self._swept = now
            return
        self._swept = now
        for connection in self._round[-math.ceil(share) :]:
            if not connection.dead:
                self._judge(connection, now)
        del self._round[-math.ceil(share) :]

    def _judge(self, connection: Connection, now: float) -> None:
        limits, backlog, since = self._limits, connection.backlog, connection.partial_since
        if backlog is not None and now - backlog.moved >= limits.stalled_s:
            self._doom(connection, "tcp_stalled")
        elif since is not None and now - since >= limits.frame_s:
            self._doom(connection, "tcp_frame_slow")
        elif connection.held:
            if not self._handlers.holds(connection.client):
                connection.held = False
                connection.since = now
                self._make_stranger(connection)
        elif connection.greeting is not None and now - connection.since >= limits.handshake_s:
            self._doom(connection, "tcp_handshake_slow")
        elif now - connection.since >= limits.idle_s:
            self._doom(connection, "tcp_idle")

    # --- going ---------------------------------------------------------------------------------------------

    def _count(self, reason: str, count: int = 1) -> None:
        if count:
            self._drops[reason] += count

    def _doom(self, connection: Connection, reason: str) -> None:
        if connection.dead:
            return
        connection.dead = True
        self._half_open.leave(connection)
        self._queue.pop(connection, None)
        self._pending.pop(connection, None)
        self._doomed.append((connection, reason not in _IN_ORDER))
        if reason:
            self._drops[reason] += 1

    def _reap(self) -> None:
        """Close the doomed. Not inside another handler: it may be in the middle of this client's allocation."""
        while self._doomed:
            connection, reset = self._doomed.pop()
            del self._connections[connection.client]
            self._handshakes -= connection.greeting is not None
            self._loop.remove(connection.sock)
            if reset:
                # What it has not read is worth nothing, and must not stay in the kernel until it does.
                linger = struct.pack("ii", 1, 0)
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sock.close()
            self._handlers.closed(connection.client)


def _is_dead(sock: socket.socket) -> bool:
    """Has this connected socket lost its connection? An event may be of the socket that had its number before."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def _descriptor_limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
