"""Run a play on nodes: one connection, one exec, one stream each; every node's end is an Outcome."""

from __future__ import annotations

import getpass
import os
import pkgutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from commcli.errors import BadInput, LockHeld
from commcli.fleet.model import Node
from commcli.remote import onnode, steps
from commcli.remote.compile import Plan, compile_play
from commcli.remote.outcome import Event, Failed, OnEvent, Outcome, bounded, each
from commcli.remote.playbook import Play
from commcli.remote.program import Program, bundle, source_of
from commcli.remote.ssh import Pool

ENTRY = "commcli.remote.onnode.executor:main"
# The node keeps each step's own time; this much later we stop believing that it still does.
GRACE_S = 15.0
START_S = 60.0
SLOWEST_BYTES_PER_S = 50_000

Variables = Callable[[Node], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's end. `state`: ok, changed (in check mode: would), skipped, failed; no secrets."""

    name: str
    section: str
    state: str
    text: str
    diff: str
    seconds: float
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlayResult:
    """What a play did on one node, as far as it came."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[StepResult, ...] = ()

    @property
    def changed(self) -> int:
        """How many steps changed something (in check mode: would)."""
        return sum(step.state == "changed" for step in self.steps)

    @property
    def failed(self) -> StepResult | None:
        """The step that failed, which is the last one then."""
        return self.steps[-1] if self.steps and self.steps[-1].state == "failed" else None


async def run_play(
    play: Play,
    nodes: Sequence[Node],
    pool: Pool,
    *,
    check: bool = False,
    diff: bool = False,
    variables: Variables = lambda node: {},
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    parallel: int | None = None,
) -> list[Outcome[PlayResult]]:
    """Run `play` on `nodes`; outcomes in their order. With `check` nothing is changed.

    Raises BadInput, before any connection is made, with everything that can not be rendered for some node.
    """
    plans = compile_all(play, nodes, variables, check=check, diff=diff)
    modules = executor()
    reached = {node.id: PlayResult() for node in nodes}

    async def work(node: Node) -> PlayResult:
        def tell(text: str) -> None:
            if on_event is not None:
                on_event(Event(node.id, text))

        tell("login")
        connection = await pool.connect(node)
        tell("python3")
        plan = plans[node.id]
        async with await Program.start(
            connection,
            node.ssh.python,
            modules,
            ENTRY,
            plan.body,
            blobs=plan.blobs.values(),
            secrets=plan.secrets,
        ) as program:
            start_s = START_S + sum(map(len, plan.blobs.values())) / SLOWEST_BYTES_PER_S
            return await _follow(program, plan.body["steps"], start_s, node.id, reached, tell)

    outcomes = await each(
        nodes,
        work,
        parallel=parallel or pool.parallel,
        deadline_s=deadline_s,
        node_timeout_s=node_timeout_s,
        on_event=on_event,
    )
    return [replace(o, value=reached[o.node]) if o.value is None else o for o in outcomes]


async def _follow(
    program: Program,
    planned: Sequence[Mapping[str, Any]],
    limit_s: float,
    node_id: str,
    reached: dict[str, PlayResult],
    tell: Callable[[str], None],
) -> PlayResult:
    """Read the executor's messages to the end, keeping in `reached` how far it came. The first has `limit_s`."""
    doing = "start"
    while True:
        async with bounded(limit_s, f"{doing}: no end after {limit_s:g} s"):
            message = await program.receive()
        if message is None:
            break
        _raise_if_refused(message)
        if "at" in message:
            step = planned[message["at"]]
            doing, limit_s = f"step {step['name']}", step["timeout_s"] + GRACE_S
            tell(step["name"])
        else:
            reached[node_id] = _advanced(reached[node_id], message, planned)
    result = reached[node_id]
    if result.failed is not None:
        raise Failed(f'step "{result.failed.name}": {result.failed.text}')
    return result


def _advanced(
    result: PlayResult, message: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]
) -> PlayResult:
    if "facts" in message:
        return replace(result, facts=message["facts"])
    step = planned[message["step"]]
    done = StepResult(
        step["name"],
        step["section"],
        message["state"],
        message.get("text", ""),
        message.get("diff", ""),
        message["seconds"],
        message.get("result", {}),
    )
    return replace(result, steps=(*result.steps, done))


def _raise_if_refused(message: Mapping[str, Any]) -> None:
    if "broken" in message:
        raise Failed(str(message["broken"]))
    if "refused" in message:
        by = message["refused"] or {}
        who = f"{by.get('user', 'somebody')}@{by.get('host', 'somewhere')} (pid {by.get('pid', '?')})"
        raise LockHeld(f"play {by.get('play', '?')} by {who} is at work there since {by.get('since', '?')}")


def compile_all(
    play: Play, nodes: Sequence[Node], variables: Variables, *, check: bool = False, diff: bool = False
) -> dict[str, Plan]:
    """The plan of every node. Raises BadInput with each problem once, and the nodes that have it if not all."""
    by, plans = holder(play.name), {}
    problems: dict[str, list[str]] = {}
    for node in nodes:
        try:
            plans[node.id] = compile_play(play, node, variables(node), check=check, diff=diff, holder=by)
        except BadInput as error:
            for problem in error.errors:
                problems.setdefault(problem, []).append(node.id)
    if problems:
        raise BadInput(
            [
                text if len(ids) == len(nodes) else f"{text} (on {', '.join(ids)})"
                for text, ids in problems.items()
            ]
        )
    return plans


def holder(play: str) -> dict[str, object]:
    """Who runs this play, as a second operator will read it on the node."""
    return {
        "play": play,
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def executor() -> bytes:
    """The executor and every step, as one bundle for `Program.start`."""
    names = [
        f"{package.__name__}.{module.name}"
        for package in (onnode, steps)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    return bundle({name: source_of(name) for name in names})
