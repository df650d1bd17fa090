"""`commcli relay`: run one relay here, or ask and steer relays over SSH."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.consent import agree, named
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node

app = typer.Typer(help="Run one relay here, or ask and steer relays over SSH.", no_args_is_help=True)


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT of the TURN server.")] = "127.0.0.1:3478",
    relay_ports: Annotated[str, typer.Option(help="LOW-HIGH of the relayed addresses.")] = "49152-65535",
    user: Annotated[
        list[str] | None, typer.Option(help="NAME:PASSWORD; visible in the process list: for tests.")
    ] = None,
    users_file: Annotated[str | None, typer.Option(help="File with a NAME:PASSWORD a line.")] = None,
    secret_file: Annotated[
        str | None, typer.Option(help="File with shared secrets, one a line, for EXPIRY:NAME users.")
    ] = None,
    realm: Annotated[str, typer.Option(help="Realm of the long-term credentials.")] = "commcli",
    allow_peer: Annotated[
        list[str] | None, typer.Option(help="A network that peers may lie in although it is not public.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
) -> None:
    """Run a plain TURN server (RFC 8656) here in the foreground: no fleet, no table."""
    from commcli import __version__
    from commcli.relay import daemon
    from commcli.relay.config import ConfigError, standalone

    try:
        config = standalone(
            listen=listen,
            relay_ports=relay_ports,
            users=[*(user or []), *_lines(users_file)],
            secrets=_lines(secret_file),
            realm=realm,
            allow_peers=allow_peer or [],
            log_json=log_json,
        )
    except ConfigError as error:
        raise Usage(str(error)) from error
    raise typer.Exit(daemon.serve(config, __version__))


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from error


@app.command()
def status(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what the relays say of themselves: table, allocations, paths, drops."""
    fleet, nodes = _selected(settings_from(inventory, state).inventory, selector)
    _ask_all("status", fleet, nodes, as_json=as_json, quiet=quiet)


@app.command()
def drain(
    selector: Annotated[str, typer.Argument(help="Which nodes.")],
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Take no new allocation; finish the old ones."""
    _steer("drain", selector, inventory, state, as_json=as_json, quiet=quiet, yes=yes, reason=reason)


@app.command()
def undrain(
    selector: Annotated[str, typer.Argument(help="Which nodes.")],
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Take new allocations again."""
    _steer("undrain", selector, inventory, state, as_json=as_json, quiet=quiet, yes=yes, reason=reason)


def _steer(
    verb: str,
    selector: str,
    inventory: Path | None,
    state: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    yes: bool,
    reason: str | None,
) -> None:
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet, nodes = _selected(settings.inventory, selector)
    agree(fleet, f"{verb} {named(nodes)}", len(nodes), yes=yes)
    with (
        exclusive(settings.lock, f"relay {verb} {selector}"),
        Store(settings.database) as store,
        store.audited(f"relay {verb}", reason, {"selector": selector}),
        output.naming_unknowns({node.id: verb for node in nodes}),
    ):
        _ask_all(verb, fleet, nodes, as_json=as_json, quiet=quiet)


def _selected(inventory: Path, selector: str) -> tuple[Fleet, list[Node]]:
    from commcli import fleet as fleets
    from commcli.fleet.selector import select

    fleet = fleets.load(inventory)
    return fleet, select(fleet, selector)


def _ask_all(verb: str, fleet: Fleet, nodes: list[Node], *, as_json: bool, quiet: bool) -> None:
    import asyncio

    from commcli.remote import outcome, survey

    outcomes = asyncio.run(survey.ask_all(fleet, nodes, verb))
    rows = [
        {
            "node": o.node,
            "state": o.state,
            "reason": o.reason,
            "seconds": round(o.seconds, 3),
            "answer": o.value,
        }
        for o in outcomes
    ]
    code = outcome.exit_code(outcomes)
    doc = {"schema": 1, "kind": f"relay.{verb}", "fleet": fleet.name, "nodes": rows}
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    if code:
        raise typer.Exit(code)
