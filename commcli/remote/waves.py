"""A change that could hurt, brought to many nodes: one of them first, then the others in waves, until one fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import Failed, OnEvent, Outcome, each
from commcli.remote.ssh import Pool

T = TypeVar("T")
# A program that breaks what the canary did not show costs so many nodes, not the fleet.
WAVE = 8


class Course(NamedTuple):
    """How it went. Outcomes in the order of the nodes; `stopped` says why it was, "" if it was not."""

    outcomes: list[Outcome[Any]]
    stopped: str
    not_tried: list[str]


async def in_waves(
    nodes: Sequence[Node], work: Callable[[Sequence[Node]], Awaitable[list[Outcome[T]]]], *, wave: int = WAVE
) -> Course:
    """`work` on the canary, the first node that can be reached, then on at most `wave` nodes at once.

    Nodes out of reach are reported and stop nothing: that is about the network.
    """
    outcomes: list[Outcome[T]] = []
    size = 1
    while len(outcomes) < len(nodes):
        done = await work(nodes[len(outcomes) : len(outcomes) + size])
        outcomes += done
        if bad := [outcome for outcome in done if outcome.state not in ("done", "unreachable")]:
            why = "; ".join(f"{outcome.node}: {outcome.state}: {outcome.reason}" for outcome in bad)
            return Course(outcomes, why, [node.id for node in nodes[len(outcomes) :]])
        if any(outcome.state == "done" for outcome in done):
            size = wave
    return Course(outcomes, "", [])


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

        return await in_waves(nodes, some)


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
