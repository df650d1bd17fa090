"""Streams on real loopback sockets, with a clock that only moves when the test says so."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commcli.relay.clients.connection import Client, StreamLimits
from commcli.relay.clients.stream import Streams, bound_tcp
from commcli.relay.clients.tls import Certificates
from commcli.relay.turn import stun

# Real time that a loopback socket is given before a test is called a failure; nothing is measured by it.
PATIENCE_S = 20.0
BINDING = stun.build(stun.BINDING, stun.REQUEST, b"t" * 12)


def channel_data(payload: bytes, number: int = 0x4000) -> bytes:
    """ChannelData as it goes over a stream: padded."""
    size = len(payload)
    return number.to_bytes(2, "big") + size.to_bytes(2, "big") + payload + bytes(-size & 3)


class Poll:
    """What Streams needs of a loop; `turn` is one turn of it."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[int], None]] = {}
        self.events: dict[int, int] = {}

    def add(self, sock: socket.socket, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        assert sock.fileno() not in self.callbacks
        self.callbacks[sock.fileno()], self.events[sock.fileno()] = callback, events

    def change(self, sock: socket.socket, events: int) -> None:
        assert sock.fileno() in self.events
        self.events[sock.fileno()] = events

    def remove(self, sock: socket.socket) -> None:
        del self.callbacks[sock.fileno()], self.events[sock.fileno()]

    def turn(self) -> int:
        """Dispatch what is ready now; how many sockets were."""
        poll = select.poll()
        for fd, events in self.events.items():
            poll.register(fd, events)
        ready = poll.poll(0)
        for fd, events in ready:
            if fd in self.callbacks:
                self.callbacks[fd](events)
        return len(ready)


class World:
    """A relay's streams. It answers `answer(frame)` to each frame, and remembers what it was told."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.now = 1000.0
        self.drops: Counter[str] = Counter()
        self.poll = Poll()
        self.got: list[tuple[Client, bytes]] = []
        self.calls: list[int] = []  # how many frames came in each call
        self.gone: list[Client] = []
        self.holders: set[Client] = set()
        self.answer: Callable[[bytes], list[bytes]] = lambda frame: [frame]
        self.streams = Streams(self.poll, self, self.drops, limits, lambda: self.now)
        self._own = len(self.poll.callbacks)
        self.tcp = bound_tcp("127.0.0.1", 0)
        self.streams.listen(self.tcp, "tcp")
        self._sockets: list[socket.socket] = []
        self.tls: socket.socket | None = None

    # Handlers

    def frames(self, client: Client, frames: list[bytes], now: float) -> None:
        assert now == self.now
        self.calls.append(len(frames))
        for frame in frames:
            self.got.append((client, frame))
            for reply in self.answer(frame):
                self.streams.send(client, reply)

    def closed(self, client: Client) -> None:
        self.holders.discard(client)
        self.gone.append(client)

    def holds(self, client: Client) -> bool:
        return client in self.holders

    # The test's side

    def serve_tls(self, certificates: Certificates) -> None:
        self.tls = bound_tcp("127.0.0.1", 0)
        self.streams.listen(self.tls, "tls", certificates)

    def connect(
        self,
        listener: socket.socket | None = None,
        source: str = "127.0.0.1",
        receive_buffer: int | None = None,
    ) -> socket.socket:
        """A client's socket, not blocking."""
        sock = socket.socket()
        self._sockets.append(sock)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((source, 0))
        sock.connect((listener or self.tcp).getsockname())
        sock.setblocking(False)
        return sock

    def client(self, sock: socket.socket, transport: str = "tcp") -> Client:
        return (*sock.getsockname()[:2], transport)

    def admitted(
        self, *, hold: bool = False, source: str = "127.0.0.1", receive_buffer: int | None = None
    ) -> socket.socket:
        """A TCP client that has been accepted; with an allocation if `hold`."""
        sock = self.connect(source=source, receive_buffer=receive_buffer)
        before = self.figure("accepted")
        self.until(lambda: self.figure("accepted") > before)
        if hold:
            self.holders.add(self.client(sock))
            self.exchange(sock, BINDING)
        return sock

    def figure(self, name: str) -> int:
        return self.streams.figures()[name]

    def sockets(self) -> int:
        """How many sockets of clients the loop watches."""
        return len(self.poll.callbacks) - self._own - 1 - (self.tls is not None)

    def turns(self, count: int = 20) -> None:
        """Enough turns for what is on its way on loopback; for tests that nothing happens."""
        for _ in range(count):
            self.poll.turn()
            time.sleep(0.0005)

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, with ticks."""
        for _ in range(4):
            self.now += seconds / 4
            self.streams.tick(self.now)
        self.streams.tick(self.now)

    def until(self, done: Callable[[], bool], *, tick: bool = True) -> None:
        """Turn the loop until `done`. The clock stands still but for ticks of 20 ms if `tick`."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"never: drops {self.drops}, figures {self.streams.figures()}"
            busy = self.poll.turn()
            if not busy:
                if tick:
                    self.now += 0.02
                    self.streams.tick(self.now)
                time.sleep(0.001)

    def exchange(self, sock: socket.socket, data: bytes, size: int | None = None) -> bytes:
        """Send `data` and read the answer of `size` bytes (as many as were sent, if not said)."""
        size = len(data) if size is None else size
        received = bytearray()

        def done() -> bool:
            received.extend(read(sock))
            return len(received) >= size

        sock.sendall(data)
        self.until(done)
        return bytes(received)

    def ends(self, sock: socket.socket) -> None:
        """Turn the loop until the relay has closed this client."""
        client = self.client(sock)
        self.until(lambda: client in self.gone)

    def close(self) -> None:
        self.streams.close()
        for sock in self._sockets:
            sock.close()


def read(sock: socket.socket) -> bytes:
    """What is there now. Raises ConnectionError when the other side has closed."""
    try:
        data = sock.recv(1 << 20)
    except (BlockingIOError, ssl.SSLWantReadError):
        return b""
    if not data:
        raise ConnectionError("closed")
    return data


class TlsClient:
    """A TLS client that is driven by hand, so that it can stop anywhere."""

    def __init__(self, world: World, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.world, self.sock = world, sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls_context() if context is None else context
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="relay.example")

    def hello(self) -> bytes:
        """The first flight."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def shake(self) -> TlsClient:
        """Finish the handshake."""

        def done() -> bool:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._pump()
                return False
            self._pump()
            return True

        self.world.until(done)
        return self

    def _pump(self) -> None:
        out = self.outgoing.read()
        if out:
            self.sock.sendall(out)
        self.incoming.write(read(self.sock))

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        self.tls.write(data)
        self.sock.sendall(self.outgoing.read())

    def read(self) -> bytes:
        """Plaintext that is there now."""
        self._pump()
        found = b""
        try:
            while True:
                found += self.tls.read(1 << 14)
        except ssl.SSLWantReadError:
            return found

    def exchange(self, data: bytes, size: int | None = None) -> bytes:
        """As World.exchange."""
        size = len(data) if size is None else size
        received = bytearray()

        def done() -> bool:
            received.extend(self.read())
            return len(received) >= size

        self.write(data)
        self.world.until(done)
        return bytes(received)

    @property
    def client(self) -> Client:
        return self.world.client(self.sock, "tls")


def tls_context(
    version: ssl.TLSVersion | None = None, alpn: list[str] | None = None, ca: Path | None = None
) -> ssl.SSLContext:
    """A client's context: it believes `ca`, or anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


def write_pair(
    folder: Path,
    name: str = "relay.example",
    *,
    not_after: datetime.datetime | None = None,
    password: bytes | None = None,
) -> tuple[Path, Path]:
    """A new self-signed certificate and its key, as files in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    not_after = not_after or now + datetime.timedelta(days=90)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, not_after) - datetime.timedelta(days=1))
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    folder.mkdir(parents=True, exist_ok=True)
    chain, secret = folder / "fullchain.pem", folder / "privkey.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return chain, secret
