from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator

import pytest

from commcli.relay.clients.connection import StreamLimits
from commcli.relay.clients.stream import bound_tcp
from commcli.relay.clients.tls import Certificates
from commcli.relay.config import ConfigError
from commcli.relay.turn import stun
from tests.relay.stream_world import (
    BINDING,
    TlsClient,
    World,
    channel_data,
    read,
    tls_context,
    write_pair,
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(*write_pair(tmp_path_factory.mktemp("tls")), lambda *_, **__: None)


def media(number: int, size: int = 1000) -> bytes:
    return channel_data(number.to_bytes(4, "big") * (size // 4))


def numbers(wire: bytes) -> list[int]:
    """The numbers of the media frames in `wire`; fails when one is torn."""
    found = []
    while wire:
        size = int.from_bytes(wire[2:4], "big")
        payload, wire = wire[4 : 4 + size], wire[4 + size :]
        assert payload == payload[:4] * (size // 4)
        found.append(int.from_bytes(payload[:4], "big"))
    return found


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- both transports -----------------------------------------------------------------------------------------------


def test_a_frame_comes_whole_however_it_was_sent(world: World) -> None:
    sock = world.admitted()
    for at in range(len(BINDING)):
        assert world.got == []
        sock.sendall(BINDING[at : at + 1])
        world.turns(2)
    world.until(lambda: world.got == [(world.client(sock), BINDING)])
    world.until(lambda: read(sock) == BINDING)


def test_frames_of_one_read_come_in_one_call(world: World) -> None:
    sock = world.admitted(hold=True)
    world.calls.clear()
    world.got.clear()
    sock.sendall(BINDING * 9)
    world.until(lambda: len(world.got) == 9)
    assert world.calls == [9]
    assert world.exchange(sock, b"", 9 * 20) == BINDING * 9


def test_strangers_get_less_of_a_turn(world: World) -> None:
    sock = world.connect()
    sock.sendall(BINDING * 9)
    world.until(lambda: len(world.got) == 9)
    assert world.calls == [4, 4, 1]
    assert world.exchange(sock, b"", 9 * 20) == BINDING * 9


def test_no_call_brings_more_than_a_turn_is_worth(world: World) -> None:
    sock = world.admitted(hold=True)
    world.answer = lambda frame: []
    world.calls.clear()
    sock.sendall(channel_data(b"") * 3000)
    world.until(lambda: sum(world.calls) == 3000)
    assert max(world.calls) == 64


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_over_tls_too(world: World, certificates: Certificates, version: ssl.TLSVersion) -> None:
    world.serve_tls(certificates)
    client = TlsClient(world, world.connect(world.tls), tls_context(version)).shake()
    assert client.exchange(BINDING * 9) == BINDING * 9
    assert world.got == [(client.client, BINDING)] * 9
    assert world.streams.figures() == {
        "open": 1,
        "open_tcp": 0,
        "open_tls": 1,
        "half_open": 1,
        "handshakes": 0,
        "accepted": 1,
        "handshakes_done": 1,
    }


def test_a_request_in_the_last_flight_of_the_handshake_is_answered(
    world: World, certificates: Certificates
) -> None:
    world.serve_tls(certificates)
    client = TlsClient(world, world.connect(world.tls))
    client.sock.sendall(client.hello())
    replies = bytearray()

    def answered() -> bool:
        replies.extend(read(client.sock))
        return bool(replies)

    world.until(answered)
    client.incoming.write(replies)
    client.tls.do_handshake()
    client.tls.write(BINDING)
    client.sock.sendall(client.outgoing.read())  # Finished and the request in one segment
    found = bytearray()

    def read_back() -> bool:
        found.extend(client.read())
        return bytes(found) == BINDING

    world.until(read_back)


@pytest.mark.parametrize("size", [60_000, 65_528])
def test_the_largest_frames_pass_both_ways(world: World, certificates: Certificates, size: int) -> None:
    world.serve_tls(certificates)
    large = channel_data(bytes(size))
    assert world.exchange(world.admitted(hold=True), large) == large
    tls = TlsClient(world, world.connect(world.tls)).shake()
    world.holders.add(tls.client)
    tls.exchange(BINDING)
    assert tls.exchange(large) == large


def test_ipv6_clients_have_their_address_for_a_key(world: World) -> None:
    try:
        listener = bound_tcp("::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 loopback on this machine")
    world.streams.listen(listener, "tcp")
    with socket.create_connection(listener.getsockname()[:2]) as sock:
        sock.sendall(BINDING)
        world.until(lambda: bool(world.got))
        assert world.got == [(("::1", sock.getsockname()[1], "tcp"), BINDING)]


def test_a_port_that_is_taken_is_a_wrong_configuration(world: World) -> None:
    with pytest.raises(ConfigError, match=r"cannot bind TCP 127\.0\.0\.1:"):
        bound_tcp("127.0.0.1", world.tcp.getsockname()[1])


def test_processes_may_share_a_port() -> None:
    with bound_tcp("127.0.0.1", 0, shared=True) as one:
        bound_tcp("127.0.0.1", one.getsockname()[1], shared=True).close()


def test_accepted_sockets_send_at_once_and_keep_little(world: World) -> None:
    # Set on the listener only; what is accepted has them too.
    with socket.create_connection(world.tcp.getsockname()):
        world.until(lambda: world.figure("open") == 0 and _readable(world.tcp))
        accepted, _ = world.tcp.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 1 << 15
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 1 << 19


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 1)[0])


# --- the end -------------------------------------------------------------------------------------------------------


def test_a_closed_half_closed_or_reset_stream_is_gone(world: World) -> None:
    ends = [socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_WR), reset]
    for count, end in enumerate(ends, start=1):
        sock = world.admitted(hold=True)
        client = world.client(sock)
        end(sock)
        world.until(lambda: world.figure("open") == 0)
        assert world.gone[-1] == client
        assert len(world.gone) == count
    assert world.sockets() == 0


def test_the_last_request_before_a_half_close_is_answered(world: World) -> None:
    sock = world.admitted()
    sock.sendall(BINDING)
    sock.shutdown(socket.SHUT_WR)
    world.ends(sock)
    assert read(sock) == BINDING
    with pytest.raises(ConnectionError):
        read(sock)


def test_close_notify_is_an_end(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    client = TlsClient(world, world.connect(world.tls)).shake()
    key = client.client
    client.tls.write(BINDING)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.sock.sendall(client.outgoing.read())  # and the TCP connection stays up
    world.until(lambda: key in world.gone)
    assert world.got == [(key, BINDING)]
    assert not world.drops


def test_drop_ends_a_stream_at_the_end_of_the_turn(world: World) -> None:
    sock, other = world.admitted(hold=True), world.admitted(hold=True)
    client = world.client(sock)
    world.streams.drop(client)
    world.streams.drop(client)
    world.streams.drop(("192.0.2.1", 1, "tcp"))
    assert world.gone == []  # who called is perhaps not done with the allocation
    world.streams.send(client, BINDING)
    assert world.drops == {"tcp_gone": 1}
    world.streams.tick(world.now)
    assert world.gone == [client]
    with pytest.raises(ConnectionError):
        read(sock)
    assert world.exchange(other, BINDING) == BINDING


def test_a_stream_that_breaks_under_a_write_ends_later(world: World) -> None:
    sock = world.admitted(hold=True)
    client = world.client(sock)
    reset(sock)
    for _ in range(1000):
        world.streams.send(client, media(1))
        assert world.gone == []
        if world.drops["tcp_gone"]:
            break
        time.sleep(0.001)
    world.streams.tick(world.now)
    assert world.gone == [client]
    assert world.drops["tcp_reset"] == 1


def test_a_client_that_comes_again_from_its_port_is_a_new_one(world: World) -> None:
    sock = world.admitted(hold=True)
    client = world.client(sock)
    reset(sock)
    again = socket.socket()
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(client[:2])
    again.connect(world.tcp.getsockname())  # before the relay has seen the end of the first
    again.setblocking(False)
    with again:
        # Only the listener's turn: it must cope without having been told of the reset.
        assert _readable(world.tcp)
        world.poll.callbacks[world.tcp.fileno()](1)
        assert world.gone == [client]
        assert world.exchange(again, BINDING) == BINDING
        assert world.figure("open") == 1


def test_a_bug_in_a_handler_costs_no_other_frame(world: World) -> None:
    sock = world.admitted()

    def fail(_: bytes) -> list[bytes]:
        raise RuntimeError("bug")

    world.answer = fail
    sock.sendall(BINDING)
    with pytest.raises(RuntimeError):
        world.until(lambda: False)
    world.answer = lambda frame: [frame]
    assert world.exchange(sock, BINDING) == BINDING


def test_certificates_are_for_tls(world: World, certificates: Certificates) -> None:
    with bound_tcp("127.0.0.1", 0) as sock:
        for transport, tls in (("tls", None), ("tcp", certificates)):
            with pytest.raises(ValueError, match="certificates"):
                world.streams.listen(sock, transport, tls)


# --- slow readers --------------------------------------------------------------------------------------------------


def fill(world: World, sock: socket.socket, transport: str = "tcp") -> int:
    """Send numbered media to a client that does not read, until frames are dropped; how many were sent."""
    client, sent = world.client(sock, transport), 0
    while not world.drops["tcp_backlog"]:
        world.streams.send(client, media(sent))
        world.poll.turn()
        sent += 1
        assert sent < 10_000
    return sent


def test_a_slow_reader_loses_the_oldest_whole_frames_and_no_reply(world: World) -> None:
    sock = world.admitted(hold=True)
    sent = fill(world, sock)
    for _ in range(50):
        world.streams.send(world.client(sock), media(sent))
        sent += 1
    world.streams.send(world.client(sock), BINDING)
    dropped = world.drops["tcp_backlog"]
    assert dropped > 40
    wire = bytearray()

    def all_read() -> bool:
        wire.extend(read(sock))
        return wire.endswith(media(sent - 1))

    world.until(all_read, tick=False)
    assert wire.count(BINDING) == 1
    at = wire.index(BINDING)
    found = numbers(bytes(wire[:at] + wire[at + 20 :]))
    assert len(found) == sent - dropped
    assert found == sorted(set(found))
    # From the first gap on there is no other: only the oldest of those that waited went.
    gap = next(i for i, number in enumerate(found) if number != i)
    assert found[gap:] == list(range(found[gap], sent))
    assert at >= 1004 * (gap - 1)  # the reply overtook what waited, not what was on its way
    assert at <= 1004 * (gap + 1)
    assert world.exchange(sock, BINDING) == BINDING


def test_a_slow_reader_over_tls_too(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    client = TlsClient(world, world.connect(world.tls)).shake()
    world.holders.add(client.client)
    client.exchange(BINDING)
    sent = fill(world, client.sock, "tls")
    wire = bytearray()

    def all_read() -> bool:
        wire.extend(client.read())
        return wire.endswith(media(sent - 1))

    world.until(all_read, tick=False)
    found = numbers(bytes(wire))
    assert len(found) == sent - world.drops["tcp_backlog"]
    assert found == sorted(set(found))
    assert client.exchange(BINDING) == BINDING


def test_media_that_waited_too_long_is_not_sent(world: World) -> None:
    sock = world.admitted(hold=True)
    sent = fill(world, sock)
    world.now += StreamLimits().stale_s
    wire = bytearray()

    def quiet() -> bool:
        wire.extend(read(sock))
        return not any(fd for fd, events in world.poll.events.items() if events & 4)

    world.until(quiet, tick=False)
    found = numbers(bytes(wire))
    assert world.drops["tcp_stale"] > 50
    assert len(found) == sent - world.drops["tcp_backlog"] - world.drops["tcp_stale"]
    world.streams.send(world.client(sock), media(sent))
    world.until(lambda: numbers(read(sock)) == [sent])


def test_a_slow_reader_is_still_heard(world: World) -> None:
    sock = world.admitted(hold=True)
    fill(world, sock)
    world.got.clear()
    world.answer = lambda frame: []
    sock.sendall(media(7))
    world.until(lambda: world.got == [(world.client(sock), media(7))], tick=False)


def test_who_reads_nothing_at_all_is_closed(world: World) -> None:
    sock, other = world.admitted(hold=True), world.admitted(hold=True)
    client = world.client(sock)
    fill(world, sock)
    world.pass_time(StreamLimits().stalled_s - 1)
    assert world.gone == []
    world.pass_time(2)
    assert world.gone == [client]
    assert world.drops["tcp_stalled"] == 1
    assert world.exchange(other, BINDING) == BINDING


def test_who_reads_a_little_now_and_then_stays(world: World) -> None:
    sock = world.admitted(hold=True)
    fill(world, sock)
    for _ in range(5):
        world.pass_time(StreamLimits().stalled_s - 2)
        for _ in range(100):
            read(sock)
            world.poll.turn()
        world.drops.clear()
        fill(world, sock)
    assert world.gone == []


def test_data_indications_are_media(world: World) -> None:
    sock = world.admitted(hold=True)
    indication = stun.build(stun.DATA_METHOD, stun.INDICATION, b"t" * 12, [(stun.DATA, bytes(1000))])
    for _ in range(2000):
        world.streams.send(world.client(sock), indication)
    assert world.drops["tcp_backlog"] > 0
    assert world.gone == []


def test_several_frames_go_together_and_wait_one_by_one(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    sock = world.admitted(hold=True)
    client = world.client(sock)
    burst = [media(n) for n in range(10)]
    world.streams.send_all(client, burst)
    wire = bytearray()

    def all_read() -> bool:
        wire.extend(read(sock))
        return len(wire) == 10 * 1004

    world.until(all_read)
    assert numbers(bytes(wire)) == list(range(10))
    world.streams.send_all(client, [])
    fill(world, sock)
    before = world.drops["tcp_backlog"]
    world.streams.send_all(client, burst[:3])
    assert 2 <= world.drops["tcp_backlog"] - before <= 4  # single old frames, not a burst of them
    world.streams.send_all(("192.0.2.1", 1, "tcp"), burst)
    assert world.drops["tcp_gone"] == 10
    tls = TlsClient(world, world.connect(world.tls)).shake()
    tls.exchange(BINDING)
    world.streams.send_all(tls.client, burst)
    world.until(lambda: numbers(tls.read()) == list(range(10)))
