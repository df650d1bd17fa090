"""The lab's last mile: real loopback sockets, a clock that only moves when the test says so."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from commcli.relay.clients.lastmile import FarSocket, FarStreams, LastMile
from commcli.relay.clients.udp import BatchSocket, open_udp

CLIENT = ("192.0.2.1", 5000)
STREAM = ("192.0.2.1", 5000, "tcp")


class Clock:
    """Time, and when somebody wanted to be called."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wishes: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drops() -> Counter[str]:
    return Counter()


@pytest.fixture
def mile(clock: Clock, drops: Counter[str]) -> LastMile:
    return LastMile(drops, clock, clock.wishes.append)


def fates(mile: LastMile, clock: Clock, count: int, size: int = 100, **more: Any) -> list[float | None]:
    """Seconds that each of `count` packets takes, 10 ms apart; None for those lost."""
    sent_at: list[float] = []
    came: dict[int, float] = {}
    for number in range(count):
        sent_at.append(clock.now)
        mile.cross(CLIENT, True, size, partial(_arrives, came, number, clock), **more)
        _pass(mile, clock, 0.01)
    _pass(mile, clock, 30.0)
    return [came[number] - sent_at[number] if number in came else None for number in range(count)]


def _arrives(came: dict[int, float], number: int, clock: Clock) -> None:
    came[number] = clock.now


def _pass(mile: LastMile, clock: Clock, seconds: float) -> None:
    """Let time pass, from one due packet to the next."""
    end = clock.now + seconds
    while (due := mile.release(clock.now)) is not None and due <= end:
        clock.now = max(clock.now, due)
    clock.now = end


def test_without_a_rule_nothing_is_held(mile: LastMile) -> None:
    assert mile.clear and mile.release(0.0) is None


def test_delay_loss_and_its_bursts_are_those_of_the_rule(
    mile: LastMile, clock: Clock, drops: Counter[str]
) -> None:
    mile.set_rule({"delay_ms": 150, "loss": 0.05, "burst": 3}, 7)
    found = fates(mile, clock, 4000)
    lost = [fate is None for fate in found]
    runs = sum(here and not before for before, here in zip([False, *lost], lost, strict=False))
    assert sum(lost) / 4000 == pytest.approx(0.05, abs=0.02) and drops["lab_last_mile"] == sum(lost)
    assert sum(lost) / runs == pytest.approx(3, abs=0.8)
    assert all(fate == pytest.approx(0.15, abs=1e-6) for fate in found if fate is not None)


def test_a_run_of_losses_ends_with_a_silence(mile: LastMile, clock: Clock) -> None:
    mile.set_rule({"loss": 0.2, "burst": 50, "memory_ms": 200}, 7)
    lost = []
    for _ in range(2000):
        came: list[int] = []
        mile.cross(CLIENT, True, 100, partial(came.append, 1))
        _pass(mile, clock, 0.3)
        lost.append(not came)
    again = [after for before, after in pairwise(lost) if before]
    assert sum(lost) / 2000 == pytest.approx(0.2, abs=0.03)
    assert sum(again) / len(again) == pytest.approx(0.2, abs=0.07), "as if nothing had been lost before"


def test_a_rate_holds_and_its_queue_is_bounded(mile: LastMile, clock: Clock) -> None:
    mile.set_rule({"rate_kbit": 80, "queue_ms": 500}, 7)
    found = fates(mile, clock, 1000, size=200)  # 160 kbit/s are offered
    passed = [fate for fate in found if fate is not None]
    assert len(passed) * 200 * 8 / (1000 * 0.01) == pytest.approx(80_000, rel=0.06)
    assert max(passed) <= 0.5 + 200 * 8 / 80_000 + 1e-6


def test_reliable_clients_lose_time_and_not_frames(mile: LastMile, clock: Clock) -> None:
    mile.set_rule({"delay_ms": 100, "loss": 0.02}, 7)
    found = fates(mile, clock, 300, reliable=True)
    passed = [fate for fate in found if fate is not None]
    assert (
        len(passed) == 300
        and max(passed) == pytest.approx(0.3, abs=1e-6)
        and min(passed) == pytest.approx(0.1, abs=1e-6)
    )


