"""A hostile stream client costs only itself: every case has an honest client beside it, which stays served."""

from __future__ import annotations

import resource
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator

import pytest

from commcli.relay.clients.backlog import FRAME_COST
from commcli.relay.clients.connection import MAX_GREETING, PATIENCE, StreamLimits
from commcli.relay.clients.framing import MAX_REQUEST
from commcli.relay.clients.stream import ACCEPTS, SPARE_DESCRIPTORS
from commcli.relay.clients.tls import Certificates
from tests.relay.stream_world import BINDING, TlsClient, World, channel_data, read, tls_context, write_pair

LIMITS = StreamLimits()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def small() -> Iterator[World]:
    """A relay that lets few strangers in."""
    world = World(StreamLimits(half_open=8, half_open_per_source=4))
    yield world
    world.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(*write_pair(tmp_path_factory.mktemp("tls")), lambda *_, **__: None)


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_served(world: World, sock: socket.socket) -> bool:
    return world.exchange(sock, BINDING) == BINDING


# --- strangers -----------------------------------------------------------------------------------------------------


def test_half_open_connections_push_out_their_own_and_never_a_client(small: World) -> None:
    honest = small.admitted(hold=True)
    # From the same address as the flood: it has an allocation, so it is out of the race.
    flood = [small.admitted() for _ in range(20)]
    assert small.figure("half_open") == 4
    assert small.drops["tcp_half_open"] == 16
    assert small.figure("open") == 5
    assert is_served(small, flood[-1])  # the newest stay
    assert is_served(small, honest)


def test_a_flood_from_many_sources_pushes_out_the_oldest_and_never_a_client(small: World) -> None:
    honest = small.admitted(hold=True, source="127.0.0.2")
    for n in range(30):
        small.admitted(source=f"127.0.1.{n + 1}")
    assert small.figure("half_open") == 8
    assert is_served(small, honest)
    assert small.client(honest) not in small.gone


def test_one_source_does_not_push_out_another(small: World) -> None:
    waiting = small.admitted(source="127.0.0.2")
    for _ in range(30):
        small.admitted(source="127.0.0.3")
    assert is_served(small, waiting)


def test_a_newcomer_has_time_enough_beside_a_flood(small: World) -> None:
    """An allocation made while others push: from then on nobody pushes this one."""
    honest = small.admitted(source="127.0.0.2")
    for n in range(4):
        small.admitted(source=f"127.0.1.{n + 1}")
    small.holders.add(small.client(honest))
    assert is_served(small, honest)
    for n in range(30):
        small.admitted(source=f"127.0.1.{n + 1}")
    assert is_served(small, honest)


def test_who_sends_nothing_is_closed(world: World) -> None:
    silent, honest = world.admitted(), world.admitted(hold=True)
    world.pass_time(LIMITS.idle_s + 1)
    assert world.gone == [world.client(silent)]
    assert world.drops["tcp_idle"] == 1
    assert is_served(world, honest)


