from __future__ import annotations

import errno
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest

from commcli.relay.clients.udp import (
    DRAIN,
    UDP_GRO,
    UDP_SEGMENT,
    BatchSocket,
    Egress,
    RelayPool,
    bound_udp,
    open_udp,
    split,
)
from commcli.relay.config import ConfigError
from commcli.relay.shaping import Shaper
from commcli.relay.turn.stun import IPV4, Addr

ADDRESS = "127.0.0.1"
PORTS = (10400, 10407)  # below the ephemeral ports


def _nobody(_relay: Addr, _sock: socket.socket) -> None:
    """Nobody is told."""


@pytest.fixture
def pool() -> Iterator[RelayPool]:
    made = RelayPool([ADDRESS], PORTS, random.Random(1).randrange, _nobody, _nobody)
    yield made
    for relay in list(made.sockets):
        made.close(relay)


def test_the_pool_gives_every_port_once_and_takes_them_back(pool: RelayPool) -> None:
    given = [port for _ in range(8) for _, port in pool.open(IPV4)]
    assert sorted(given) == list(range(10400, 10408))
    assert pool.open(IPV4) == []
    pool.close((ADDRESS, 10403))
    assert pool.open(IPV4) == [(ADDRESS, 10403)]


def test_a_port_that_another_process_holds_is_passed_over(pool: RelayPool) -> None:
    taken = open_udp(ADDRESS, 10405)
    try:
        given = {port for _ in range(8) for _, port in pool.open(IPV4)}
    finally:
        taken.close()
    assert given == set(range(10400, 10408)) - {10405}


def test_even_ports_and_pairs(pool: RelayPool) -> None:
    [(_, even)] = pool.open(IPV4, "even")
    first, second = pool.open(IPV4, "pair")
    assert even % 2 == first[1] % 2 == 0 and second == (ADDRESS, first[1] + 1)
    while pool.open(IPV4, "pair"):
        pass
    # One odd port is left, beside the even one that was asked for alone.
    assert pool.open(IPV4, "even") == []
    assert pool.open(IPV4) == [(ADDRESS, even + 1)]
    assert pool.open(IPV4) == []


def test_processes_share_the_range_and_never_a_pair() -> None:
    parts = [RelayPool([ADDRESS], PORTS, lambda _: 0, _nobody, _nobody, (part, 3)) for part in range(3)]
    given = [[port for _ in range(8) for _, port in pool.open(IPV4)] for pool in parts]
    try:
        assert sorted(port for ports in given for port in ports) == list(range(10400, 10408))
        assert {port >> 1 for port in given[0]}.isdisjoint({port >> 1 for port in given[1] + given[2]})
    finally:
        for pool in parts:
            for relay in list(pool.sockets):
                pool.close(relay)


def test_a_taken_port_of_the_configuration_is_one_clear_line() -> None:
    taken = open_udp(ADDRESS, 10405)
    try:
        with pytest.raises(ConfigError, match=r"cannot bind UDP 127\.0\.0\.1:10405: Address already in use"):
            bound_udp(ADDRESS, 10405)
    finally:
        taken.close()


