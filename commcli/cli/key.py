"""`commcli key`: the keys of the overlay, and how they are changed without losing a packet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.consent import agree, named
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    ReasonOpt,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.cli.watched import watched
from commcli.errors import BadInput

if TYPE_CHECKING:
    from commcli.fleet.model import Node
    from commcli.remote.keyring import Keyring
    from commcli.remote.outcome import OnEvent
    from commcli.remote.ssh import Pool

app = typer.Typer(
    help="The keys of the overlay, and how they are changed without losing a packet.", no_args_is_help=True
)


@app.command()
def show(
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show which of the inventory's overlay secrets every relay accepts, and with which it sends."""
    from commcli.remote import keyreport, rotation

    ring, nodes = _ring(inventory, state)

    async def look(pool: Pool, on_event: OnEvent) -> dict[str, Any]:
        answers, held = await rotation.survey(ring, nodes, pool=pool, on_event=on_event)
        return keyreport.shown(ring, answers, held)

    doc = watched(ring.fleet, "keys", look, quiet=quiet)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


@app.command()
def rotate(
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", help="A NODE that is down for good: do not wait for it; again for more."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what comes next.")] = False,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Bring all relays to the inventory's overlay secrets: all accept the new one, then all send with it.

    fleet.yaml names the new secret as `overlay_next` beside `overlay`. When all relays send with it, put it in the
    place of `overlay`, and a second run takes the old one away. Safe to run again; calls go on all the while.
    """
    from commcli.remote import keyreport, rotation, runid
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    ring, nodes = _ring(inventory, state, leave_out or [])

    async def turn(pool: Pool, on_event: OnEvent) -> dict[str, Any]:
        done = await rotation.rotate(ring, nodes, pool=pool, check=check, on_event=on_event)
        return keyreport.rotated(ring, done, left_out=leave_out or [], check=check)

    if check:
        doc = watched(ring.fleet, "keys", turn, quiet=quiet)
    else:
        what = f"change the overlay's keys of {len(nodes)} nodes ({named(nodes)})"
        agree(ring.fleet, what, len(nodes), yes=yes, without_asking="add --yes (or --check)")
        settings = settings_from(inventory, state)
        run = runid.new()
        told = {"run": run, "goal": list(ring.goal), "left_out": leave_out or []}
        with exclusive(settings.lock, "key rotate"), Store(settings.database) as store:
            with store.audited("key rotate", reason, told) as row:
                doc = watched(ring.fleet, "keys", turn, quiet=quiet)
                row["steps"] = [f"{step['step']} on {len(step['nodes'])} nodes" for step in doc["steps"]]
                if doc["exit_code"]:
                    row["result"] = f"exit {doc['exit_code']}"
            store.record_run(run, "key rotate", doc)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _ring(
    inventory: Path | None, state: Path | None, without: list[str] | None = None
) -> tuple[Keyring, list[Node]]:
    """The fleet's keys, and its nodes but for those `without`."""
    from commcli import fleet as fleets
    from commcli.fleet.record import nearest
    from commcli.remote import relayfiles
    from commcli.remote.keyring import Keyring

    fleet = fleets.load(settings_from(inventory, state).inventory)
    strange = [node for node in without or [] if node not in fleet.nodes]
    if strange:
        raise BadInput(f'unknown node "{strange[0]}"{nearest(strange[0], fleet.nodes)}')
    names = [name for name in (relayfiles.OVERLAY, relayfiles.OVERLAY_NEXT) if name in fleet.secrets]
    ring = Keyring(fleet, {name: fleet.secrets[name].read() for name in names})
    return ring, [node for name, node in fleet.nodes.items() if name not in (without or [])]
