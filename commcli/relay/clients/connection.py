"""One client over TCP or TLS: its socket, its session, the frame that is coming in and those that wait to go out."""

from __future__ import annotations

import socket
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from commcli.relay.clients.backlog import Backlog
from commcli.relay.clients.framing import MAX_FRAME, MAX_REQUEST, MOST, FrameError, Frames
from commcli.relay.clients.tls import RECORD, Session, TlsError

Client = Tuple[Any, ...]  # (ip, port, "tcp" or "tls")

READ = 1 << 16
# Who has no allocation has only requests to send, and gets little of our time for them.
STRANGER_READ = 1 << 13
STRANGER_FRAMES = 4  # a turn
# The largest ClientHello with a post-quantum key is a few kB; we ask for no client certificate.
MAX_GREETING = 1 << 15

# Replies that wait for a client before it is no longer listened to: so it cannot ask for more than it reads.
PATIENCE = 1 << 17
# A client that reads as fast as we write must not keep the others waiting: this many writes, then the next one's turn.
WRITES = 4


class StreamLimits(NamedTuple):
    """What one client, and all that have no allocation, may cost a relay (`_s`: seconds).

    `half_open`: connections without an allocation, the TLS handshake unfinished or not; `handshake_s` and `idle_s`
    bound how long they stay. `frame_s`: how long a frame may take to come. A client's unread frames are bounded by
    `backlog_bytes` and, the media, by `stale_s`; one that reads nothing for `stalled_s` is closed. The shares are
    of the loop's time, for accepting and for TLS handshakes.
    """

    half_open: int = 1024
    half_open_per_source: int = 64
    handshake_s: float = 10.0
    idle_s: float = 30.0
    frame_s: float = 60.0
    stalled_s: float = 20.0
    backlog_bytes: int = 1 << 18
    stale_s: float = 2.0
    accept_share: float = 0.15
    handshake_share: float = 0.25


# One for all: what is read is copied out before the next read.
_buffer = memoryview(bytearray(READ))


class Gone(Exception):
    """The stream is over. `str(e)` is the counter of its reason, "" for an ordinary end."""