def test_without_descriptors_a_client_is_refused_at_once_and_some_are_left_over() -> None:
    """In a process of its own: the limit would hold for every later test."""
    script = """
import resource, socket
from commcli.relay.clients.udp import SPARE_DESCRIPTORS, RelayPool
resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE_DESCRIPTORS + 16, SPARE_DESCRIPTORS + 16))
asked = []
def below(size):
    asked.append(size)
    return len(asked) % size
pool = RelayPool(["127.0.0.1"], (10500, 11999), below, lambda *_: None, lambda *_: None)
while pool.open(1):
    pass
before = len(asked)
assert pool.open(1) == [] and len(asked) == before + 1, "walked the pool for a descriptor"
assert 1 <= len(pool.sockets) < 16 and pool.errors["EMFILE"] == 2, (len(pool.sockets), pool.errors)
spare = [socket.socket() for _ in range(SPARE_DESCRIPTORS - 1)]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_address_that_went_away_refuses_the_client_and_ends_nothing() -> None:
    # TEST-NET-1: no machine has it.
    gone = RelayPool(["192.0.2.1"], PORTS, random.Random(1).randrange, _nobody, _nobody)
    assert gone.open(IPV4) == []
    assert gone.errors == {"EADDRNOTAVAIL": 1}


def test_a_loop_that_can_take_no_more_sockets_refuses_the_client() -> None:
    def full(_relay: Addr, _: socket.socket) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    pool = RelayPool([ADDRESS], PORTS, random.Random(1).randrange, full, _nobody)
    assert pool.open(IPV4) == []
    assert pool.sockets == {}
    assert pool.errors == {"ENOSPC": 1}


def test_an_ipv6_socket_is_no_door_into_ipv4() -> None:
    try:
        sock = open_udp("::1", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        with pytest.raises(OSError):
            sock.sendto(b"x", ("::ffff:127.0.0.1", 10405))
    finally:
        sock.close()


class _Pair:
    """A sender and a receiver on loopback."""

    def __init__(self) -> None:
        self.out, self.inbox = open_udp(ADDRESS, 0), open_udp(ADDRESS, 0)
        self.to: tuple[str, int] = self.inbox.getsockname()

    def received(self) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.inbox.recv(2000))
        except BlockingIOError:
            return found


@pytest.fixture
def pair() -> Iterator[_Pair]:
    made = _Pair()
    yield made
    made.out.close()
    made.inbox.close()


def test_without_the_lab_nothing_is_held(pair: _Pair) -> None:
    egress = Egress(Counter())
    egress.send(pair.out, b"now", pair.to, now=0.0)
    assert pair.received() == [b"now"]
    assert egress.release(0.0) is None


def test_the_lab_holds_each_packet_for_its_delay(pair: _Pair) -> None:
    egress = Egress(Counter())
    egress.shaper = Shaper({ADDRESS: {"delay_ms": 50}}, seed=1)
    egress.send(pair.out, b"one", pair.to, now=10.0)
    egress.send(pair.out, b"two", pair.to, now=10.01)
    assert egress.release(10.049) == pytest.approx(10.05)
    assert pair.received() == []
    assert egress.release(10.05) == pytest.approx(10.06)
    assert pair.received() == [b"one"]
    assert egress.release(11.0) is None
    assert pair.received() == [b"two"]


def test_loss_and_dead_sockets_are_counted_never_raised(pair: _Pair) -> None:
    drops: Counter[str] = Counter()
    egress = Egress(drops)
    egress.shaper = Shaper({ADDRESS: {"loss": 1.0}}, seed=1)
    egress.send(pair.out, b"lost", pair.to, now=0.0)
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.close()
    egress.send_now(gone, b"x", pair.to)
    egress.send_now(pair.out, b"x" * 70_000, pair.to)
    assert drops == {"lab_loss": 1, "send_error": 2}


class Inbox:
    """A socket of recvmsg's kind that holds what a test puts in, and counts how often it is asked."""

    def __init__(self, *waiting: tuple[bytes, int]) -> None:
        self.waiting, self.asked = list(waiting), 0

    def setsockopt(self, *_option: object) -> None: ...

    def sendto(self, *_datagram: object) -> None: ...

    def recvmsg(self, _most: int, _ancillary: int) -> tuple[bytes, list[object], int, Addr]:
        self.asked += 1
        if not self.waiting:
            raise BlockingIOError
        data, segment = self.waiting.pop(0)
        train = [(socket.IPPROTO_UDP, UDP_GRO, segment.to_bytes(4, sys.byteorder))] if segment else []
        return data, list(train), 0, (ADDRESS, 1)


