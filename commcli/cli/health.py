"""`commcli health`: is every node fit to carry calls, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, SelectorArg, settings_from

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.health.facts import Facts

app = typer.Typer(help="Is every node fit to carry calls, and if not, why.", no_args_is_help=True)


@app.command()
def check(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    deadline: DeadlineOpt = None,
    node_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one node.")] = 20.0,
    plugin: Annotated[
        bool, typer.Option("--plugin", help="One line for monitoring systems; exits 0, 1, 2 or 3 only.")
    ] = False,
) -> None:
    """Look at every node in one exchange each: relay, table, peers, clock, disk, load, python.

    Exits 0 when no node fails (warnings do not count), 1 when one does, 4 when the only trouble is reach.
    """
    import asyncio

    from commcli import __version__
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.health.answer import document
    from commcli.health.judge import Limits
    from commcli.health.plugin import line
    from commcli.report.printable import printable

    fleet = fleets.load(settings_from(inventory, None).inventory)
    nodes = select(fleet, selector)
    known = asyncio.run(
        _look(fleet, nodes, timeout_s=node_timeout, deadline_s=deadline, quiet=quiet or plugin)
    )
    doc = document(fleet, nodes, known, Limits(), __version__)
    if plugin:
        status, text = line(doc)
        print(printable(text))
        raise typer.Exit(status)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


async def _look(
    fleet: Fleet, nodes: Sequence[Node], *, timeout_s: float, deadline_s: float | None, quiet: bool
) -> list[Facts]:
    from commcli.health.facts import gather
    from commcli.remote.ssh import Pool
    from commcli.report.progress import following

    with following("health", quiet=quiet) as progress:
        for node in nodes:
            progress.update(node.id, "looking")
        async with Pool(fleet) as pool:
            return await gather(
                fleet,
                nodes,
                pool,
                node_timeout_s=timeout_s,
                deadline_s=deadline_s,
                on_event=progress.take,
            )
