"""`commcli rollback`: put back what a run has changed, from its journal on each node, in one exchange a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commcli.errors import OutOfReach
from commcli.fleet.model import Node
from commcli.remote.bundle import bundle_of
from commcli.remote.compile import Plan, compile_play
from commcli.remote.outcome import OnEvent, Outcome
from commcli.remote.play import Play, Step
from commcli.remote.run import PlayResult, holder, run_plans
from commcli.remote.ssh import Pool
from commcli.remote.words import MODULES, WORDS

ENTRY = "commcli.remote.onnode.rollback:main"
# A service may take its time to stop.
STEP_S = 120.0

# What a handler of that run is, only the node knows, so all words go along.
_STEPS = sorted({"undo", *(MODULES.get(word, word) for word in WORDS)})


async def run_rollback(
    undoes: str,
    nodes: Sequence[Node],
    pool: Pool,
    *,
    run: str,
    check: bool = False,
    diff: bool = False,
    force: bool = False,
    secrets: Sequence[str] = (),
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    parallel: int | None = None,
) -> list[Outcome[PlayResult]]:
    """Undo the run `undoes` on `nodes`, as a run of its own, which is called `run`; outcomes in their order.

    What was changed since is refused, and then nothing is put back on that node; `force` puts it back all the same.
    `secrets` are masked in what the nodes say.
    """
    about = {"undoes": undoes, "force": force, "secrets": list(secrets)}
    plans = {node.id: plan_of(node, about, check=check, diff=diff, run=run) for node in nodes}
    modules = bundle_of(ENTRY.partition(":")[0], *(f"commcli.remote.steps.{name}" for name in _STEPS))
    return await run_plans(
        plans,
        nodes,
        pool,
        modules,
        entry=ENTRY,
        on_event=on_event,
        deadline_s=deadline_s,
        node_timeout_s=node_timeout_s,
        parallel=parallel,
    )


def plan_of(node: Node, about: Mapping[str, Any], *, check: bool, diff: bool, run: str) -> Plan:
    """What one node is sent; its steps it finds in its journal."""
    name = f"rollback of {about['undoes']}"
    blank = Step("blank", "command", "steps", {"argv": ["true"]}, 0, {}, timeout_s=STEP_S)
    play = Play(name, "", "", {}, (blank,), chosen=True)
    plan = compile_play(play, node, {}, check=check, diff=diff, holder=holder(name), run=run)
    [compiled] = plan.body["steps"]
    body = {**plan.body, **about, "blank": compiled, "steps": [], "flow": []}
    return Plan(body, {}, tuple(about["secrets"]))


def missing(name: str) -> Outcome[PlayResult]:
    """What became of a node that the inventory no longer has."""
    return Outcome(name, "unreachable", None, "not in the inventory any more", 0.0, OutOfReach.exit_code)


def readable(secrets: Mapping[str, Any], error: type[Exception]) -> list[str]:
    """The values of those secrets that can be read here; of the others nothing can be masked."""
    found = []
    for reference in secrets.values():
        try:
            found.append(reference.read().reveal())
        except error:
            continue
    return found
