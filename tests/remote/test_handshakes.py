"""Handshakes in flight are bounded, and who is silent in one holds up nobody."""

from __future__ import annotations

import asyncio

from commcli.remote.handshakes import Handshakes

FOR_EVER_S = 3600.0


async def test_no_more_than_so_many_at_a_time() -> None:
    handshakes, now, most = Handshakes(3, FOR_EVER_S), 0, 0

    async def shake() -> None:
        nonlocal now, most
        async with handshakes.one():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(shake() for _ in range(20)))
    assert most == 3


async def test_silent_ones_hold_up_nobody_and_give_no_room_twice() -> None:
    handshakes, inside = Handshakes(2, 0.0), 0

    async def silent() -> None:
        nonlocal inside
        async with handshakes.one():
            inside += 1
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(silent()) for _ in range(20)]
    async with asyncio.timeout(20):
        while inside < 20:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert handshakes._gate._value == 2


async def test_a_handshake_that_fails_makes_room() -> None:
    handshakes = Handshakes(1, FOR_EVER_S)
    for _ in range(3):
        try:
            async with asyncio.timeout(20), handshakes.one():
                raise ConnectionResetError
        except ConnectionResetError:
            pass
