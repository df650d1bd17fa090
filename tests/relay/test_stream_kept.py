"""TCP connections go on in another process: their sockets, and what of them was half done."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from commcli.relay.clients.connection import StreamLimits
from commcli.relay.clients.tls import Certificates
from tests.relay.stream_world import BINDING, World, channel_data, write_pair


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def successor(world: World, limits: StreamLimits | None = None) -> World:
    """Another process: sockets with other numbers, and a clock of its own."""
    socks: list[socket.socket] = []

    def put(sock: socket.socket) -> int:
        socks.append(sock.dup())
        return len(socks) - 1

    document = json.loads(json.dumps(world.streams.kept(world.now, put)))
    heir = World(limits)
    heir.now, heir.holders = 5000.0, set(world.holders)
    heir.streams.take(document, socks.__getitem__, heir.now)
    return heir


def received(sock: socket.socket) -> bytes:
    found = b""
    while select.select([sock], [], [], 0)[0]:
        found += sock.recv(1 << 16)
    return found


def test_half_a_frame_is_not_lost(world: World) -> None:
    sock = world.admitted(hold=True)
    frame = channel_data(b"a payload")
    sock.sendall(frame[:6])
    world.until(lambda: world.poll.turn() == 0)
    with closing(successor(world)) as heir:
        sock.sendall(frame[6:])
        heir.until(lambda: bool(heir.got))
        assert heir.got == [(world.client(sock), frame)]


def test_frames_that_waited_for_their_turn_are_not_lost(world: World) -> None:
    sock = world.admitted()
    sock.sendall(BINDING * 6)  # more than a stranger's portion
    world.until(lambda: bool(world.got))
    had = len(world.got)
    assert 0 < had < 6
    with closing(successor(world)) as heir:
        heir.until(lambda: len(heir.got) == 6 - had)


def test_what_a_client_has_not_read_yet_still_comes() -> None:
    patient = StreamLimits(backlog_bytes=1 << 20, stale_s=60)
    with closing(World(patient)) as world:
        sock = world.admitted(hold=True, receive_buffer=4096)
        received(sock)
        frames = [channel_data(number.to_bytes(2, "big") * 500) for number in range(800)]
        for frame in frames:
            world.streams.send(world.client(sock), frame)
        assert world.streams.kept(world.now, lambda _sock: 0)["connections"][0]["backlog"]["media"]
        sent: list[bytes] = []
        with closing(successor(world, patient)) as heir:

            def read() -> bool:
                sent.append(received(sock))
                return len(b"".join(sent)) >= len(b"".join(frames))

            heir.until(read)
            assert b"".join(sent) == b"".join(frames)
            assert heir.drops == {} == world.drops


def test_times_go_on(world: World) -> None:
    stranger, slow = world.admitted(), world.admitted(hold=True)
    world.now += 20
    slow.sendall(channel_data(b"x")[:5])
    world.until(lambda: world.poll.turn() == 0)
    with closing(successor(world, StreamLimits(idle_s=30, frame_s=25))) as heir:
        assert heir.figure("half_open") == 1 and heir.figure("open") == 2
        heir.pass_time(9)
        assert heir.drops == {}
        heir.pass_time(2)
        assert heir.drops == {"tcp_idle": 1}
        heir.pass_time(16)
        assert heir.drops == {"tcp_idle": 1, "tcp_frame_slow": 1}
    assert stranger.getsockname()


def test_tls_stays_behind_and_totals_do_not(world: World, tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    world.serve_tls(Certificates(certificate, key, lambda *_args, **_fields: None))
    sock = world.admitted()
    world.connect(world.tls)
    world.until(lambda: world.figure("accepted") == 2)
    with closing(successor(world)) as heir:
        assert heir.figure("open") == 1 and heir.figure("accepted") == 2
        sock.sendall(BINDING)
        heir.until(lambda: bool(heir.got))
    assert world.figure("open") == 2
