from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from commcli.relay.config import ConfigError
from commcli.relay.shaping import Shaper
from commcli.relay.udp import Egress, RelayPool, bound_udp, open_udp

ADDRESS = "127.0.0.1"
PORTS = (41000, 41007)


@pytest.fixture
def pool() -> Iterator[RelayPool]:
    made = RelayPool(ADDRESS, PORTS, random.Random(1).randrange, lambda _: None, lambda _: None)
    yield made
    for relay in list(made.sockets):
        made.close(relay)


def test_the_pool_gives_every_port_once_and_takes_them_back(pool: RelayPool) -> None:
    given = [pool.open() for _ in range(8)]
    assert sorted(port for _, port in filter(None, given)) == list(range(41000, 41008))
    assert pool.open() is None
    pool.close((ADDRESS, 41003))
    assert pool.open() == (ADDRESS, 41003)


def test_a_port_that_another_process_holds_is_passed_over(pool: RelayPool) -> None:
    taken = open_udp(ADDRESS, 41005)
    try:
        given = {port for _, port in filter(None, [pool.open() for _ in range(8)])}
    finally:
        taken.close()
    assert given == set(range(41000, 41008)) - {41005}


def test_a_taken_port_of_the_configuration_is_one_clear_line() -> None:
    taken = open_udp(ADDRESS, 41005)
    try:
        with pytest.raises(ConfigError, match=r"cannot bind UDP 127\.0\.0\.1:41005: Address already in use"):
            bound_udp(ADDRESS, 41005)
    finally:
        taken.close()


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
