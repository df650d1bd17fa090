"""Run a play on nodes: one connection, one exec, one stream each; every node's end is an Outcome."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commcli.errors import BadInput, LockHeld, Refused
from commcli.fleet.model import Node
from commcli.remote import adhoc, runid
from commcli.remote.bundle import bundle_of
from commcli.remote.compile import Plan, compile_play
from commcli.remote.fetched import Landing
from commcli.remote.outcome import Event, Failed, Lost, OnEvent, Outcome, bounded, each
from commcli.remote.play import Play
from commcli.remote.program import NoPython, Program
from commcli.remote.ssh import Connection, Pool

ENTRY = "commcli.remote.onnode.executor:main"
# The node keeps each step's own time; this much later we stop believing that it still does.
GRACE_S = 15.0
START_S = 60.0
LONGEST_STEP_S = 3600.0
SLOWEST_BYTES_PER_S = 50_000
# What is larger goes up only where it differs. It then costs a round trip more, as little as its own way does.
LARGE = 64 << 10
BOOTSTRAP_S = 900.0

# What a node is at, or a step that ended there.
Tell = Callable[..., None]
Variables = Callable[[Node], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's end. `state`: ok, changed (in check mode: would), skipped, failed, or a failure that the play has an
    answer to: ignored, rescued. `item` is what a loop calls its own; `file` where a fetched file is. No secrets.
    """

    name: str
    section: str
    state: str
    text: str
    diff: str
    seconds: float
    result: Mapping[str, Any]
    item: str = ""
    attempts: int = 1
    file: Path | None = None

    @property
    def label(self) -> str:
        """The step's name, with the item of its loop."""
        return f"{self.name}: {self.item}" if self.item else self.name


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
        """The step that ended the play, None if none did. What stands under `always` may have come after it."""
        return next((step for step in self.steps if step.state == "failed"), None)


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
    run: str | None = None,
) -> list[Outcome[PlayResult]]:
    """Run `play` on `nodes`; outcomes in their order. With `check` nothing is changed. `run` names it in journals.

    Raises BadInput, before any connection is made, with everything that can not be rendered for some node.
    """
    plans = compile_all(play, nodes, variables, check=check, diff=diff, run=run or runid.new())
    modules = executor(step for plan in plans.values() for step in plan.body["steps"])
    return await run_plans(
        plans,
        nodes,
        pool,
        modules,
        on_event=on_event,
        deadline_s=deadline_s,
        node_timeout_s=node_timeout_s,
        parallel=parallel,
        bootstrap=play.bootstrap,
    )


async def run_plans(
    plans: Mapping[str, Plan],
    nodes: Sequence[Node],
    pool: Pool,
    modules: bytes,
    *,
    entry: str = ENTRY,
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    parallel: int | None = None,
    bootstrap: Sequence[str] = (),
) -> list[Outcome[PlayResult]]:
    """Send each node its plan and follow what it does; outcomes in the order of `nodes`. `bootstrap`: lines of shell,
    run where no python3 answers; then it is tried once more.
    """
    reached = {node.id: PlayResult() for node in nodes}

    async def work(node: Node) -> PlayResult:
        def tell(text: str, ended: StepResult | None = None) -> None:
            if on_event is not None:
                on_event(Event(node.id, text, ended=ended))

        tell("login")
        connection = await pool.connect(node)
        tell("python3")
        plan = plans[node.id]
        try:
            program = await _start(connection, node, modules, entry, plan)
        except NoPython as error:
            if not bootstrap:
                raise
            tell("bootstrap")
            step = _by_bootstrap(bootstrap, error)
            if plan.body["check"]:
                return PlayResult(steps=(step,))
            reached[node.id] = PlayResult(steps=(replace(step, state="failed"),))
            await _bootstrap(connection, bootstrap)
            reached[node.id] = PlayResult(steps=(step,))
            program = await _start(connection, node, modules, entry, plan)
        async with program:
            upload_s = sum(map(len, plan.blobs.values())) / SLOWEST_BYTES_PER_S
            return await _follow(program, plan.body["steps"], upload_s, node.id, reached, tell)

    outcomes = await each(
        nodes,
        work,
        parallel=parallel or pool.parallel,
        deadline_s=deadline_s,
        node_timeout_s=node_timeout_s,
        on_event=on_event,
    )
    return [replace(o, value=reached[o.node]) if o.value is None else o for o in outcomes]


async def _start(connection: Connection, node: Node, modules: bytes, entry: str, plan: Plan) -> Program:
    return await Program.start(
        connection,
        node.ssh.python,
        modules,
        entry,
        {**plan.body, "sent_unix": time.time()},
        blobs=[blob for blob in plan.blobs.values() if len(blob) <= LARGE],
        on_demand={digest: blob for digest, blob in plan.blobs.items() if len(blob) > LARGE},
        secrets=plan.secrets,
    )


async def _bootstrap(connection: Connection, lines: Sequence[str]) -> None:
    """Each line in its turn, until one fails. Raises Failed, Lost, TimedOut."""
    script = "\n".join(["set -e", "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8", *lines])
    async with bounded(BOOTSTRAP_S, f"bootstrap: no end after {BOOTSTRAP_S:g} s"):
        try:
            await adhoc.run_line(connection, script)
        except Failed as error:
            raise Failed(f"bootstrap: {error}") from None


