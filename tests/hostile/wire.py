"""A TURN client on real sockets: the client of tests.relay.turn_world, with a relay process at the far end.

Every client has a source address of its own (127.96.0.0/11), because a relay counts refusals a source address.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import ssl
from collections.abc import Iterator
from typing import cast

from commcli.relay.turn.server import Action
from commcli.relay.turn.stun import Addr
from tests.relay.turn_world import Client, World

TRANSPORTS = ("udp", "tcp", "tls")
# Only for what never comes; no test waits so long for what does. A retransmission is the same bytes again.
PATIENCE_S, TRIES = 3.0, 4

_numbers = itertools.count(1)


def fresh_source() -> str:
    """A loopback address that no other client of this process has."""
    number = next(_numbers)
    return f"127.{96 + os.getpid() % 30}.{number >> 8 & 255}.{number & 255}"


def connect(server: Addr, transport: str, source: str) -> socket.socket:
    """A connected socket; of TLS the handshake is done. Certificates of tests are not worth a look."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE_S)
        sock.bind((source, 0))
        sock.connect(server)
        if transport != "udp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if transport == "tls":
            return _trusting().wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Wire:
    """Carries a client's bytes to a relay process and brings its frames back: the World of a client of sockets."""

    def __init__(self, server: Addr, transport: str = "udp", source: str | None = None) -> None:
        source = source or ("::1" if ":" in server[0] else fresh_source())
        self.sock = connect(server, transport, source)
        self.framed = transport != "udp"
        self.arrived: list[bytes] = []  # frames that no request waited for
        self._unread = b""

    def reply(self, data: bytes, _client: object = None) -> bytes | None:
        """The reply to this request; None if none comes."""
        for _ in range(1 if self.framed else TRIES):
            self.sock.sendall(data)
            while (frame := self.receive()) is not None:
                if frame[0] & 0xC0 == 0 and frame[8:20] == data[8:20]:
                    return frame
                self.arrived.append(frame)
        return None

    def handle(self, data: bytes, _client: object = None) -> list[Action]:
        """Send what is not answered."""
        self.sock.sendall(data + bytes(-len(data) & 3) if self.framed else data)
        return []

    def receive(self) -> bytes | None:
        """The next frame; None if none comes or the relay has hung up."""
        try:
            return self._frame() if self.framed else self.sock.recv(65535)
        except OSError:
            return None

    def waiting(self) -> bytes | None:
        """A frame that is there already, None if there is none."""
        if self.arrived:
            return self.arrived.pop(0)
        self.sock.settimeout(0.02)
        try:
            return self.receive()
        finally:
            self.sock.settimeout(PATIENCE_S)

    def _frame(self) -> bytes | None:
        """One frame of a stream; ChannelData without its padding."""
        if not self._has(4):
            return None
        size = int.from_bytes(self._unread[2:4], "big")
        whole = 4 + size if self._unread[0] & 0xC0 else 20 + size
        padded = (whole + 3) & ~3
        if not self._has(padded):
            return None
        frame, self._unread = self._unread[:whole], self._unread[padded:]
        return frame

    def _has(self, size: int) -> bool:
        while len(self._unread) < size:
            chunk = self.sock.recv(65536)
            if not chunk:
                return False
            self._unread += chunk
        return True

    def close(self) -> None:
        self.sock.close()


class SocketClient(Client):
    """A TURN client of a relay process. What it sends to peers is not returned but goes there."""

    def __init__(
        self,
        server: Addr,
        transport: str = "udp",
        username: str = "alice",
        password: str = "wonder",
        source: str | None = None,
    ) -> None:
        self.wire = Wire(server, transport, source)
        addr: Addr = self.wire.sock.getsockname()[:2]
        # A client asks its world for `reply` and `handle` alone.
        super().__init__(cast(World, self.wire), username, password, addr, seed=next(_numbers))

    def hears(self) -> bytes | None:
        """The next frame that is no reply."""
        return self.wire.arrived.pop(0) if self.wire.arrived else self.wire.receive()


@contextlib.contextmanager
def a_client(
    server: Addr, transport: str = "udp", username: str = "alice", password: str = "wonder"
) -> Iterator[SocketClient]:
    """A client until the body ends; its allocation, if it made one, goes with it."""
    client = SocketClient(server, transport, username, password)
    try:
        yield client
        if client.nonce:
            client.refresh(0)
    finally:
        client.wire.close()
