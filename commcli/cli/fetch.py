"""`commcli fetch`: a file of many nodes to here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    NodeTimeoutOpt,
    QuietOpt,
    SelectorArg,
    settings_from,
)
from commcli.cli.watched import watched

if TYPE_CHECKING:
    from commcli.remote.carry import Document
    from commcli.remote.outcome import OnEvent
    from commcli.remote.ssh import Pool


def fetch(
    selector: SelectorArg,
    path: Annotated[str, typer.Argument(metavar="REMOTE", help="The file there.")],
    local: Annotated[Path, typer.Argument(help="The folder here: it gets a folder for each node.")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Fetch nothing; say who has the file.")] = False,
    deadline: DeadlineOpt = None,
    node_timeout: NodeTimeoutOpt = None,
    inventory: InventoryOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Bring a file of each of the selected nodes here, to LOCAL/NODE/: whole or not at all.

    As the `fetch` step of a playbook does it, in one exchange a node.
    """
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import answer, carry
    from commcli.remote.run import run_play

    fleet = fleets.load(settings_from(inventory, None).inventory)
    nodes = list(select(fleet, selector))
    play = carry.fetch(path, local)

    async def work(pool: Pool, on_event: OnEvent) -> Document:
        outcomes = await run_play(
            play,
            nodes,
            pool,
            check=check,
            on_event=on_event,
            deadline_s=deadline,
            node_timeout_s=node_timeout,
        )
        return carry.document(answer.ran(play, fleet.name, outcomes, check=check), local, path)

    doc = watched(fleet, "fetch", work, quiet=quiet)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])
