"""The mesh's sockets and the clock, as a process has them."""

from __future__ import annotations

import io
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.relay.clients.udp import open_udp
from commcli.relay.config import load
from commcli.relay.log import Log
from commcli.relay.mesh.budget import Budget
from commcli.relay.mesh.reflector import UNKNOWN_TTL
from commcli.relay.mesh.stamp import UNKNOWN_CLOCK, ErrorEstimate
from commcli.relay.process import timesync
from commcli.relay.process.daemon import Relay
from commcli.relay.process.stamped import MOST_BYTES, OLDEST_S, StampedSocket
from tests.relay.test_bind_address import written


@pytest.fixture(params=["127.0.0.1", "::1"])
def sock(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    try:
        made = open_udp(request.param, 0)
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    with made:
        yield made


@pytest.mark.parametrize("ttl", [True, False])
def test_datagrams_come_with_their_age_and_ttl(sock: socket.socket, ttl: bool) -> None:
    drops: Counter[str] = Counter()
    stamped = StampedSocket(sock, drops, ttl=ttl)
    assert stamped.read() == []
    with socket.socket(sock.family, socket.SOCK_DGRAM) as peer:
        if sock.family == socket.AF_INET6:
            peer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 61)
        else:
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 61)
        for size in (44, 0, MOST_BYTES + 1):
            peer.sendto(bytes(size), sock.getsockname())
        source = (sock.getsockname()[0], peer.getsockname()[1])
    arrivals = stamped.read()
    assert [(len(data), found) for data, found, _, _ in arrivals] == [
        (44, source), (0, source), (MOST_BYTES, source),
    ]  # fmt: skip
    ages_s = [age_s for _, _, age_s, _ in arrivals]
    assert all(0 <= age_s <= OLDEST_S for age_s in ages_s)
    assert {found for _, _, _, found in arrivals} == {61 if ttl else UNKNOWN_TTL}
    assert stamped.is_told and not drops


def test_where_the_kernel_does_not_say_when_they_came(sock: socket.socket) -> None:
    stamped = StampedSocket(sock, Counter(), ttl=False)
    sock.setsockopt(socket.SOL_SOCKET, 35, 0)
    with socket.socket(sock.family, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", sock.getsockname())
    assert [(data, age_s) for data, _, age_s, _ in stamped.read()] == [(b"x", 0.0)]
    assert not stamped.is_told


@pytest.mark.parametrize(
    ("found", "estimate"),
    [
        ((0, 0x2001, 12_000, 300), ErrorEstimate(True, 0.012)),  # ntpd, chronyd: maxerror is what holds
        ((0, 0x2001, 300, 12_000), ErrorEstimate(True, 0.012)),
        ((0, 0x2001, 0, 0), ErrorEstimate(True, 0.001)),  # systemd-timesyncd, just after it set the clock
        ((5, 0x0040, 16_000_000, 16_000_000), UNKNOWN_CLOCK),
        ((5, 0x2001, 10, 10), UNKNOWN_CLOCK),
        ((0, 0x2041, 10, 10), UNKNOWN_CLOCK),
        ((-1, 0, 0, 0), UNKNOWN_CLOCK),
    ],
)
def test_the_kernels_word_on_the_clock(found: tuple[int, int, int, int], estimate: ErrorEstimate) -> None:
    assert timesync.judged(*found) == estimate


def test_this_machines_clock_is_asked_for() -> None:
    estimate = timesync.clock()
    assert estimate == UNKNOWN_CLOCK or (estimate.synchronized and 0.001 <= estimate.error_s <= 16.0)


def test_a_running_relay_takes_up_another_budget(tmp_path: Path) -> None:
    relay = Relay(load(written(tmp_path)), "test", Log(out=io.StringIO()))
    try:
        assert relay.fleet is not None
        assert relay.fleet.mesh.interval_s == 0.2
        assert relay.reconfigure(relay.config._replace(mesh=Budget(200.0, 2.0))) == []
        assert relay.fleet.mesh.interval_s == 0.5
    finally:
        relay.close()