def test_requests_do_not_keep_a_stranger_in(world: World) -> None:
    chatty = world.admitted()
    for _ in range(int(LIMITS.idle_s) // 3):
        assert is_served(world, chatty)
        world.pass_time(2.9)
    world.pass_time(2.9)
    assert world.gone == [world.client(chatty)]


def test_who_has_lost_its_allocation_is_a_stranger_again(world: World) -> None:
    sock = world.admitted(hold=True)
    assert world.figure("half_open") == 0
    world.pass_time(10 * LIMITS.idle_s)
    assert world.gone == []
    world.holders.clear()
    world.pass_time(5.0)
    assert world.figure("half_open") == 1
    assert is_served(world, sock)  # and has the time to allocate again
    world.pass_time(LIMITS.idle_s + 1)
    assert world.gone == [world.client(sock)]


def test_who_holds_again_stays(world: World) -> None:
    sock = world.admitted(hold=True)
    world.holders.clear()
    world.pass_time(5.0)
    world.holders.add(world.client(sock))
    assert is_served(world, sock)
    world.pass_time(10 * LIMITS.idle_s)
    assert world.gone == []


def test_a_frame_that_never_ends_is_not_waited_for(world: World) -> None:
    # With an allocation: a stranger would go for being idle.
    slow, honest = world.admitted(hold=True), world.admitted(hold=True)
    frame = channel_data(bytes(60_000))
    for at in range(int(LIMITS.frame_s) // 5 + 1):
        slow.sendall(frame[at : at + 1])  # always just in time for a timeout of silence
        world.turns(3)
        world.pass_time(5.0)
        if world.gone:
            break
    assert world.gone == [world.client(slow)]
    assert world.drops["tcp_frame_slow"] == 1
    assert is_served(world, honest)


def test_frames_one_after_the_other_never_count_as_slow(world: World) -> None:
    world.answer = lambda frame: []
    sock = world.admitted()
    world.holders.add(world.client(sock))
    sock.sendall(BINDING[:5])
    for n in range(1, 11):
        world.pass_time(LIMITS.frame_s / 3)
        sock.sendall(BINDING[5:] + BINDING[:5])  # there is always one incomplete
        world.until(lambda count=n: len(world.got) == count, tick=False)  # type: ignore[misc]
    assert world.gone == []


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (b"\xff" * 100, "tcp_junk_type"),
        (b"GET / HTTP/1.1\r\n\r\n", "tcp_junk_oversize"),
        (b"\x16\x03\x01\x00\x00\x01\x00\x01\xfc\x03\x03", "tcp_junk_cookie"),
        (b"\x00\x01\xff\xfc\x21\x12\xa4\x42", "tcp_junk_oversize"),
        (b"\x40\x00\xff\xff", "tcp_junk_oversize"),
        (b"\x00\x01\x00\x01", "tcp_junk_length"),
        (BINDING + b"\x80", ""),  # cannot be told yet
        (BINDING + b"\x80\0\0\0", "tcp_junk_type"),
    ],
)
def test_junk_ends_its_stream_at_once(world: World, junk: bytes, reason: str) -> None:
    sock, honest = world.admitted(), world.admitted(hold=True)
    sock.sendall(junk)
    if reason:
        world.ends(sock)
        assert world.drops == {reason: 1}
    else:
        world.turns()
        assert world.gone == []
    assert len(world.got) == 1 + junk.startswith(BINDING)
    assert is_served(world, honest)


def test_a_length_too_large_for_any_datagram_is_refused_from_clients_too(world: World) -> None:
    sock = world.admitted(hold=True)
    sock.sendall(b"\x40\x00\xff\xff")
    world.ends(sock)
    assert world.drops == {"tcp_junk_oversize": 1}


def test_a_stranger_has_room_for_a_request_and_no_more(world: World) -> None:
    sock = world.admitted()
    sock.sendall(channel_data(bytes(MAX_REQUEST)))
    world.ends(sock)
    assert world.drops == {"tcp_junk_oversize": 1}


# --- who does not read ---------------------------------------------------------------------------------------------


def ask_until_deaf(world: World, sock: socket.socket) -> int:
    """Send requests until they are no longer taken, and read nothing; how many bytes went."""
    asked = refused = 0
    while refused < 50:
        try:
            asked += sock.send(BINDING * 100)
            refused = 0
        except BlockingIOError:
            refused += 1
        world.poll.turn()
    return asked


@pytest.mark.parametrize("hold", [False, True])
def test_who_asks_and_does_not_read_is_no_longer_listened_to(world: World, hold: bool) -> None:
    honest = world.admitted(hold=True)
    sock = world.admitted(hold=hold, receive_buffer=1 << 13)
    ask_until_deaf(world, sock)
    assert world.poll.turn() == 0  # and it does not keep the loop awake
    backlog = world.streams._connections[world.client(sock)].backlog
    assert backlog is not None
    assert backlog.size <= PATIENCE + 64 * (len(BINDING) + FRAME_COST)
    assert is_served(world, honest)
    world.pass_time(LIMITS.stalled_s + 1)
    assert world.gone == [world.client(sock)]
    assert world.drops == {"tcp_stalled": 1}
    assert is_served(world, honest)