def _by_bootstrap(lines: Sequence[str], why: NoPython) -> StepResult:
    return StepResult("bootstrap", "bootstrap", "changed", f"{why}: run {'; '.join(lines)}", "", 0.0, {})


async def _follow(
    program: Program,
    planned: Sequence[Mapping[str, Any]],
    upload_s: float,
    node_id: str,
    reached: dict[str, PlayResult],
    tell: Tell,
) -> PlayResult:
    """Read the executor's messages to the end, keeping in `reached` how far it came. `upload_s`: what all that it may
    want from us may take.
    """
    doing, step = "start", {"module": ""}
    limit_s, said, most = START_S + upload_s, 0, _most_said(planned)
    with Landing(node_id) as landing:
        while True:
            async with bounded(limit_s, f"{doing}: no end after {limit_s:g} s"):
                message = await program.receive()
            if message is None:
                break
            _raise_if_refused(message)
            said += "piece" not in message
            if said > most:
                raise Lost("the node floods: it tells of more than the play has steps")
            if "planned" in message:
                planned = [_planned(step) for step in message["planned"]]
                most = _most_said(planned)
            elif "at" in message or "again" in message:
                step = planned[message.get("at", message.get("again"))]
                doing, limit_s = f"step {label(step)}", step["timeout_s"] + GRACE_S + upload_s
                if "again" in message:
                    doing += f" (attempt {message['attempt']} of {message['of']}: {message['text']})"
                    limit_s += step["delay_s"]
                landing.begin()
                tell(doing.removeprefix("step "))
            elif "piece" in message:
                size = landing.take(step, message["piece"])
                tell(f"{label(step)} ({size / 1e6:.0f} MB)")
            else:
                reached[node_id] = _advanced(reached[node_id], message, planned, landing)
                if "step" in message:
                    ended = reached[node_id].steps[-1]
                    tell(ended.label, ended)
    result = reached[node_id]
    if result.failed is not None:
        raise Failed(f'step "{result.failed.label}": {result.failed.text}')
    return result


def _most_said(planned: Sequence[Mapping[str, Any]]) -> int:
    """How many messages there can be, but for pieces of files."""
    return 8 + sum(2 + int(step.get("retries", 0)) for step in planned)


def _planned(step: Mapping[str, Any]) -> Mapping[str, Any]:
    """A step that only the node knows. It is taken at its word for no file, for one attempt, and for no more time than
    there is.
    """
    timeout_s = min(float(step["timeout_s"]), LONGEST_STEP_S)
    return {"delay_s": 0.0, **step, "timeout_s": timeout_s, "retries": 0, "module": "", "args": {}}


def label(step: Mapping[str, Any]) -> str:
    """A planned step's name, with the item of its loop."""
    item = step.get("loop", {}).get("label", "")
    return f"{step['name']}: {item}" if item else str(step["name"])


def _advanced(
    result: PlayResult, message: Mapping[str, Any], planned: Sequence[Mapping[str, Any]], landing: Landing
) -> PlayResult:
    if "facts" in message:
        return replace(result, facts=message["facts"])
    step = planned[message["step"]]
    file = None
    if step["module"] == "fetch" and message["state"] == "ok" and "sha256" in message["result"]:
        file = landing.end(step, message["result"])
    done = StepResult(
        step["name"],
        step["section"],
        message["state"],
        message.get("text", ""),
        message.get("diff", ""),
        message["seconds"],
        message.get("result", {}),
        step.get("loop", {}).get("label", ""),
        message.get("attempts", 1),
        file,
    )
    return replace(result, steps=(*result.steps, done))


def _raise_if_refused(message: Mapping[str, Any]) -> None:
    if "broken" in message:
        raise Failed(str(message["broken"]))
    if "declined" in message:
        raise Refused(str(message["declined"]))
    if "refused" in message:
        by = message["refused"] or {}
        who = f"{by.get('user', 'somebody')}@{by.get('host', 'somewhere')} (pid {by.get('pid', '?')})"
        raise LockHeld(f"play {by.get('play', '?')} by {who} is at work there since {by.get('since', '?')}")


def compile_all(
    play: Play,
    nodes: Sequence[Node],
    variables: Variables,
    *,
    check: bool = False,
    diff: bool = False,
    run: str = "",
) -> dict[str, Plan]:
    """The plan of every node. Raises BadInput with each problem once, and the nodes that have it if not all."""
    by, plans = holder(play.name), {}
    problems: dict[str, list[str]] = {}
    for node in nodes:
        try:
            known = variables(node)
            plans[node.id] = compile_play(play, node, known, check=check, diff=diff, holder=by, run=run)
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


def executor(steps: Iterable[Mapping[str, Any]]) -> bytes:
    """The executor and what these compiled steps need, as one bundle for `Program.start`."""
    modules = sorted({f"commcli.remote.steps.{step['module']}" for step in steps})
    return bundle_of(ENTRY.partition(":")[0], *modules)
