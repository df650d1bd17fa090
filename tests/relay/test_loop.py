from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from commcli.relay.loop import Loop


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    yield near, far
    near.close()
    far.close()


def test_a_callback_that_raises_ends_nothing(wire: tuple[socket.socket, socket.socket]) -> None:
    near, far = wire
    failures: list[Exception] = []
    loop = Loop(lambda _now: None, failures.append)

    def received(_events: int) -> None:
        word = near.recv(10)
        if word == b"stop":
            loop.stop()
        else:
            raise ValueError(word)

    loop.add(near, received)
    far.send(b"bad")
    far.send(b"worse")
    far.send(b"stop")
    loop.run()
    loop.close()
    assert [error.args for error in failures] == [(b"bad",), (b"worse",)]


def test_a_tick_that_raises_comes_again_at_its_time() -> None:
    failures: list[Exception] = []
    ticks: list[float] = []

    def tick(now: float) -> None:
        ticks.append(now)
        if len(ticks) == 3:
            loop.stop()
        raise ValueError("tick")

    loop = Loop(tick, failures.append)
    loop.run()
    loop.close()
    assert len(failures) == 3
    assert ticks[1] > ticks[0] and ticks[2] > ticks[1]


def test_without_a_judge_an_error_is_not_swallowed() -> None:
    def tick(_now: float) -> None:
        raise ValueError("tick")

    loop = Loop(tick)
    with pytest.raises(ValueError, match="tick"):
        loop.run()
    loop.close()


def test_the_tick_does_not_wait_for_the_end_of_a_batch(wire: tuple[socket.socket, socket.socket]) -> None:
    """A callback that takes longer than a tick: before the next socket of the same batch the tick has its turn."""
    near, far = wire
    other, other_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    order: list[str] = []
    loop = Loop(lambda _now: order.append("tick"))

    def slow(_events: int) -> None:
        order.append("socket")
        near.recv(10) if len(order) == 2 else other.recv(10)
        loop._due = 0.0  # the time has come
        if order.count("socket") == 2:
            loop.stop()

    loop.add(near, slow)
    loop.add(other, slow)
    far.send(b"1")
    other_far.send(b"1")
    loop.run()
    loop.close()
    other.close()
    other_far.close()
    assert order == ["tick", "socket", "tick", "socket"]
