"""Small playbooks for tests, run on the nodes of a test's server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from commcli.fleet.model import Fleet, Node
from commcli.remote import playbook
from commcli.remote.outcome import OnEvent, Outcome
from commcli.remote.playbook import Play
from commcli.remote.run import PlayResult, run_play
from commcli.remote.ssh import Pool


def play(folder: Path, text: str) -> Play:
    """The playbook in `text`, written to `folder`."""
    path = folder / "play.yml"
    path.write_text(text, encoding="utf-8")
    return playbook.load(path)


async def run(
    fleet: Fleet,
    what: Play,
    *,
    nodes: Sequence[Node] | None = None,
    check: bool = False,
    diff: bool = False,
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    **variables: object,
) -> list[Outcome[PlayResult]]:
    """Run it on `nodes` (all of the fleet), over connections of its own."""

    def of(node: Node) -> Mapping[str, object]:
        return variables

    async with Pool(fleet) as pool:
        return await run_play(
            what,
            list(nodes or fleet.nodes.values()),
            pool,
            check=check,
            diff=diff,
            variables=of,
            on_event=on_event,
            deadline_s=deadline_s,
            node_timeout_s=node_timeout_s,
        )


def states(outcome: Outcome[PlayResult]) -> dict[str, str]:
    """Step name -> state, of the steps that came to an end."""
    assert outcome.value is not None
    return {step.name: step.state for step in outcome.value.steps}
