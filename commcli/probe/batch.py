"""Many calls within a budget of time and CPU, and never two on one node: they would measure each other.

What is to be called comes in the order of its importance. A call that the rest of the budget does not hold, or whose
nodes are busy, lets the next one pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.errors import CommcliError
from commcli.probe.ask import Ask

Document = Mapping[str, Any]
log = logging.getLogger(__name__)

# What both ends of a call keep busy together while they are measured, in cores: half more than a call told here.
CORES = {"hd": 0.70, "sd": 0.30, "audio": 0.18, "weak": 0.14}
# Python and its libraries loading at both ends, the allocations and the handshakes.
SET_UP_CPU_S = 1.0
# Login, allocation, ICE and the goodbye, beside the measured time.
AROUND_S = 6.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call to be made; `key` is how its maker knows it, `nodes` are its ends."""

    key: str
    ask: Ask
    nodes: frozenset[str]

    @property
    def seconds(self) -> float:
        """How long it will keep its nodes busy."""
        return self.ask.seconds + AROUND_S

    @property
    def cpu_s(self) -> float:
        """What it will cost its nodes together, in CPU seconds."""
        return SET_UP_CPU_S + CORES[self.ask.profile] * self.ask.seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """`cpu_s` is that of all nodes together, None for no limit. `parallel`: calls at the same time."""

    seconds: float
    cpu_s: float | None = None
    parallel: int = 1
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one call: its document, or why it could not be tried."""

    wanted: Wanted
    document: Document | None = None
    error: CommcliError | None = None


class Spending:
    """What is left of a budget. Pure: `now` is monotonic seconds since the batch began."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.cpu_s = 0.0
        self.calls = 0

    def holds(self, wanted: Wanted, now: float) -> bool:
        """Whether this call can still be begun."""
        limits = self._limits
        return (
            now + wanted.seconds <= limits.seconds
            and (limits.cpu_s is None or self.cpu_s + wanted.cpu_s <= limits.cpu_s)
            and (limits.calls is None or self.calls < limits.calls)
        )

    def begin(self, wanted: Wanted) -> None:
        """It is reckoned with from its beginning, so that calls at the same time do not spend the same rest."""
        self.cpu_s += wanted.cpu_s
        self.calls += 1

    def ended(self, made: Made) -> None:
        """What it really cost takes the place of what was reckoned."""
        cost = cost_cpu_s(made.document)
        if cost is not None:
            self.cpu_s += cost - made.wanted.cpu_s


def next_of(queue: Sequence[Wanted], busy: frozenset[str], spending: Spending, now: float) -> Wanted | None:
    """The first call whose nodes are free and that the budget still holds."""
    return next(
        (wanted for wanted in queue if not wanted.nodes & busy and spending.holds(wanted, now)),
        None,
    )


def cost_cpu_s(document: Document | None) -> float | None:
    """CPU seconds of both probe hosts; None where an end did not tell. They tell of the measured time."""
    if document is None or None in document["hosts"].values():
        return None
    cores = sum(float(host["cpu_cores"]) for host in document["hosts"].values())
    return SET_UP_CPU_S + cores * float(document["seconds"])


async def make(
    queue: Sequence[Wanted],
    limits: Limits,
    call: Callable[[Wanted], Awaitable[Document]],
    *,
    on_begin: Callable[[Wanted], None] = lambda wanted: None,
    on_made: Callable[[Made], None] = lambda made: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Wanted]:
    """Make the calls of `queue` that the budget holds; what was left, in its order.

    A call that can not be tried is told (`on_made`) like one that can. Cancelled, it ends the calls under way first.
    """
    began, waiting, spending = clock(), list(queue), Spending(limits)
    running: dict[asyncio.Task[Made], Wanted] = {}
    try:
        while True:
            while len(running) < limits.parallel:
                busy = frozenset(node for wanted in running.values() for node in wanted.nodes)
                found = next_of(waiting, busy, spending, clock() - began)
                if found is None:
                    break
                waiting.remove(found)
                spending.begin(found)
                on_begin(found)
                running[asyncio.create_task(_one(found, call))] = found
            if not running:
                return waiting
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del running[task]
                spending.ended(task.result())
                on_made(task.result())
    finally:
        for task in running:
            task.cancel()
        # A cancelled call still ends its programs on the nodes.
        await asyncio.gather(*running, return_exceptions=True)


async def _one(wanted: Wanted, call: Callable[[Wanted], Awaitable[Document]]) -> Made:
    try:
        return Made(wanted, document=await call(wanted))
    except CommcliError as error:
        return Made(wanted, error=error)
    except Exception as error:
        # One call's bug must not cost the others; its exit code (70) and the log tell of it.
        log.exception("call %s: unexpected error", wanted.key)
        return Made(wanted, error=CommcliError(f"bug: {type(error).__name__}: {error}"))
