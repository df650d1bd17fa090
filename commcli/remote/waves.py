"""A change that could hurt, brought to many nodes: a canary first, then the others in waves, until too many fail."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import Failed, OnEvent, Outcome, each
from commcli.remote.ssh import Pool

T = TypeVar("T")
# A program that breaks what the canary did not show costs so many nodes, not the fleet.
WAVE = 8


class Share(NamedTuple):
    """So many nodes, or so many of a hundred."""

    number: int
    is_percent: bool = False

    def of(self, total: int) -> int:
        """How many of `total` that is, rounded down."""
        return math.floor(total * self.number / 100) if self.is_percent else self.number

    def __str__(self) -> str:
        return f"{self.number}%" if self.is_percent else str(self.number)


def share(text: str) -> Share | None:
    """`5` or `20%`; None for anything else."""
    digits, is_percent = text.removesuffix("%"), text.endswith("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
        return None
    return None if is_percent and int(digits) > 100 else Share(int(digits), is_percent)


def plan(fleet: Fleet, nodes: Sequence[Node], *, canary: int | str = 1, wave: int = WAVE) -> list[list[Node]]:
    """Canary and waves, every node in one of them. `canary`: how many, or the id of one of the nodes.

    No wave, and no canary, holds all edges of a market or all nodes of a region that has several: it is left smaller
    instead. A wave as large as all nodes together, without a canary, is what was asked for: one wave.
    """
    rest = sorted(nodes, key=lambda node: _harm(fleet, node)) if canary else list(nodes)
    if not canary and wave >= len(rest):
        return [rest] if rest else []
    if isinstance(canary, str):
        rest.sort(key=lambda node: node.id != canary)
    first = 1 if isinstance(canary, str) else canary
    parties = list(_parties(fleet))
    # Those that hurt least if they break come first; the others in the order in which they were named.
    canaries = _fitting(rest, first, parties)
    chosen = {node.id for node in canaries}
    waves = [canaries] if canaries else []
    left = _mixed([node for node in nodes if node.id not in chosen])
    while left:
        waves.append(_fitting(left, max(1, wave), parties))
        taken = {node.id for node in waves[-1]}
        left = [node for node in left if node.id not in taken]
    return waves


def _harm(fleet: Fleet, node: Node) -> tuple[int, int]:
    """What breaks with it: markets that have no other edge, and markets at all."""
    served = fleet.markets_of(node.id)
    return sum(len(fleet.markets[market].edges) == 1 for market in served), len(served)


def _parties(fleet: Fleet) -> Iterator[frozenset[str]]:
    """The sets of nodes of which one at least is to stay out of every wave."""
    for market in fleet.markets.values():
        yield frozenset(market.edges)
    for region in fleet.regions:
        yield frozenset(node.id for node in fleet.nodes.values() if node.region == region)


def _fitting(nodes: Sequence[Node], most: int, parties: Sequence[frozenset[str]]) -> list[Node]:
    """The first `most` of them that take no party whole; one that stands alone in a party harms nobody else by it."""
    taken: list[Node] = []
    ids: frozenset[str] = frozenset()
    for node in nodes:
        if len(taken) == most:
            break
        more = ids | {node.id}
        if not any(len(party) > 1 and node.id in party and party <= more for party in parties):
            taken.append(node)
            ids = more
    return taken


def _mixed(nodes: Sequence[Node]) -> list[Node]:
    """One node of each region in turn, so that a wave is spread over the world."""
    by_region: dict[str, deque[Node]] = {}
    for node in nodes:
        by_region.setdefault(node.region, deque()).append(node)
    found: list[Node] = []
    while len(found) < len(nodes):
        found += [queue.popleft() for queue in by_region.values() if queue]
    return found


class Course(NamedTuple):
    """How it went. Outcomes in the order of the waves; `stopped` says why it was, "" if it was not."""

    outcomes: list[Outcome[Any]]
    stopped: str
    not_tried: list[str]


async def in_waves(
    waves: Sequence[Sequence[Node]],
    work: Callable[[Sequence[Node]], Awaitable[list[Outcome[T]]]],
    *,
    is_failure: Callable[[Outcome[T]], bool],
    most: int = 0,
    between: Callable[[Sequence[Node], bool], Awaitable[str]] | None = None,
    canary: bool = True,
) -> Course:
    """`work` on one wave after the other, while at most `most` outcomes are failures; in the first wave none may be, if
    it is a `canary`.

    While no node was done, because all were out of reach, the next one goes alone: a canary is one that was reached.
    `between(wave, is_last)` says after each wave what forbids to go on ("": nothing).
    """
    outcomes: list[Outcome[T]] = []
    left = deque(list(wave) for wave in waves)
    is_first = canary and len(left) > 1
    while left:
        wave = left.popleft()
        if is_first and len(wave) > 1 and outcomes:
            left.appendleft(wave[1:])
            wave = wave[:1]
        done = await work(wave)
        outcomes += done
        bad = [outcome for outcome in outcomes if is_failure(outcome)]
        why = ""
        if len(bad) > (0 if is_first else most):
            why = "; ".join(f"{outcome.node}: {outcome.state}: {outcome.reason}" for outcome in bad)
        elif between is not None:
            why = await between([node for node in wave if _is_done(node, done)], not left)
        if why:
            return Course(outcomes, why, [node.id for later in left for node in later])
        is_first = is_first and not any(outcome.state == "done" for outcome in done)
    return Course(outcomes, "", [])


def _is_done(node: Node, outcomes: Sequence[Outcome[T]]) -> bool:
    return any(outcome.node == node.id and outcome.state == "done" for outcome in outcomes)


async def upgrade(
    fleet: Fleet,
    nodes: Sequence[Node],
    *,
    timeout_s: float,
    on_event: OnEvent | None = None,
    **arguments: Any,
) -> Course:
    """Upgrade the relays in waves; each must then serve as the new version with the sessions that it had."""
    async with Pool(fleet) as pool:

        async def one(node: Node) -> dict[str, Any]:
            async def ask(word: str, **more: Any) -> dict[str, Any]:
                return await control.ask(await pool.connect(node), node, word, **more)

            before = await ask("status")
            answer = await ask("upgrade", timeout_s=timeout_s, **arguments)
            if wrong := amiss(before, answer, await ask("status")):
                raise Failed(f"upgraded, but {wrong}")
            return answer

        async def some(chosen: Sequence[Node]) -> list[Outcome[dict[str, Any]]]:
            return await each(chosen, one, parallel=fleet.ssh.parallel, on_event=on_event)

        # A node out of reach is reported and stops nothing: that is about the network.
        return await in_waves(
            plan(fleet, nodes), some, is_failure=lambda outcome: outcome.state not in ("done", "unreachable")
        )


def amiss(before: dict[str, Any], answer: dict[str, Any], after: dict[str, Any]) -> str:
    """What is wrong with a relay whose status was `before` its `answer` to upgrade, and is `after`; "" if nothing."""
    if (after["pid"], after["version"]) != (answer["pid"], answer["version"]):
        said = f"not {answer['version']} as {answer['pid']}"
        return f"version {after['version']} serves as process {after['pid']}, {said}"
    # What counts since the start is counted on, so what is less was lost.
    made = [status["turn"]["allocations_made"] for status in (before, after)]
    if made[1] < made[0]:
        return f"it knows of {made[1]} of {made[0]} sessions that there were"
    taken = (after["upgrade"]["taken_over"] or {}).get("allocations")
    if taken != answer["allocations"]:
        return f"it has taken {taken} of {answer['allocations']} sessions"
    return ""
