"""A running relay under junk and floods of datagrams: it stays quiet, silent to reflectors, and tells no secret."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import stat
import time
import urllib.request
from pathlib import Path

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.auth import time_limited_password
from tests.hostile.edges import METRICS, OVERLAY, SECRET, STAMP, TLS, TURN, USERS, Edge, running
from tests.hostile.wire import TRANSPORTS, SocketClient, a_client, connect, fresh_source
from tests.relay.turn_world import UDP_TRANSPORT

ID = b"transaction!"


def serves(edge: Edge) -> None:
    """Clients of every transport are served, a packet between two of them included."""
    for transport in TRANSPORTS:
        with a_client(edge.server(transport), transport) as one, a_client(edge.server()) as other:
            here, there = one.allocate().relayed, other.allocate().relayed
            assert one.bind(0x4000, there).code is None and other.bind(0x4000, here).code is None
            one.channel(0x4000, b"hello")
            assert other.hears() == b"\x40\0\0\5hello"


def test_refusals_to_one_source_end_after_ten_a_second(edge: Edge) -> None:
    """From many ports of one address, as a reflector would be made to hit a victim."""
    source = fresh_source()
    socks = [connect(edge.server(), "udp", source) for _ in range(20)]
    began = time.monotonic()
    for _ in range(10):
        for sock in socks:
            sock.send(stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT]))
    edge.ask("status")
    serves(edge)
    seconds = int(time.monotonic() - began) + 2  # those that were begun
    replies = [reply for sock in socks for reply in _all(sock)]
    assert 10 <= len(replies) <= 10 * seconds
    assert all(len(reply) <= 64 for reply in replies)
    for sock in socks:
        sock.close()


def _all(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    found = []
    while True:
        try:
            found.append(sock.recv(2000))
        except BlockingIOError:
            return found


def test_junk_at_every_datagram_port_makes_little_log_and_no_bug(edge: Edge) -> None:
    chance, before = random.Random(7), len(edge.log().splitlines())
    for port in (TURN, OVERLAY, STAMP):
        with connect((edge.address, port), "udp", fresh_source()) as sock:
            for number in range(1500):
                sock.send(_junk(chance, number))
    for _ in range(300):
        sock = connect(edge.server(), "udp", fresh_source())
        sock.send(_junk(chance, 3))
        sock.close()
    serves(edge)
    assert sum(edge.drops().values()) > 1000
    assert len(edge.log().splitlines()) - before < 30
    assert len(edge.drops()) < 60  # reasons are words of ours, none of them made by a stranger


def _junk(chance: random.Random, number: int) -> bytes:
    """Of all kinds: random bytes, STUN with random attributes, damaged requests, ChannelData, one large datagram."""
    kind = number % 5
    if kind == 0:
        return chance.randbytes(chance.randrange(600))
    if kind == 1:
        attributes = [(chance.randrange(0x10000), chance.randbytes(chance.randrange(30))) for _ in range(5)]
        method, class_ = chance.randrange(0x1000), chance.randrange(4)
        return stun.build(method, class_, chance.randbytes(12), attributes, key=chance.choice([None, b"k"]))
    if kind == 2:
        damaged = bytearray(stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT], key=b"k"))
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        return bytes(damaged)
    if kind == 3:
        return b"\x40" + chance.randbytes(chance.randrange(50))
    return chance.randbytes(60_000 if number % 100 == 4 else 1)


def test_nothing_it_says_holds_a_secret(edge: Edge) -> None:
    """After logins good and bad of every kind: log, status, flows, metrics."""
    name = f"{int(time.time()) + 600}:visitor"
    password = time_limited_password(SECRET, name)
    for user, word in (("alice", "wonder"), ("alice", "not-the-password"), (name, password), (name, "wrong")):
        with a_client(edge.server(), "udp", user, word) as client:
            client.allocate()
    said = edge.log() + _page(edge)
    said += "".join(
        json.dumps(edge.ask(command)) for command in ("status", "flows", "paths", "mesh", "metrics")
    )
    hidden = [SECRET, password, "not-the-password", *re.findall(r":(\S+)", USERS)]
    assert [word for word in hidden if word in said] == []
    assert "visitor" not in _page(edge) and "alice" not in _page(edge)  # no metric names a user


def _page(edge: Edge) -> str:
    with urllib.request.urlopen(f"http://{edge.address}:{METRICS}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def test_the_control_socket_is_its_owners_alone(edge: Edge) -> None:
    path = edge.base / "run/control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_listens_where_it_was_told_to_and_nowhere_else(edge: Edge) -> None:
    address = _hex(edge.address)
    assert _sockets(edge, "tcp", state="0A") == {(address, port) for port in (TURN, TLS, METRICS)}
    udp = _sockets(edge, "udp", state="07")
    assert {port for ip, port in udp if ip == address} >= {TURN, OVERLAY, STAMP}
    assert {ip for ip, _ in udp} == {address}
    assert _sockets(edge, "tcp6") == _sockets(edge, "udp6") == set()


def _hex(ip: str) -> str:
    return "".join(f"{int(part):02X}" for part in reversed(ip.split(".")))


def _sockets(edge: Edge, kind: str, state: str | None = None) -> set[tuple[str, int]]:
    """(address as /proc has it, port) of the relay's own sockets of this kind."""
    assert edge.process is not None
    links = [_target(path) for path in Path(f"/proc/{edge.process.pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    found = set()
    for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
        row = line.split()
        if row[9] in inodes and state in (None, row[3]):
            ip, _, port = row[1].partition(":")
            found.add((ip, int(port, 16)))
    return found


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # closed meanwhile
        return ""


def test_a_pool_of_eight_ports_is_emptied_and_refilled(tmp_path: Path) -> None:
    with running(Edge(tmp_path, "edge-4", relay_ports=[40000, 40007])) as small:
        for transport in TRANSPORTS:
            clients = [SocketClient(small.server(transport), transport) for _ in range(10)]
            codes = [client.allocate().code for client in clients]
            assert codes == [None] * 8 + [508] * 2
            relays = small.wait(lambda status: status["allocations"] == 8)
            assert relays["turn"]["error_508"] >= 2
            for client in clients:
                if transport == "udp" and client.wire is not clients[-1].wire:
                    client.refresh(0)
                client.wire.close()  # of a stream that is the end of its allocation
            small.wait(lambda status: status["allocations"] == 0)
        serves(small)


def test_without_descriptors_the_operator_still_gets_his_answer(tmp_path: Path) -> None:
    """Clients take all that they may have, and strangers at the TCP port whatever is left."""
    small = Edge(tmp_path, "edge-8", relay_ports=[40000, 41000])
    small.most_descriptors = 256
    with running(small), contextlib.ExitStack() as held:
        clients: list[SocketClient] = []
        while not clients or clients[-1].allocate().code is None:
            clients.append(SocketClient(small.server()))
            held.callback(clients[-1].wire.close)
        for _ in range(120):
            held.enter_context(connect(small.server("tcp"), "tcp", fresh_source()))
        status = small.wait(lambda status: status["streams"]["accepted"] >= 30)
        assert status["allocations"] == len(clients) - 1 > 100
        assert small.descriptors() < 256
        assert "commcli_relay_allocations" in _page(small)
        assert clients[0].refresh(600).code is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_reply_without_the_password_is_longer_than_64_bytes_by_udp(edge: Edge, transport: str) -> None:
    """On a stream the source is no lie, so there it may be longer, and offers SHA-256."""
    client = SocketClient(edge.server(transport), transport)
    raw = client.wire.reply(stun.build(stun.ALLOCATE, stun.REQUEST, ID, [UDP_TRANSPORT]))
    client.wire.close()
    assert raw is not None
    assert (len(raw) <= 64) == (transport == "udp")
    assert (stun.parse(raw).first(stun.PASSWORD_ALGORITHMS) is None) == (transport == "udp")
