"""`commcli doctor`: is this machine fit to run the fleet, and does it get there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import BadInput

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.health.doctor import Finding


def doctor(
    every: Annotated[bool, typer.Option("--all", help="Log in to every node, not to one a region.")] = False,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Look at this machine and the way to the fleet, in 5 s: keys, agent, known_hosts, clocks, bastions, versions.

    Changes nothing. Exits 1 when something fails; warnings do not count.
    """
    from commcli import fleet as fleets
    from commcli.health import desk
    from commcli.health import doctor as judging

    began = time.monotonic()
    settings = settings_from(inventory, state)
    fleet: Fleet | BadInput
    try:
        fleet = fleets.load(settings.inventory)
    except BadInput as error:
        fleet = error
    findings = [
        *judging.of_machine(desk.machine(settings.state, settings.database), time.time()),
        judging.of_inventory(fleet),
    ]
    if not isinstance(fleet, BadInput):
        findings += _of_fleet(fleet, every=every, quiet=quiet)
    doc = judging.document(findings, time.monotonic() - began)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _of_fleet(fleet: Fleet, *, every: bool, quiet: bool) -> list[Finding]:
    import asyncio

    from commcli.health import desk
    from commcli.health import doctor as judging
    from commcli.health.judge import Limits
    from commcli.report.progress import following

    nodes = desk.sample(fleet, every=every)

    async def look() -> tuple[desk.Desk | BaseException, desk.Reached | BaseException]:
        # Together: a name server that hangs takes its time of both.
        return await asyncio.gather(desk.look(fleet), desk.reach(fleet, nodes), return_exceptions=True)

    with following("doctor", quiet=quiet) as progress:
        progress.update("this machine", f"logging in to {len(nodes)} nodes")
        at_desk, reached = asyncio.run(look())
    findings: list[Finding] = []
    findings += [judging.no_way(at_desk)] if isinstance(at_desk, BaseException) else judging.of_desk(at_desk)
    if isinstance(reached, BaseException):
        return [*findings, judging.no_way(reached)]
    return [*findings, *judging.of_reach(*reached, Limits())]