class Connection:
    """The socket is not blocking; every call raises Gone when the stream is over, and OSError never.

    `since`: when it came, or when its allocation ended. `held`: it has an allocation. `greeting`: bytes of the TLS
    handshake so far, None when there is none (any more). `partial_since`: since when a frame is incomplete.
    """

    __slots__ = (
        "backlog",
        "client",
        "dead",
        "events",
        "frames",
        "greeting",
        "held",
        "limits",
        "more",
        "partial_since",
        "queued",
        "session",
        "since",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        client: Client,
        session: Optional[Session],
        limits: StreamLimits,
        now: float,
    ) -> None:
        self.sock, self.client, self.session, self.limits = sock, client, session, limits
        self.since = now
        self.frames = Frames(MAX_REQUEST)
        self.greeting: Optional[int] = None if session is None else 0
        self.queued = False  # waits for its turn to go on with the handshake
        self.backlog: Optional[Backlog] = None
        self.partial_since: Optional[float] = None
        self.held = self.more = self.dead = False
        self.events = 0

    def hold(self) -> None:
        """It has an allocation: it may send media."""
        self.held = True
        self.frames.limit = MAX_FRAME

    def kept(self, now: float) -> Dict[str, Any]:
        """All of a connection without TLS for another process (JSON), but for its socket."""
        return {
            "client": self.client,
            "since_s": now - self.since,
            "held": self.held,
            "partial_s": None if self.partial_since is None else now - self.partial_since,
            "rest": self.frames.rest.hex(),
            "more": self.frames.more,
            "backlog": None if self.backlog is None else self.backlog.kept(now),
        }

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on with what another process `kept`. Raises ValueError, KeyError or TypeError."""
        self.since = now - kept["since_s"]
        if kept["held"]:
            self.hold()
        self.partial_since = None if kept["partial_s"] is None else now - kept["partial_s"]
        self.frames.put_back(bytes.fromhex(kept["rest"]), more=kept["more"])
        self.more = self.frames.more
        if kept["backlog"] is not None:
            self.backlog = Backlog(self.limits.backlog_bytes, self.limits.stale_s, now)
            self.backlog.take(kept["backlog"], now)

    # --- in ------------------------------------------------------------------------------------------------

    def greet(self) -> bool:
        """Go on with the TLS handshake; True when it is done. The reply is sent."""
        assert self.session is not None and self.greeting is not None
        data = self._recv(STRANGER_READ)
        self.greeting += len(data)
        if self.greeting > MAX_GREETING:
            raise Gone("tcp_tls_handshake")
        try:
            done = bool(data) and self.session.handshake(data)
        except TlsError:
            self._send(self.session.outgoing())  # an alert says why
            raise Gone("tcp_tls_handshake") from None
        if self._send(self.session.outgoing()):
            raise Gone("tcp_stalled")  # 10 kB do not fit an empty socket: this client reads nothing
        if done:
            self.greeting = None
            self.more = True  # its first frames may have come with the end of the handshake
        return done

    def read(self, now: float) -> List[bytes]:
        """The next whole frames. `more`: call again, before the socket is asked for readiness."""
        data = b"" if self.more else self._recv(READ if self.held else STRANGER_READ)
        try:
            found = self._split(data, now)
        except FrameError as error:
            raise Gone(f"tcp_junk_{error}") from None
        except TlsError:
            raise Gone("tcp_tls_broken") from None
        if not len(self.frames) or self.more:
            self.partial_since = None
        elif found or self.partial_since is None:
            self.partial_since = now
        return found

    def _split(self, data: bytes, now: float) -> List[bytes]:
        session, most = self.session, MOST if self.held else STRANGER_FRAMES
        if session is None:
            found = self.frames.feed(data, most)
            self.more = self.frames.more
        else:
            # First what is decrypted already.
            found = self.frames.feed(b"" if self.frames.more else b"".join(session.receive(data)), most)
            rest = session.outgoing()  # an answer of TLS itself: a new key, a refused renegotiation
            if rest:
                self._put(rest, now)
            if session.ended and not (found or session.more):
                raise Gone("")
            self.more = self.frames.more or session.more or session.ended
        return found

    def _recv(self, most: int) -> bytes:
        try:
            count = self.sock.recv_into(_buffer, most)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            raise Gone("tcp_reset") from None
        if not count:
            raise Gone("")  # also a half-closed stream: a TURN client with nothing more to say is gone
        return bytes(_buffer[:count])

    @property
    def listens(self) -> bool:
        """May more be read from this client? Not from one that lets its replies lie: its backlog is bounded so."""
        backlog = self.backlog
        return backlog is None or (self.held and backlog.unread <= PATIENCE)

    # --- out -----------------------------------------------------------------------------------------------

    def send(self, frame: bytes, now: float, *, later: bool = False) -> int:
        """Write at once if nothing waits and it is not to be `later`, else queue; how many old frames were dropped."""
        backlog = self.backlog
        if backlog is None:
            if not later:
                self._write(frame, now)
                return 0
            backlog = self.backlog = Backlog(self.limits.backlog_bytes, self.limits.stale_s, now)
        dropped = backlog.put(frame, now)
        self._check(backlog)
        return dropped

    def _write(self, frame: bytes, now: float) -> None:
        if self.session is None:
            rest = self._send(frame)
            if len(rest) == len(frame):  # untouched: it may still be dropped
                self.send(frame, now, later=True)
                return
        else:
            rest = self._send(self._sealed(self.session, frame))
        if rest:
            self._put(rest, now)

    def _put(self, rest: bytes, now: float) -> None:
        """`rest`, already begun or encrypted, goes out before all else that waits."""
        if self.backlog is None:
            self.backlog = Backlog(self.limits.backlog_bytes, self.limits.stale_s, now)
        self.backlog.start(self.backlog.started + rest)
        self._check(self.backlog)

    @staticmethod
    def _check(backlog: Backlog) -> None:
        if backlog.unread > backlog.limit:
            raise Gone("tcp_unread")

    def flush(self, now: float) -> int:
        """Write what waits, as much as the socket takes; how many stale frames were dropped."""
        backlog = self.backlog
        if backlog is None:
            return 0
        dropped = backlog.drop_stale(now)
        for _ in range(WRITES):
            batch = self._batch(backlog)
            count = self._send_all(batch) if batch else 0
            backlog.sent(count, now)
            if not len(backlog):
                self.backlog = None
                break
            if count < sum(map(len, batch)):
                break  # the socket is full
        return dropped

    def _batch(self, backlog: Backlog) -> List[bytes]:
        """What the socket is to take next. Encrypted only now, so that what is stale can be dropped until then."""
        if self.session is None:
            return backlog.batch()
        if not backlog.started:
            plain = b"".join(backlog.batch(RECORD))
            if not plain:
                return []
            backlog.sent(len(plain), backlog.moved)  # not by the client: it has taken nothing yet
            backlog.start(self._sealed(self.session, plain))
        return [backlog.started]

    @staticmethod
    def _sealed(session: Session, plain: bytes) -> bytes:
        try:
            session.seal(plain)
        except TlsError:
            raise Gone("tcp_tls_broken") from None
        return session.outgoing()

    def _send(self, data: bytes) -> bytes:
        """What the socket did not take."""
        return data[self._send_all([data]) :] if data else b""

    def _send_all(self, batch: List[bytes]) -> int:
        try:
            return self.sock.send(batch[0]) if len(batch) == 1 else self.sock.sendmsg(batch)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            raise Gone("tcp_reset") from None
