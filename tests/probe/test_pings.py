from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from commcli.probe.pings import Pinger


class Channel:
    """One end of a data channel; what is sent lies in `sent`."""

    readyState, bufferedAmount = "open", 0

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.flushed = 0
        self.left_s = 0.0
        self._take: Callable[[Any], None] = lambda message: None

    def on(self, event: str, f: Callable[[Any], None]) -> None:
        self._take = f

    def send(self, data: str) -> None:
        self.sent.append(data)

    def receive(self, message: str) -> None:
        self._take(message)

    async def flush(self) -> float:
        self.flushed += 1
        return self.left_s


async def test_a_ping_is_answered_with_the_time_that_it_came_in() -> None:
    channel = Channel()
    Pinger(channel, arrived_s=lambda: 7.5, flush=channel.flush)
    channel.receive("ping 3 1000.000")
    await asyncio.sleep(0)
    word, number, t1, t2, t3 = channel.sent[0].split()
    assert (word, number, t1, t2) == ("pong", "3", "1000.000", "7500.000")
    assert float(t3) > 7500
    assert channel.flushed == 1


async def test_a_channel_that_closed_meanwhile_is_not_answered_on() -> None:
    channel = Channel()
    Pinger(channel)
    channel.receive("ping 3 1000.000")
    channel.readyState = "closed"
    await asyncio.sleep(0)
    assert channel.sent == []


async def test_an_exchange_is_from_when_the_ping_went_out_to_when_the_answer_came_in() -> None:
    channel = Channel()
    pinger = Pinger(channel, interval_s=60, arrived_s=lambda: 5e9 + 1.1, flush=channel.flush)
    channel.left_s = 5e9 + 1
    running = asyncio.ensure_future(pinger.run())
    await asyncio.sleep(0)
    running.cancel()
    channel.receive("pong 1 1000.000 1040.000 1041.000")
    (exchange,) = pinger.exchanges
    assert exchange.rtt_ms == pytest.approx(99.0, abs=0.01)
    assert pinger.rtt_s() == pytest.approx(0.099, abs=0.00001)


async def test_an_answer_to_nothing_says_nothing() -> None:
    channel = Channel()
    pinger = Pinger(channel)
    channel.receive("pong 1 1000.000 1040.000 1041.000")
    assert pinger.exchanges == []


async def test_it_sends_at_once() -> None:
    channel = Channel()
    pinger = Pinger(channel, interval_s=60, flush=channel.flush)
    before = time.time()
    running = asyncio.ensure_future(pinger.run())
    await asyncio.sleep(0)
    running.cancel()
    assert channel.sent[0].startswith("ping 1 ")
    assert before <= pinger.sent[1] <= time.time()
    assert channel.flushed == 1
