"""What became of each node. One node's trouble is a value here, never an exception that stops the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from commcli.errors import AnswerBad, CommcliError, LockHeld, OutOfReach, Refused, gravest
from commcli.fleet.model import Node

T = TypeVar("T")
State = Literal["done", "failed", "unreachable", "refused", "lost", "timeout"]
BUG = 70

log = logging.getLogger(__name__)


class Unreachable(OutOfReach):
    """No TCP connection, no SSH server behind it, or no channel in it."""


class LoginRefused(OutOfReach):
    """The node answered and did not let us in."""


class HostKeyRefused(Refused):
    """The node's host key is not the one in known_hosts (changed), or known_hosts has none (unknown)."""


class Lost(OutOfReach):
    """The connection went away after work had begun: the step may or may not have happened."""


class TimedOut(OutOfReach):
    """A deadline passed: connect, login, step, node or run."""


class Failed(AnswerBad):
    """The node did what it was asked and the answer is bad, or it could not do it."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of the work on one node. `code` is its exit code.

    `value` is there when `state` is done, and may be in the other states: as far as the work had come.
    `lost` is not `failed`: what was asked may have happened, so it must be safe to ask again.
    """

    node: str
    state: State
    value: T | None
    reason: str
    seconds: float
    code: int = 0

    def row(self) -> dict[str, Any]:
        """What a document says of every node, whatever the work was. JSON-able."""
        return {
            "node": self.node,
            "state": self.state,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Event:
    """A word for the progress display. `state` is empty while at work, the outcome's at the end; `ended` is the step
    (run.StepResult) that has just come to its end.
    """

    node: str
    text: str
    state: State | Literal[""] = ""
    ended: Any = None


OnEvent = Callable[[Event], None]


def state_of(error: BaseException) -> tuple[State, int]:
    """The state and exit code that an exception of the work stands for."""
    match error:
        case Lost():
            return "lost", error.exit_code
        case TimedOut():
            return "timeout", error.exit_code
        case Refused() | LockHeld():
            return "refused", error.exit_code
        case OutOfReach():
            return "unreachable", error.exit_code
        case CommcliError():
            return "failed", error.exit_code
        case TimeoutError():
            return "timeout", OutOfReach.exit_code
    return "failed", BUG


def outcome_of(node: str, error: BaseException, seconds: float) -> Outcome[T]:
    """The outcome for work that raised `error`."""
    state, code = state_of(error)
    reason = str(error) or type(error).__name__
    if code == BUG:
        reason = f"bug: {type(error).__name__}: {error}"
    return Outcome(node, state, None, reason, seconds, code)


def exit_code(outcomes: Iterable[Outcome[T]]) -> int:
    """The exit code of the whole: the gravest of its nodes'."""
    return gravest(outcome.code for outcome in outcomes)


async def each(
    nodes: Sequence[Node],
    work: Callable[[Node], Awaitable[T]],
    *,
    parallel: int,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    on_event: OnEvent | None = None,
) -> list[Outcome[T]]:
    """Do `work` on every node, at most `parallel` at a time; outcomes in the order of `nodes`.

    `deadline_s` is for the whole run, `node_timeout_s` for one node from its start. Nodes that the deadline
    found waiting or at work are in the list, as `timeout`. Cancellation cancels all work and goes on up.
    """
    gate = asyncio.Semaphore(max(1, parallel))
    until = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s

    async def one(node: Node) -> Outcome[T]:
        outcome: Outcome[T] = await _one(node, work, gate, until, node_timeout_s)
        if on_event is not None:
            on_event(Event(node.id, outcome.reason, outcome.state))
        return outcome

    # gather, not TaskGroup: `one` returns its errors, and nothing may cancel the siblings.
    return list(await asyncio.gather(*(one(node) for node in nodes)))


async def _one(
    node: Node,
    work: Callable[[Node], Awaitable[T]],
    gate: asyncio.Semaphore,
    until: float | None,
    node_timeout_s: float | None,
) -> Outcome[T]:
    started = time.monotonic()
    try:
        async with gate_until(gate, until):
            started = time.monotonic()
            async with bounded(node_timeout_s, f"not finished after {node_timeout_s} s"):
                return Outcome(node.id, "done", await work(node), "", time.monotonic() - started)
    except Exception as error:
        if state_of(error)[1] == BUG:
            log.exception("node %s: unexpected error", node.id)
        return outcome_of(node.id, error, time.monotonic() - started)


@asynccontextmanager
async def gate_until(gate: asyncio.Semaphore, until: float | None) -> AsyncIterator[None]:
    """Hold `gate` while the body runs; waiting and body together end at loop time `until` with TimedOut."""
    left_s = None if until is None else until - asyncio.get_running_loop().time()
    async with bounded(left_s, "not finished when the run's deadline passed"), gate:
        yield


@asynccontextmanager
async def bounded(timeout_s: float | None, message: str) -> AsyncIterator[asyncio.Timeout]:
    """`asyncio.timeout` that says what took too long: TimedOut(message). Other TimeoutErrors pass."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield limit
    except TimeoutError:
        if limit.expired():
            raise TimedOut(message) from None
        raise
