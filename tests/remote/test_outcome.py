"""Work on many nodes: every end is a value, deadlines hold, nobody stops the others."""

from __future__ import annotations

import asyncio

import pytest

from commcli.errors import BadInput, LockHeld, Refused
from commcli.fleet.model import Node, SshTarget
from commcli.remote.outcome import Event, Failed, LoginRefused, Lost, TimedOut, Unreachable, each, exit_code

NODES = [Node(f"n-{n}", "r", "sg", "127.0.0.1", SshTarget("127.0.0.1", "ops")) for n in range(4)]

ENDS = [
    (Failed("no"), "failed", 1),
    (Unreachable("gone"), "unreachable", 4),
    (LoginRefused("not you"), "unreachable", 4),
    (Lost("cut"), "lost", 4),
    (TimedOut("slow"), "timeout", 4),
    (TimeoutError("slow"), "timeout", 4),
    (Refused("zone"), "refused", 5),
    (LockHeld("somebody"), "refused", 75),
    (BadInput("f:1: x"), "failed", 3),
]


@pytest.mark.parametrize(("error", "state", "code"), ENDS)
async def test_trouble_is_a_value(error: Exception, state: str, code: int) -> None:
    async def work(node: Node) -> str:
        if node is NODES[0]:
            raise error
        return node.id

    events: list[Event] = []
    outcomes = await each(NODES, work, parallel=2, on_event=events.append)
    assert [(o.node, o.state, o.value) for o in outcomes[1:]] == [(n.id, "done", n.id) for n in NODES[1:]]
    assert (outcomes[0].state, outcomes[0].code, outcomes[0].reason) == (state, code, str(error))
    assert exit_code(outcomes) == code
    assert sorted(event.node for event in events if event.state) == [node.id for node in NODES]


async def test_a_bug_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def work(node: Node) -> int:
        return 1 // (0 if node is NODES[0] else 1)

    outcomes = await each(NODES, work, parallel=9)
    assert outcomes[0].reason.startswith("bug: ZeroDivisionError") and exit_code(outcomes) == 70
    assert "Traceback" in caplog.text


async def test_no_more_at_once_than_allowed() -> None:
    now = most = 0

    async def work(_: Node) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    await each(NODES * 5, work, parallel=3)
    assert most == 3


async def test_the_run_deadline_names_those_at_work_and_those_waiting() -> None:
    async def work(node: Node) -> None:
        if node is not NODES[0]:
            await asyncio.Event().wait()

    outcomes = await each(NODES, work, parallel=2, deadline_s=0.05)
    assert [o.state for o in outcomes] == ["done", "timeout", "timeout", "timeout"]
    assert {o.reason for o in outcomes[1:]} == {"not finished when the run's deadline passed"}


async def test_a_node_has_its_own_time_from_its_own_start() -> None:
    async def work(node: Node) -> None:
        await (asyncio.Event().wait() if node is NODES[1] else asyncio.sleep(0))

    outcomes = await each(NODES, work, parallel=1, node_timeout_s=0.1)
    assert [o.state for o in outcomes] == ["done", "timeout", "done", "done"]
    assert outcomes[1].reason == "not finished after 0.1 s"


async def test_a_timeout_of_the_work_itself_is_not_the_deadline() -> None:
    async def work(_: Node) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    [outcome] = await each(NODES[:1], work, parallel=1, deadline_s=60, node_timeout_s=60)
    assert (outcome.state, outcome.reason) == ("timeout", "TimeoutError")


async def test_cancellation_reaches_all_work() -> None:
    ended = []

    async def work(node: Node) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(node.id)

    run = asyncio.create_task(each(NODES, work, parallel=9))
    await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert sorted(ended) == [node.id for node in NODES]
