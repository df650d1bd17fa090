"""Slow and hostile TCP and TLS clients at a running relay: each costs only itself, and all others are served."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
from collections.abc import Iterator

import pytest

from commcli.relay.clients.connection import StreamLimits
from commcli.relay.turn import stun
from tests.hostile.edges import Edge
from tests.hostile.test_running import serves
from tests.hostile.wire import SocketClient, a_client, connect, fresh_source
from tests.relay.turn_world import UDP_TRANSPORT

LIMITS = StreamLimits()
ID = b"transaction!"
REQUEST = stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT])
STREAMS = ("tcp", "tls")


@pytest.fixture(autouse=True)
def nobody_is_left(edge: Edge) -> Iterator[None]:
    """What a test leaves behind would be another one's trouble."""
    yield
    edge.wait(lambda status: status["streams"]["open"] == 0 and status["allocations"] == 0)


@contextlib.contextmanager
def _crowd(
    edge: Edge, transport: str, count: int, source: str | None = None
) -> Iterator[list[socket.socket]]:
    """Connections without TLS, whatever port they are at; each from its own address, or all from one."""
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            socks.append(connect(edge.server(transport), "tcp", source or fresh_source()))
        yield socks
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("transport", STREAMS)
def test_one_source_holds_so_many_idle_connections_and_no_more(edge: Edge, transport: str) -> None:
    most = LIMITS.half_open_per_source
    before = edge.drops().get("tcp_half_open", 0)
    with _crowd(edge, transport, 3 * most, fresh_source()):
        edge.wait(lambda status: status["drops"].get("tcp_half_open", 0) == before + 2 * most)
        assert edge.ask("status")["streams"]["half_open"] == most
        serves(edge)


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize(
    "begun",
    [
        REQUEST[:1],
        REQUEST[:19],
        stun.build(stun.ALLOCATE, stun.REQUEST, ID, [(stun.SOFTWARE, bytes(4000))])[:200],
        b"\x40\0\x0f\xf0half a channel",
        b"\x16\x03\x01\x02\0\1",
        b"\x16\x03\x01",
    ],
    ids=["one byte", "a header", "a long message", "channel data", "a ClientHello", "a TLS header"],
)
def test_many_who_begin_and_do_not_end(edge: Edge, begun: bytes, transport: str) -> None:
    """Slow-loris: some would go on byte by byte for ever."""
    with _crowd(edge, transport, 150) as socks:
        for sock in socks:
            _push(sock, begun)
        serves(edge)
        for sock in socks:
            _push(sock, begun[:1])
        serves(edge)
        figures = edge.ask("status")["streams"]
        assert figures["half_open"] <= 150 + 2


def _push(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it hangs up on us
        sock.sendall(data)


@pytest.mark.parametrize("transport", STREAMS)
def test_handshakes_that_stop_half_way_hold_nobody_up(edge: Edge, transport: str) -> None:
    """A whole ClientHello, then silence: the relay has answered and waits."""
    with _crowd(edge, transport, 100) as socks:
        for sock in socks:
            _push(sock, _client_hello())
        serves(edge)


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


JUNK = {
    "http": b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls": b"\x16\x03\x01\x02\0" + bytes(600),
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "wrong cookie": REQUEST[:4] + b"\x21\x12\xa4\x43" + REQUEST[8:],
    "odd length": b"\0\3\0\3" + REQUEST[4:],
    "too long": b"\0\3\xff\xfc" + REQUEST[4:20] + bytes(70000),
    "random": random.Random(3).randbytes(3000),
}


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_whoever_talks_something_else_is_hung_up_on(edge: Edge, junk: bytes, transport: str) -> None:
    with a_client(edge.server(transport), transport) as client:
        _push(client.wire.sock, junk)
        assert client.wire.receive() is None
        assert edge.wait(lambda status: status["streams"]["open"] == 0)
    serves(edge)


def test_junk_in_the_place_of_tls_records_ends_the_stream(edge: Edge) -> None:
    client = SocketClient(edge.server("tls"), "tls")
    assert client.allocate().code is None
    os.write(client.wire.sock.fileno(), random.Random(4).randbytes(500))  # past the session
    edge.wait(lambda status: status["allocations"] == 0 and status["streams"]["open"] == 0)
    client.wire.close()
    serves(edge)


@pytest.mark.parametrize("transport", STREAMS)
def test_requests_without_end_of_one_who_reads_no_reply(edge: Edge, transport: str) -> None:
    """It is no longer listened to: what waits for it is bounded."""
    sock = connect(edge.server(transport), transport, fresh_source())
    before = edge.ask("status")["process"]["rss_bytes"]
    _pour(sock, stun.build(stun.BINDING, stun.REQUEST, ID) * 200, 12_000_000)
    serves(edge)
    assert edge.ask("status")["process"]["rss_bytes"] - before < 8 << 20
    sock.close()


def _pour(sock: socket.socket, data: bytes, most: int) -> int:
    """Send again and again until so many bytes are gone or nobody has taken any for a while."""
    sock.settimeout(0.3)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            sock.sendall(data)
            sent += len(data)
    return sent


@pytest.mark.parametrize("transport", STREAMS)
def test_media_for_one_who_does_not_read_is_dropped_not_kept(edge: Edge, transport: str) -> None:
    with a_client(edge.server(transport), transport) as lazy, a_client(edge.server()) as eager:
        here, there = lazy.allocate().relayed, eager.allocate().relayed
        assert lazy.bind(0x4000, there).code is None and eager.bind(0x4000, here).code is None
        before = edge.ask("status")["process"]["rss_bytes"]
        for portion in range(60):
            for _ in range(250):
                eager.channel(0x4000, bytes(1200))
            if portion % 10 == 0:
                serves(edge)
        drops = edge.drops()
        assert drops.get("tcp_backlog", 0) + drops.get("tcp_stale", 0) > 0
        assert edge.ask("status")["process"]["rss_bytes"] - before < 8 << 20
        lazy.wire.close()
        lazy.nonce = b""  # nothing left to give back
    edge.wait(lambda status: status["allocations"] == 0)


@pytest.mark.parametrize("transport", STREAMS)
def test_who_has_an_allocation_does_not_give_way_to_strangers(edge: Edge, transport: str) -> None:
    with a_client(edge.server(transport), transport) as client:
        assert client.allocate().code is None
        with _crowd(edge, transport, 2 * LIMITS.half_open_per_source, client.addr[0]):
            edge.wait(lambda status: status["streams"]["half_open"] == LIMITS.half_open_per_source)
            assert client.refresh(600).code is None


def test_connections_that_come_and_go_leave_nothing(edge: Edge) -> None:
    """Closed in order, reset in the middle of a frame, reset before a word was said."""
    before = edge.descriptors()
    for number in range(400):
        sock = connect(edge.server(STREAMS[number % 2]), "tcp", fresh_source())
        if number % 3:
            _push(sock, REQUEST[: number % 40])
        if number % 5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    serves(edge)
    edge.wait(lambda status: status["streams"]["open"] == 0)
    assert edge.descriptors() <= before + 2


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("number", [0x4000, 0x4FFF, 0x5000, 0x7FFF])
def test_every_channel_that_can_be_bound_can_be_used(edge: Edge, number: int, transport: str) -> None:
    with a_client(edge.server(transport), transport) as one, a_client(edge.server()) as other:
        here, there = one.allocate().relayed, other.allocate().relayed
        assert other.permit(here[0]).code is None
        assert one.bind(number, there).code is None
        one.channel(number, b"hello")
        assert stun.parse(other.hears() or b"").first(stun.DATA) == b"hello"
        assert one.refresh(600).code is None
