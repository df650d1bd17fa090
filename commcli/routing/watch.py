"""Watching the canary after it has loaded a table, before anybody else hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from commcli.errors import CommcliError, OutOfReach
from commcli.fleet.model import Node
from commcli.remote.outcome import Event, OnEvent
from commcli.routing import canary
from commcli.routing.canary import Facts

WATCH_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a watch: `words` say what was seen; `is_bad`, that it speaks against the table."""

    words: str
    is_bad: bool = False


# Calls through this node: None if there is nothing to call, or what was seen.
Call = Callable[[Node], Awaitable[Seen | None]]


class Watch:
    """A canary's calls are watched for `seconds`; where it carries none, one call is made through it by `call`, and
    nobody waits for anything else.
    """

    def __init__(
        self,
        facts: Callable[[Node], Awaitable[Facts]],
        *,
        seconds: float = WATCH_S,
        call: Call | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._facts, self._seconds, self._call, self._sleep = facts, seconds, call, sleep

    async def before(self, node: Node) -> Facts | None:
        """To be asked for before the push; None where the relay does not say: the push will find out why."""
        try:
            return await self._patiently(node)
        except CommcliError:
            return None

    async def after(
        self,
        node: Node,
        serial: int,
        before: Facts | None,
        *,
        most_s: float | None = None,
        on_event: OnEvent | None = None,
    ) -> Seen:
        """Watch for no longer than `most_s` and judge."""
        if before is None:
            return Seen("its calls before the push are not known, so they were not judged")
        if not before.carries_calls:
            return await self._by_call(node, serial, before, on_event)
        seconds = self._seconds if most_s is None else min(self._seconds, most_s)
        _tell(on_event, node, f"table {serial}: watching its calls for {seconds:g} s")
        await self._sleep(seconds)
        words = f"its calls stay good: {before.allocations} allocations, watched for {seconds:g} s"
        return await self._judged(node, serial, before, words)

    async def _by_call(self, node: Node, serial: int, before: Facts, on_event: OnEvent | None) -> Seen:
        if self._call is not None:
            _tell(on_event, node, f"table {serial}: a call through it")
        seen = None if self._call is None else await self._call(node)
        if seen is None:
            return Seen("it carries no calls")
        return seen if seen.is_bad else await self._judged(node, serial, before, seen.words)

    async def _judged(self, node: Node, serial: int, before: Facts, words: str) -> Seen:
        try:
            after = await self._patiently(node)
        except CommcliError as error:
            return Seen(f"its relay does not answer under the new table: {error}", is_bad=True)
        reason = canary.verdict(before, after, serial)
        return Seen(words) if reason is None else Seen(reason, is_bad=True)

    async def _patiently(self, node: Node) -> Facts:
        try:
            return await self._facts(node)
        except OutOfReach:
            # One lost connection on the way there is not the table's, and no reason not to judge it.
            return await self._facts(node)


def _tell(on_event: OnEvent | None, node: Node, text: str) -> None:
    if on_event is not None:
        on_event(Event(node.id, text))
