"""`commcli route edge`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import AnswerBad, BadInput, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.edge import Case
    from commcli.routing.table import Table

TransportOpt = Annotated[
    Literal["udp", "tcp", "tls"], typer.Option("--transport", help="How the client comes to its edge.")
]


def edge(
    client: Annotated[str, typer.Argument(metavar="IP", help="The client's address, IPv4 or IPv6.")],
    transport: TransportOpt = "udp",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Tell which edge a client is sent to, and why: by the table in force, and by the next where that differs.

    By the record: no node is asked. Exit 1: to none, it stays where it comes.
    """
    from commcli import fleet as fleets
    from commcli.fleet import nearest
    from commcli.routing import edge as edges
    from commcli.routing import history
    from commcli.store.sqlite import Store

    try:
        ip = nearest.address(client)
    except ValueError:
        raise Usage(f"{client[:60]}: not an IP address, such as 203.0.113.7") from None
    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        in_force = history.situation(store).in_force
    now = time.time()
    doc = edges.document(_case(fleet, in_force, ip, transport, now), fleet, now_unix=now)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["edge"] is not None)
    raise typer.Exit(0 if doc["edge"] else AnswerBad.exit_code)


def _case(fleet: Fleet, in_force: Table | None, ip: str, transport: str, now_unix: float) -> Case:
    """A file that can not be read is no reason not to tell what the table in force says."""
    from commcli.fleet import geoip, nearest
    from commcli.routing import edge as edges
    from commcli.routing import policy

    known = None if in_force is None else edges.judge(in_force.nodes, in_force.prefixes, ip, transport)
    try:
        today = nearest.nearest(fleet, now_unix)
        place = None if fleet.geoip is None else geoip.look_up(fleet.geoip.database, ip)
    except BadInput as error:
        if in_force is None:
            raise
        return edges.Case(ip, transport, in_force, known, None, None, error.errors, hint=error.hint)
    rules = policy.of(nearest.laid_out(fleet, today))
    after = edges.judge(rules.nodes, rules.prefixes, ip, transport)
    return edges.Case(ip, transport, in_force, known, after, today, (), place)