def test_each_client_and_each_way_has_a_link_of_its_own(mile: LastMile, clock: Clock) -> None:
    mile.set_rule({"rate_kbit": 8, "queue_ms": 0}, 7)
    came: list[str] = []
    for name, client, up in (("a up", CLIENT, True), ("a down", CLIENT, False), ("b up", STREAM, True)):
        mile.cross(client, up, 100, partial(came.append, name))
        mile.cross(client, up, 100, partial(came.append, f"{name} second"))
    _pass(mile, clock, 10.0)
    assert came == ["a up", "a down", "b up"]


def test_order_is_kept_when_the_rule_is_taken_back(mile: LastMile, clock: Clock) -> None:
    came: list[int] = []
    mile.set_rule({"delay_ms": 200}, 7)
    mile.cross(CLIENT, True, 100, lambda: came.append(1))
    mile.set_rule(None, 0)
    assert not mile.clear
    mile.cross(CLIENT, True, 100, lambda: came.append(2))
    assert clock.wishes[-1] == pytest.approx(100.2)
    _pass(mile, clock, 1.0)
    assert came == [1, 2] and mile.clear


@pytest.mark.parametrize("rule", [{"loss": 2}, {"speed": 1}, {"delay_ms": "slow"}])
def test_a_rule_that_is_none_is_refused_and_changes_nothing(mile: LastMile, rule: dict[str, object]) -> None:
    mile.set_rule({"delay_ms": 1}, 7)
    with pytest.raises(ValueError):
        mile.set_rule(rule, 7)
    assert mile.rule == {"delay_ms": 1}


# --- sockets --------------------------------------------------------------------------------------------------------


READ: list[bytes] = []


def come(far: BatchSocket, _events: int) -> None:
    READ.extend(row[0] for row in far.read(2))


@pytest.fixture
def ends(mile: LastMile, drops: Counter[str]) -> Iterator[tuple[FarSocket, socket.socket]]:
    listening, client = open_udp("127.0.0.1", 0), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect(listening.getsockname())
    yield FarSocket(mile, listening, drops, come), client
    listening.close()
    client.close()


def test_datagrams_are_held_both_ways(
    mile: LastMile, clock: Clock, ends: tuple[FarSocket, socket.socket]
) -> None:
    far, client = ends
    READ.clear()
    mile.set_rule({"delay_ms": 150}, 7)
    client.send(b"up")
    assert far.read(1) == []
    _pass(mile, clock, 0.2)
    assert READ == [b"up"]
    client.setblocking(False)
    far.send_all([b"down", b"again"], client.getsockname())
    with pytest.raises(BlockingIOError):
        client.recv(100)
    _pass(mile, clock, 0.2)
    assert [client.recv(100), client.recv(100)] == [b"down", b"again"]


def test_without_a_rule_the_socket_is_as_any_other(ends: tuple[FarSocket, socket.socket]) -> None:
    far, client = ends
    client.send(b"up")
    assert [row[0] for row in far.read(1)] == [b"up"]
    far.send(b"down", client.getsockname())
    far.send_all([b"a", b"b"], client.getsockname())
    assert [client.recv(9), client.recv(9), client.recv(9)] == [b"down", b"a", b"b"]


class Both:
    """An edge and the streams at once."""

    def __init__(self) -> None:
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.gone: list[Any] = []

    def frames(self, client: Any, frames: list[bytes], now: float) -> None:
        self.up += frames

    def closed(self, client: Any) -> None:
        self.gone.append(client)

    def holds(self, client: Any) -> bool:
        return bool(client == STREAM)

    def send(self, client: Any, data: bytes) -> None:
        self.down.append(data)

    def send_all(self, client: Any, frames: Any) -> None:
        self.down += frames


def test_streams_are_held_both_ways_and_forgotten_when_they_are_gone(mile: LastMile, clock: Clock) -> None:
    both = Both()
    far = FarStreams(mile, both, clock)
    far.streams = both
    far.frames(STREAM, [b"1"], clock.now)
    far.send(STREAM, b"2")
    assert (both.up, both.down, far.holds(STREAM)) == ([b"1"], [b"2"], True)
    mile.set_rule({"delay_ms": 150}, 7)
    far.frames(STREAM, [b"3", b"4"], clock.now)
    far.send_all(STREAM, [b"5"])
    assert (both.up, both.down) == ([b"1"], [b"2"])
    _pass(mile, clock, 0.2)
    assert (both.up, both.down) == ([b"1", b"3", b"4"], [b"2", b"5"])
    far.frames(STREAM, [b"6"], clock.now)
    far.closed(STREAM)
    _pass(mile, clock, 0.2)
    assert (both.up[-1], both.gone) == (b"4", [STREAM])
