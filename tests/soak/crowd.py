"""The crowd of a soak: clients that come, talk to each other and go, and strangers who mean harm, all on one beat."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import Counter, deque

from commcli.relay.turn import stun
from commcli.relay.turn.auth import time_limited_password
from tests.hostile.edges import OVERLAY, SECRET, STAMP, TURN, Edge
from tests.hostile.wire import SocketClient, connect, fresh_source
from tests.relay.turn_world import UDP_TRANSPORT

TRANSPORTS = ("udp", "udp", "udp", "udp", "udp", "udp", "udp", "tcp", "tcp", "tls")
CHANNEL = 0x4000
PAYLOAD = 200
JUNK, FORGED = 10, 25  # a beat
LORISES = 120
MEDIA_EVERY = 5  # beats


class Caller(SocketClient):
    """A client with an allocation and a channel to whoever was there before it."""

    def __init__(self, edge: Edge, transport: str, name: str) -> None:
        username = f"{int(time.time()) + 3600}:{name}"
        password = time_limited_password(SECRET, username)
        super().__init__(edge.server(transport), transport, username, password)
        self.transport, self.sent, self.heard = transport, 0, 0
        self.linked = False

    def call(self, other: Caller) -> bool:
        """Bind channels to each other; whether both could."""
        mine, theirs = self.bind(CHANNEL, other.relay), other.bind(CHANNEL, self.relay)
        self.linked = other.linked = mine.code is None and theirs.code is None
        return self.linked

    def come(self, *wishes: stun.Attribute) -> int | None:
        """Allocate; the error code."""
        reply = self.allocate(*wishes)
        if reply.code is None:
            self.relay = reply.relayed
        return reply.code

    def talk(self) -> None:
        if self.linked:
            self.channel(CHANNEL, bytes(PAYLOAD))
            self.sent += 1

    def listen(self) -> None:
        """Take in what has come."""
        self.heard += len(self.wire.arrived)
        self.wire.arrived.clear()
        self.wire.sock.settimeout(0)
        while self.wire.receive() is not None:
            self.heard += 1
        self.wire.sock.settimeout(3.0)


class Callers:
    """About `most` of them, in pairs."""

    def __init__(self, edge: Edge, most: int, chance: random.Random) -> None:
        self.edge, self.most, self.chance = edge, most, chance
        self.here: deque[tuple[Caller, Caller]] = deque()
        self.counts: Counter[str] = Counter()
        self._names = 0

    def come(self) -> None:
        """A pair arrives, if there is room."""
        if 2 * len(self.here) >= self.most:
            return
        pair = self._one(), self._one()
        wish: list[stun.Attribute] = [(stun.EVEN_PORT, b"\x80")] if self.chance.random() < 0.2 else []
        codes = [caller.come(*wish) for caller in pair]
        if codes == [None, None] and pair[0].call(pair[1]):
            self.here.append(pair)
            self.counts["came"] += 2
            return
        self.counts["refused"] += 1
        for caller in pair:
            caller.wire.close()

    def _one(self) -> Caller:
        self._names += 1
        return Caller(self.edge, self.chance.choice(TRANSPORTS), f"user-{self._names}")

    def go(self, *, politely: bool) -> None:
        """The oldest pair leaves: with a word, or just so. Of a stream both end the allocation."""
        if not self.here:
            return
        for caller in self.here.popleft():
            if (politely or (caller.transport == "udp" and self.chance.random() < 0.8)) and caller.refresh(
                0
            ).code:
                self.counts["refused"] += 1
            caller.listen()
            self.counts["sent"] += caller.sent
            self.counts["heard"] += caller.heard
            caller.wire.close()

    def talk(self, beat: int) -> None:
        for number, pair in enumerate(self.here):
            if (number + beat) % MEDIA_EVERY == 0:
                for caller in pair:
                    caller.talk()
                    caller.listen()


class Strangers:
    """Junk and forged Allocates from ever new sources, and connections that begin and never end."""

    def __init__(self, edge: Edge, chance: random.Random) -> None:
        self.edge, self.chance = edge, chance
        self.lorises: deque[socket.socket] = deque()

    def beat(self) -> None:
        for _ in range(JUNK):
            port = self.chance.choice((TURN, OVERLAY, STAMP))
            self._throw(self.chance.randbytes(self.chance.randrange(300)), port)
        for number in range(FORGED):
            attributes = [
                UDP_TRANSPORT, (stun.USERNAME, b"user-%d" % number), (stun.REALM, b"lab"),
                (stun.NONCE, self.chance.randbytes(9).hex().encode()),
            ]  # fmt: skip
            key = self.chance.choice([None, b"a guess"])
            self._throw(
                stun.build(stun.ALLOCATE, stun.REQUEST, self.chance.randbytes(12), attributes, key=key), TURN
            )
        self._loris()

    def _throw(self, data: bytes, port: int) -> None:
        with contextlib.suppress(OSError), connect((self.edge.address, port), "udp", fresh_source()) as sock:
            sock.send(data)

    def _loris(self) -> None:
        if len(self.lorises) >= LORISES:
            self.lorises.popleft().close()
        with contextlib.suppress(OSError):
            sock = connect(self.edge.server(self.chance.choice(("tcp", "tls"))), "tcp", fresh_source())
            self.lorises.append(sock)
            sock.send(
                self.chance.choice(
                    (b"\0\3\0\x08\x21\x12", b"\x16\x03\x01\x02\0\1", b"GET / HTTP/1.1\r\n", b"")
                )
            )
        sock = self.chance.choice(self.lorises)
        with contextlib.suppress(OSError):
            sock.send(b"\0")  # one more byte of whatever it was

    def go(self) -> None:
        while self.lorises:
            self.lorises.popleft().close()