def reader(*waiting: tuple[bytes, int]) -> tuple[Inbox, BatchSocket]:
    inbox = Inbox(*waiting)
    return inbox, BatchSocket(inbox, Counter())  # type: ignore[arg-type]  # as much of a socket as it needs


def test_a_lone_datagram_is_not_followed_by_a_look_into_an_empty_socket() -> None:
    inbox, batches = reader((b"one", 0))
    assert len(batches.read(10)) == 1
    assert inbox.asked == 1


def test_what_was_left_behind_is_read_in_growing_numbers_and_remembered() -> None:
    inbox, batches = reader(*[(b"x", 0)] * 10)
    assert [len(batches.read(turn)) for turn in (1, 2, 3)] == [1, 4, 5]
    inbox.waiting, inbox.asked = [(b"x", 0)] * 10, 0
    assert len(batches.read(9)) == 10  # as many as came together last time
    assert inbox.asked == 10
    inbox.waiting = [(b"x", 0)]
    assert len(batches.read(20)) == 1
    inbox.waiting, inbox.asked = [(b"x", 0)], 0
    assert len(batches.read(30)) == 1
    assert inbox.asked == 1  # and forgotten again


def test_a_turn_is_so_many_datagrams_however_they_are_packed() -> None:
    """A flood that the network card has put into trains must not hold the loop up for longer than any other."""
    inbox, batches = reader(*[(b"x" * 64, 1)] * 64)
    for turn in range(1, 9):
        received = batches.read(turn)
        assert sum(len(split(data, ancillary)) for data, ancillary, _, _ in received) <= 2 * DRAIN
    assert len(inbox.waiting) > 48


def test_after_a_train_a_long_datagram_leaves_whole(pair: _Pair) -> None:
    batches = BatchSocket(pair.out, Counter())
    batches.send_all([b"a" * 100, b"b" * 100, b"c" * 30], pair.to)
    batches.send(b"d" * 1000, pair.to)
    batches.send_all([b"e" * 50] * 2, pair.to)
    batches.send_all([b"", b"f"], pair.to)
    assert pair.received() == [
        b"a" * 100,
        b"b" * 100,
        b"c" * 30,
        b"d" * 1000,
        b"e" * 50,
        b"e" * 50,
        b"",
        b"f",
    ]
    assert batches.drops == {}


def test_a_datagram_that_fails_beside_trains_is_tried_as_it_is() -> None:
    class Narrow(Inbox):
        """A path that takes no datagram while trains are split."""

        splits = 0
        sent: ClassVar[list[bytes]] = []

        def setsockopt(self, *option: object) -> None:
            if option[1] == UDP_SEGMENT:
                self.splits = int(str(option[2]))

        def sendto(self, *datagram: object) -> None:
            data = datagram[0]
            assert isinstance(data, bytes)
            if self.splits and len(data) <= self.splits:
                raise OSError(errno.EMSGSIZE, "too long")
            self.sent.append(data)

    batches = BatchSocket(Narrow(), Counter())  # type: ignore[arg-type]  # as much of a socket as it needs
    batches.send_all([b"x" * 10] * 2, (ADDRESS, 1))
    batches.send(b"victim", (ADDRESS, 1))
    assert Narrow.sent == [b"x" * 20, b"victim"]
    assert batches.drops == {}


def test_a_pair_is_not_looked_for_where_half_of_it_is_ours() -> None:
    opened: list[int] = []
    pool = RelayPool(
        [ADDRESS],
        (10420, 10499),
        random.Random(2).randrange,
        lambda relay, _: opened.append(relay[1]),
        _nobody,
    )
    try:
        while pool.open(IPV4):
            pass
        for port in range(10420, 10500, 2):
            pool.close((ADDRESS, port))
        opened.clear()
        assert pool.open(IPV4, "pair") == []
        assert opened == []
    finally:
        for relay in list(pool.sockets):
            pool.close(relay)
