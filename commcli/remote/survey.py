"""One question to many relays: every node's answer, or what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import Event, Failed, OnEvent, Outcome, each
from commcli.remote.ssh import Pool

DRAIN_LOOK_EVERY_S = 2.0
Answer = dict[str, Any]


async def ask_all(
    fleet: Fleet,
    nodes: Sequence[Node],
    command: str,
    *,
    pool: Pool | None = None,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
    **arguments: Any,
) -> list[Outcome[dict[str, Any]]]:
    """Ask each node's relay `command` over its control socket; outcomes in the order of `nodes`.

    `pool` is used where the caller has one with live connections, otherwise one is opened for this survey.
    """
    if pool is None:
        async with Pool(fleet) as own:
            return await ask_all(
                fleet, nodes, command, pool=own, deadline_s=deadline_s, on_event=on_event, **arguments
            )

    async def one(node: Node) -> dict[str, Any]:
        return await control.ask(await pool.connect(node), node, command, **arguments)

    return await each(nodes, one, parallel=fleet.ssh.parallel, deadline_s=deadline_s, on_event=on_event)


async def await_drained(
    pool: Pool,
    nodes: Sequence[Node],
    answers: Sequence[Outcome[Answer]],
    *,
    stop: bool,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
) -> list[Outcome[Answer]]:
    """Be back when the relays are drained that gave these `answers` to `drain`, and with `stop` have ended.

    Outcomes in the order of `answers`: {"drain", "drained", "draining", "allocations", "stopped"}; what was no answer
    stays what it was.
    """
    asked = {outcome.node: outcome.value for outcome in answers if outcome.value is not None}

    async def one(node: Node) -> Answer:
        async def status() -> Answer:
            # Each time anew: the pool keeps what is live, and a drain may take hours.
            return await control.ask(await pool.connect(node), node, "status")

        told = None if on_event is None else lambda text: on_event(Event(node.id, text))
        return await drained(status, asked[node.id], stop=stop, told=told)

    waiting = [node for node in nodes if node.id in asked]
    ended = await each(waiting, one, parallel=len(waiting), deadline_s=deadline_s, on_event=on_event)
    found = {outcome.node: outcome for outcome in ended}
    return [found.get(outcome.node, outcome) for outcome in answers]


async def drained(
    status: Callable[[], Awaitable[Answer]],
    answer: Answer,
    *,
    stop: bool,
    told: Callable[[str], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Answer:
    """Ask for the `status` of a relay that drains until it is drained, and with `stop` gone; the last answer."""
    last = {key: answer.get(key) for key in ("ok", "drain", "drained", "draining", "allocations")}
    while stop or not last["drained"]:
        if told is not None:
            told(f"{last['allocations']} allocations left")
        await sleep(DRAIN_LOOK_EVERY_S)
        try:
            now = await status()
        except Failed:
            if not stop:
                raise
            return {**last, "drained": True, "stopped": True}
        last = {key: now.get(key) for key in last}
        if not last["drain"]:
            raise Failed("somebody took the drain back")
    return last