@pytest.mark.parametrize("hold", [False, True])
def test_who_reads_again_is_listened_to_again(world: World, hold: bool) -> None:
    sock = world.admitted(hold=hold, receive_buffer=1 << 13)
    asked = ask_until_deaf(world, sock)
    replies = bytearray()

    def all_answered() -> bool:
        replies.extend(read(sock))
        return len(replies) == asked // 20 * 20

    world.until(all_answered, tick=False)
    assert replies == BINDING * (asked // 20)
    assert not world.drops


def test_a_reset_with_replies_waiting_is_an_end(world: World) -> None:
    sock, honest = world.admitted(hold=True), world.admitted(hold=True)
    client = world.client(sock)
    while not world.drops["tcp_backlog"]:
        world.streams.send(client, channel_data(bytes(1000)))
    reset(sock)
    world.until(lambda: client in world.gone)
    assert world.gone == [client]
    assert is_served(world, honest)


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_a_handshake_that_never_starts_or_ends_is_not_waited_for(
    world: World, certificates: Certificates
) -> None:
    world.serve_tls(certificates)
    silent, slow = world.connect(world.tls), world.connect(world.tls)
    world.until(lambda: world.figure("handshakes") == 2)
    hello = TlsClient(world, slow).hello()
    for at in range(int(LIMITS.handshake_s) - 1):
        slow.sendall(hello[at : at + 1])
        world.turns(2)
        world.pass_time(1.0)
    assert world.gone == []
    world.pass_time(2.0)
    assert sorted(world.gone) == sorted([world.client(silent, "tls"), world.client(slow, "tls")])
    assert world.drops["tcp_handshake_slow"] == 2
    assert world.figure("handshakes") == 0


@pytest.mark.parametrize(
    "junk", [b"\xff" * 200, BINDING, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00" + b"\x01" * 20_000]
)
def test_tls_garbage_ends_its_stream(world: World, certificates: Certificates, junk: bytes) -> None:
    world.serve_tls(certificates)
    sock, honest = world.connect(world.tls), world.admitted(hold=True)
    sock.sendall(junk)
    client = world.client(sock, "tls")
    world.until(lambda: client in world.gone)
    assert world.drops == {"tcp_tls_handshake": 1}
    assert world.figure("handshakes") == 0
    assert is_served(world, honest)


def test_who_fails_is_told_why(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    context = tls_context(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA256")  # no forward secrecy
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        TlsClient(world, world.connect(world.tls), context).shake()


def test_a_handshake_of_endless_messages_is_bounded(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    sock = world.connect(world.tls)
    # The first message of a handshake, said to be 128 kB and coming record by record.
    record = b"\x16\x03\x01\x10\x00" + b"\x01\x01\xff\xff" + bytes(4092)
    sent = 0
    while not world.gone:
        assert sent < 2 * MAX_GREETING
        try:
            sent += sock.send(record if not sent else b"\x16\x03\x01\x10\x00" + bytes(4096))
        except ConnectionError:
            break
        world.turns(4)
    world.until(lambda: bool(world.gone))
    assert world.drops == {"tcp_tls_handshake": 1}


def test_garbage_after_the_handshake_ends_its_stream(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    client = TlsClient(world, world.connect(world.tls)).shake()
    key = client.client
    client.tls.write(BINDING)
    client.sock.sendall(client.outgoing.read() + b"\x17\x03\x03\x00\x40" + bytes(64))
    world.until(lambda: key in world.gone)
    assert world.got == [(key, BINDING)]
    assert world.drops == {"tcp_tls_broken": 1}


def test_a_flood_of_handshakes_gets_its_share_of_the_time_and_no_more(
    world: World, certificates: Certificates
) -> None:
    world.serve_tls(certificates)
    honest = world.admitted(hold=True)
    flood = [TlsClient(world, world.connect(world.tls)) for _ in range(60)]
    for client in flood:
        client.sock.sendall(client.hello())
    world.turns(200)  # the clock stands still: so the share is used up once
    assert world.figure("handshakes") == 60
    answered = [client for client in flood if read(client.sock)]
    assert 0 < len(answered) <= 0.01 / 0.0004 + 1
    # The others wait without keeping the loop awake, and the honest one is served in the next turn.
    assert world.poll.turn() == 0
    honest.sendall(BINDING)
    before = len(world.got)
    world.until(lambda: len(world.got) == before + 1, tick=False)
    # In time each of them gets its answer.
    left = [client for client in flood if client not in answered]
    world.until(lambda: all(_peek(client.sock) for client in left))
    assert not world.drops


def _peek(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_who_leaves_while_it_waits_for_its_handshake_leaves_nothing(
    world: World, certificates: Certificates
) -> None:
    world.serve_tls(certificates)
    flood = [TlsClient(world, world.connect(world.tls)) for _ in range(60)]
    for client in flood:
        client.sock.sendall(client.hello())
    world.turns(100)
    for client in flood:
        reset(client.sock)
    world.turns(100)
    assert world.figure("open") == 0  # without a tick
    assert world.figure("handshakes") == 0
    assert not world.streams._queue
    assert world.sockets() == 0


def test_waiting_handshakes_are_bounded_like_all_strangers(certificates: Certificates) -> None:
    world = World(StreamLimits(half_open=8, half_open_per_source=8, handshake_share=0.0))
    world.serve_tls(certificates)
    for _ in range(60):
        client = TlsClient(world, world.connect(world.tls))
        client.sock.sendall(client.hello())
        world.until(lambda: not _readable(world))
    assert len(world.streams._queue) <= 8
    assert world.figure("open") == 8
    world.close()


def _readable(world: World) -> bool:
    """Is a connection waiting to be accepted? Turns the loop."""
    return world.poll.turn() > 0


def test_tiny_records_come_in_portions(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    world.answer = lambda frame: []
    client = TlsClient(world, world.connect(world.tls)).shake()
    world.holders.add(client.client)
    for byte in BINDING * 100:
        client.tls.write(bytes([byte]))
    client.sock.sendall(client.outgoing.read())
    world.until(lambda: len(world.got) == 100)
    assert max(world.calls) <= 4  # 64 records of a byte are three frames and a bit


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to renegotiate with")
def test_renegotiation_is_refused(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    assert world.tls is not None
    port = world.tls.getsockname()[1]
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", "-quiet", "-no_ign_eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as client:
        assert client.stdin is not None and client.stderr is not None
        world.until(lambda: world.figure("handshakes_done") == 1)
        client.stdin.write(b"R\n")
        client.stdin.flush()
        world.until(lambda: client.poll() is not None)
        said = client.stderr.read().decode()
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    world.until(lambda: world.figure("open") == 0)
    assert world.figure("handshakes_done") == 1


# --- accepting -----------------------------------------------------------------------------------------------------


def test_a_turn_accepts_so_many_and_then_others_have_theirs(world: World) -> None:
    socks = [world.connect() for _ in range(3 * ACCEPTS)]
    world.poll.turn()
    assert world.figure("accepted") == ACCEPTS
    world.until(lambda: world.figure("accepted") == len(socks))


def test_a_flood_of_connections_gets_its_share_of_the_time_and_no_more() -> None:
    world = World(StreamLimits(accept_share=0.01))
    socks = [world.connect() for _ in range(300)]
    world.turns(40)  # until the listener rests: the clock stands still
    assert world.poll.turn() == 0
    assert 200 < world.figure("accepted") < 300
    world.until(lambda: world.figure("accepted") == len(socks))
    world.close()


def test_no_descriptor_left_is_not_a_busy_loop(world: World) -> None:
    honest = world.admitted(hold=True)
    late = world.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest_free = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        assert world.poll.callbacks
        world.poll.callbacks[world.tcp.fileno()](1)
        assert world.drops == {"tcp_accept_error": 1}
        assert world.poll.events[world.tcp.fileno()] == 0  # it rests
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert world.poll.turn() == 0
    assert world.exchange(honest, BINDING) == BINDING
    world.pass_time(1.0)
    assert is_served(world, late)


def test_the_last_descriptors_are_the_operators() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest_free = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + SPARE_DESCRIPTORS + 8, hard))
    try:
        world = World()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for n in range(20):
        world.connect(source=f"127.0.1.{n + 1}")
        world.turns(3)
        world.pass_time(1.0)
    assert 0 < world.figure("open") < 8
    assert world.drops["tcp_accept_error"] > 0
    world.close()


def test_strangers_leave_descriptors_for_allocations() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        world = World()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for n in range(100):
        world.admitted(source=f"127.0.1.{n + 1}")
    assert world.figure("half_open") == 64
    world.close()


def test_who_resets_before_it_is_accepted_is_nobody(world: World) -> None:
    for _ in range(5):
        reset(world.connect())
    late = world.connect()
    assert is_served(world, late)
    world.until(lambda: world.figure("open") == 1)


def test_an_event_of_the_connection_before_does_no_harm(small: World) -> None:
    """An evicted connection's descriptor is another one's in the same turn, and its event is still to come."""
    old = [small.admitted() for _ in range(4)]
    for sock in old:
        reset(sock)  # ready, broken, in the turn to come
    new = [small.connect() for _ in range(4)]
    small.poll.turn()
    for sock in new:
        assert is_served(small, sock)
    assert {small.client(sock) for sock in new}.isdisjoint(small.gone)


def test_a_storm_of_ends_leaves_nothing_behind(world: World, certificates: Certificates) -> None:
    world.serve_tls(certificates)
    honest = world.admitted(hold=True)
    storm = []
    for n in range(60):
        sock = world.connect(world.tls if n % 2 else None)
        storm.append(world.client(sock, "tls" if n % 2 else "tcp"))
        sock.sendall([b"", BINDING, b"\xff" * 50, TlsClient(world, sock).hello()][n % 4])
        world.turns(n % 3)
        if n % 5 == 0:
            reset(sock)
        elif n % 5 == 1:
            sock.close()
        elif n % 5 == 2 and n % 4 != 2:  # the junk has been answered with a reset
            sock.shutdown(socket.SHUT_WR)
    world.turns()
    world.pass_time(LIMITS.idle_s + 1)
    world.turns()
    assert world.streams.figures()["open"] == 1
    assert world.figure("half_open") == world.figure("handshakes") == 0
    assert world.sockets() == 1
    assert sorted(world.gone) == sorted(storm)  # each once; the kernel may give a port twice
    assert is_served(world, honest)


def test_who_fills_its_turns_takes_none_from_others(world: World) -> None:
    world.answer = lambda frame: []
    greedy, honest = world.admitted(), world.admitted()
    world.holders |= {world.client(greedy), world.client(honest)}
    for sock in (greedy, honest):
        sock.sendall(BINDING)
    world.until(lambda: len(world.got) == 2)
    greedy.sendall(channel_data(b"") * 10_000)
    world.turns(2)
    honest.sendall(BINDING)
    world.until(lambda: (world.client(honest), BINDING) in world.got[2:], tick=False)
    assert len(world.got) < 5000
    world.until(lambda: len(world.got) == 10_003)
    assert world.poll.turn() == 0


def test_a_slow_reader_is_heard_in_portions_too(world: World) -> None:
    """What comes from a client goes on at its own pace, whatever the client reads."""
    world.answer = lambda frame: []
    sock = world.admitted(receive_buffer=1 << 13)
    world.holders.add(world.client(sock))
    sock.sendall(BINDING)
    world.until(lambda: len(world.got) == 1)
    while not world.drops["tcp_backlog"]:
        world.streams.send(world.client(sock), channel_data(bytes(1000)))
    sock.sendall(channel_data(b"") * 1000)
    world.until(lambda: len(world.got) == 1001, tick=False)


def test_more_than_a_portion_before_a_reset_ends_well(world: World) -> None:
    world.answer = lambda frame: []
    sock = world.admitted()
    client = world.client(sock)
    sock.sendall(BINDING * 500)
    world.poll.turn()
    reset(sock)
    world.until(lambda: world.gone == [client])
    assert world.sockets() == 0
    assert world.poll.turn() == 0
