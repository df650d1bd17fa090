"""`commcli push`: a local file or folder to many nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.consent import agree, named
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    NodeTimeoutOpt,
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.cli.watched import tell, watched

if TYPE_CHECKING:
    from commcli.remote.carry import Document
    from commcli.remote.outcome import OnEvent
    from commcli.remote.ssh import Pool
    from commcli.store.recorded import Recording


def push(
    selector: SelectorArg,
    local: Annotated[Path, typer.Argument(help="A file or a folder here.")],
    path: Annotated[
        str,
        typer.Argument(
            metavar="REMOTE",
            help="Where it goes there; with / at its end, the folder for a file. {{ node_id }} is the node's id.",
        ),
    ],
    mode: Annotated[str | None, typer.Option("--mode", help="Mode of the files (as here).")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Their owner.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="Their group.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes of text files.")] = False,
    deadline: DeadlineOpt = None,
    node_timeout: NodeTimeoutOpt = None,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Copy a file, or all that is in a folder, to the selected nodes: whole or not at all, and only where it differs.

    Nothing is deleted there. As the `copy` step of a playbook does it, in one exchange a node; `commcli rollback` puts
    it back.
    """
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import answer, carry, runid
    from commcli.remote.run import run_play
    from commcli.store.recorded import recorded

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = list(select(fleet, selector))
    said = {"mode": mode, "owner": owner, "group": group}
    play = carry.push(local, path, {key: value for key, value in said.items() if value is not None})

    def go(recording: Recording | None = None) -> Document:
        how: Any = {"check": check, "diff": diff, "deadline_s": deadline, "node_timeout_s": node_timeout}
        run = None if recording is None else recording.run
        log = None if recording is None else str(recording.log)

        async def work(pool: Pool, on_event: OnEvent) -> Document:
            outcomes = await run_play(play, nodes, pool, on_event=on_event, run=run, **how)
            return carry.document(
                answer.ran(play, fleet.name, outcomes, check=check, run=run, log=log), local, path
            )

        return watched(fleet, "push", work, quiet=quiet, recording=recording)

    if check:
        doc = go()
    else:
        what = f"push {local} to {path} on {len(nodes)} nodes ({named(nodes)})"
        agree(fleet, what, len(nodes), yes=yes, without_asking="add --yes (or --check)")
        told = {"local": str(local), "path": path, "selector": selector, "nodes": [node.id for node in nodes]}
        with recorded(settings, runid.new(), "push", reason, told) as recording:
            doc = tell(recording, lambda: go(recording), quiet=quiet)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])
