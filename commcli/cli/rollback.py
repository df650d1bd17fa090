"""`commcli rollback`: put back what a run has changed, from the journals that it left on its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.consent import agree, named
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    ReasonOpt,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.cli.watched import tell, watched
from commcli.errors import BadInput, Refused

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.answer import Document
    from commcli.remote.outcome import OnEvent, Outcome
    from commcli.remote.run import PlayResult
    from commcli.remote.ssh import Pool
    from commcli.settings import Settings
    from commcli.store.recorded import Recording


def rollback(
    run: Annotated[
        str,
        typer.Argument(
            help="The run, as `commcli runs list` names it; `last` is the last that is no rollback."
        ),
    ],
    selector: Annotated[
        str | None,
        typer.Argument(help="Only on these nodes. Without it: on all that the run came to."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say what would be put back.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show the changes of files that everybody may read.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was changed since by somebody else.")
    ] = False,
    deadline: DeadlineOpt = None,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Put back what a run has changed, in reverse, in one SSH exchange a node. Safe to run again.

    What was changed since is refused on that node, and nothing is put back there. The rollback is a run of its own.
    """
    from commcli import fleet as fleets
    from commcli.errors import CommcliError
    from commcli.remote import answer, rollback, runid
    from commcli.store.recorded import recorded

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    undoes, nodes, gone = _nodes_of(run, selector, fleet, settings)
    secrets = rollback.readable(fleet.secrets, CommcliError)

    def go(recording: Recording | None = None) -> Document:
        only_looks = recording is None
        how: Any = {
            "check": only_looks,
            "diff": diff,
            "force": force,
            "deadline_s": deadline,
            "secrets": secrets,
        }
        name = runid.new() if recording is None else recording.run

        async def work(pool: Pool, on_event: OnEvent) -> list[Outcome[PlayResult]]:
            return await rollback.run_rollback(undoes, nodes, pool, run=name, on_event=on_event, **how)

        outcomes = [*watched(fleet, f"rollback of {undoes}", work, quiet=quiet, recording=recording), *gone]
        about = {} if recording is None else {"run": recording.run, "log": str(recording.log)}
        return answer.rolled_back(undoes, fleet.name, outcomes, check=only_looks, **about)

    def show() -> None:
        if not as_json:
            output.emit(go(), as_json=False)

    if check:
        doc = go()
    else:
        what = f"put back what run {undoes} changed on {len(nodes)} nodes ({named(nodes)})"
        agree(fleet, what, len(nodes), yes=yes, first=show, without_asking="add --yes (or --check)")
        told = {"undoes": undoes, "force": force, "selector": selector, "nodes": [node.id for node in nodes]}
        with recorded(settings, runid.new(), f"rollback {undoes}", reason, told) as recording:
            doc = tell(recording, lambda: go(recording), quiet=quiet)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _nodes_of(
    run: str, selector: str | None, fleet: Fleet, settings: Settings
) -> tuple[str, list[Node], list[Outcome[PlayResult]]]:
    """The run's whole name, the nodes that it came to and that are selected, and what to say of those that the
    inventory no longer has. Raises BadInput for a run that is not known here, unless a selector says where it was.
    """
    from commcli.fleet.selector import select
    from commcli.remote import runid
    from commcli.remote.rollback import missing
    from commcli.store.runs import only
    from commcli.store.sqlite import Store

    with Store(settings.database) as store:
        rows = store.runs_named(run, last_but="rollback ")  # twice is to be once
    selected = list(select(fleet, selector or "all"))
    if not rows and selector is not None and runid.is_one(run):
        return run, selected, []
    row = only(rows, run)
    if not row["command"].startswith(("play run ", "rollback ", "push")):
        raise Refused(f"run {row['run']} was `{row['command']}`, which leaves no journal to put back from")
    came_to = reached(row["document"].get("nodes", []))
    if not came_to:
        raise BadInput(f"run {row['run']} came to no node: there is nothing to put back")
    gone = [] if selector is not None else [missing(name) for name in came_to if name not in fleet.nodes]
    nodes = [node for node in selected if node.id in came_to]
    if not nodes and not gone:
        raise BadInput(f"run {row['run']} was on none of these nodes, but on {', '.join(came_to)}")
    return row["run"], nodes, gone


def reached(nodes: list[Any]) -> list[str]:
    """Of a run's nodes those that it may have changed: of one that was killed, all."""
    named = [node for node in nodes if isinstance(node, str)]
    return [*named, *(row["node"] for row in nodes if not isinstance(row, str) and _may_have_changed(row))]


def _may_have_changed(row: Any) -> bool:
    return bool(row["steps"]) or row["state"] in ("lost", "timeout")
