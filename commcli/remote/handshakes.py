"""Handshakes in flight: a login costs this machine milliseconds of work, and a hundred at once make each other late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Together as many a second as one processor does key exchanges.
MOST = 32
LENT_S = 0.25


class Handshakes:
    """At most `most` at a time. One that is not done after `lent_s` waits for the network and not for us: the next may
    begin, so that silent hosts hold up nobody.
    """

    def __init__(self, most: int = MOST, lent_s: float = LENT_S) -> None:
        self._gate = asyncio.Semaphore(most)
        self._lent_s = lent_s

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait until there is room, and take it while the body runs, for `lent_s` at most."""
        await self._gate.acquire()
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._gate.release()

        timer = asyncio.get_running_loop().call_later(self._lent_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()
