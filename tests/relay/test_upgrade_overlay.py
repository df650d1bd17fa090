"""Every relay on the way of a call over the overlay is upgraded: ingress, transit and egress, and no packet is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commcli.relay.turn.auth import time_limited_password
from tests.hostile.wire import SocketClient
from tests.relay.test_fleet_of_relays import ADDRESSES, IDS, TURN, _Fleet
from tests.relay.upgrading import CHANNEL, PACKETS_A_SECOND, WITHIN_S, gone


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[_Fleet]:
    running = _Fleet(tmp_path)
    try:
        running.start_all()
        running.publish(1)
        running.wait_for_the_overlay()
        yield running
    finally:
        for node in IDS:
            with contextlib.suppress(OSError):
                pid = running.ask(node, "status")["pid"]
                os.kill(pid, signal.SIGTERM)
                gone(pid)
        running.stop()


class _Side:
    """One end of the call."""

    def __init__(self, node: str) -> None:
        username = f"{int(time.time()) + 600}:probe"
        password = time_limited_password("the shared secret", username)
        self.client = SocketClient((ADDRESSES[node], TURN), "udp", username, password)
        self.relayed = self.client.allocate().relayed
        self.heard: list[int] = []
        self.sent = 0

    def listen(self, over: threading.Event) -> None:
        while not over.is_set():
            frame = self.client.wire.receive()
            if frame is not None and frame[0] == CHANNEL >> 8:
                self.heard.append(int.from_bytes(frame[4:8], "big"))

    def talk(self, ends: threading.Event) -> None:
        due = time.monotonic()
        while not ends.is_set():
            self.client.channel(CHANNEL, self.sent.to_bytes(4, "big") + bytes(96))
            self.sent += 1
            due += 1 / PACKETS_A_SECOND
            time.sleep(max(0.0, due - time.monotonic()))


@contextlib.contextmanager
def _call() -> Iterator[tuple[_Side, _Side]]:
    one, other = _Side("ae-1"), _Side("kr-1")
    codes = one.client.bind(CHANNEL, other.relayed).code, other.client.bind(CHANNEL, one.relayed).code
    assert codes == (None, None)
    ends, over = threading.Event(), threading.Event()
    for side in (one, other):
        side.client.wire.sock.settimeout(0.2)
    listening = [threading.Thread(target=side.listen, args=(over,)) for side in (one, other)]
    talking = [threading.Thread(target=side.talk, args=(ends,)) for side in (one, other)]
    try:
        for thread in (*listening, *talking):
            thread.start()
        yield one, other
        ends.set()
        for thread in talking:
            thread.join()
        _wait(lambda: len(one.heard) == other.sent and len(other.heard) == one.sent, 3.0)
    finally:
        ends.set()
        over.set()
        for thread in (*listening, *talking):
            thread.join()
        one.client.wire.close()
        other.client.wire.close()


def _wait(true: Callable[[], bool], seconds: float = WITHIN_S) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


def _goes_on(*sides: _Side) -> bool:
    """Until every side has heard 40 packets more."""
    wanted = [len(side.heard) + 40 for side in sides]
    return _wait(lambda: all(len(side.heard) >= most for side, most in zip(sides, wanted, strict=True)))


def test_a_call_over_three_relays_that_are_all_upgraded(fleet: _Fleet) -> None:
    with _call() as (one, other):
        assert _goes_on(one, other)
        for node in ("sg-1", "ae-1", "kr-1", "sg-1"):
            answer = fleet.ask(node, "upgrade")
            assert answer["ok"], answer
            assert _goes_on(one, other)
        paths = fleet.ask("ae-1", "paths")["paths"]
        flows = {flow["role"] for flow in fleet.ask("sg-1", "flows")["flows"]}
    assert paths["kr-1"]["active"] == "primary" and paths["kr-1"]["switches"] == []
    assert flows == {"transit"}
    for hearer, teller in ((one, other), (other, one)):
        assert sorted(set(range(teller.sent)) - set(hearer.heard)) == []
        assert len(hearer.heard) == len(set(hearer.heard))
