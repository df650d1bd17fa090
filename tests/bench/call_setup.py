"""Calls set up per minute: two TURN allocations, permissions, and the first packet through both, by aioice's client.

Our relay and coturn in turn, in one run; the figure to read is the ratio. One client process drives both, and it is
the slower part: the ratio says what a relay adds to it, not what a relay could do alone.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aioice import turn

from tests.bench.rivals import coturn
from tests.relay.serving import ADDRESS, plain_relay

ROUNDS, CALLS, TOGETHER = 5, 100, 8


class _ManyClients(asyncio.SelectorEventLoop):
    """Gives every client an address of its own, as real ones have: a relay limits refusals a source address."""

    _sources = itertools.cycle(f"127.1.{high}.{low}" for high in range(1, 250) for low in range(1, 250))

    async def create_datagram_endpoint(self, *arguments: Any, **options: Any) -> Any:
        if options.get("remote_addr") is not None:
            options["local_addr"] = (next(self._sources), 0)
        return await super().create_datagram_endpoint(*arguments, **options)


class _First(asyncio.DatagramProtocol):
    """Waits for the first packet."""

    def __init__(self) -> None:
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, _data: bytes, _addr: Any) -> None:
        if not self.came.done():
            self.came.set_result(None)


async def _endpoint(port: int) -> tuple[Any, _First]:
    transport, protocol = await turn.create_turn_endpoint(
        _First, server_addr=(ADDRESS, port), username="user", password="pass"
    )
    assert isinstance(protocol, _First)
    return transport, protocol


async def _call(port: int) -> None:
    (one, first), (other, second) = await asyncio.gather(_endpoint(port), _endpoint(port))
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    while not (first.came.done() and second.came.done()):
        one.sendto(b"x", there)
        other.sendto(b"x", here)
        await asyncio.wait([first.came, second.came], timeout=0.02)
    one.close()
    other.close()


async def _calls(port: int) -> float:
    """Seconds for CALLS calls, TOGETHER at a time."""
    gate = asyncio.Semaphore(TOGETHER)

    async def gated(call: Callable[[int], Awaitable[None]]) -> None:
        async with gate:
            await call(port)

    began = time.perf_counter()
    await asyncio.gather(*(gated(_call) for _ in range(CALLS)))
    return time.perf_counter() - began


def _timed(port: int) -> float:
    with asyncio.Runner(loop_factory=_ManyClients) as runner:
        return runner.run(_calls(port))


def main() -> None:
    """Print calls a minute of both and the ratio."""
    if shutil.which("turnserver") is None:
        print("call_setup: coturn's turnserver is not installed; only our own figure")
    ours: list[float] = []
    theirs: list[float] = []
    with plain_relay("--allow-peer", "127.0.0.0/8") as relay:
        for _ in range(ROUNDS):
            ours.append(_timed(relay.port))
            if shutil.which("turnserver") is not None:
                with coturn() as rival:
                    theirs.append(_timed(rival.port))
    per_minute = [60 * CALLS / seconds for seconds in ours]
    print(f"calls set up per minute, commcli: median {statistics.median(per_minute):.0f} of {ROUNDS} rounds")
    if theirs:
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        coturn_minute = statistics.median(60 * CALLS / seconds for seconds in theirs)
        print(f"calls set up per minute, coturn:  median {coturn_minute:.0f}")
        print(
            f"ratio commcli / coturn: median {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
