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
    listen: Annotated[
        list[str] | None,
        typer.Option(help="ADDRESS:PORT of the TURN server (127.0.0.1:3478); again for the other family."),
    ] = None,
    relay_ports: Annotated[str, typer.Option(help="LOW-HIGH of the relayed addresses.")] = "49152-65535",
    user: Annotated[
        list[str] | None, typer.Option(help="NAME:PASSWORD; visible in the process list: for tests.")
    ] = None,
    users_file: Annotated[Path | None, typer.Option(help="File with a NAME:PASSWORD a line.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="File with shared secrets, one a line, for EXPIRY:NAME users.")
    ] = None,
    revoked_file: Annotated[
        Path | None, typer.Option(help="File with a user id a line that is refused from now on.")
    ] = None,
    realm: Annotated[str, typer.Option(help="Realm of the long-term credentials.")] = "commcli",
    password_algorithms: Annotated[
        str | None,
        typer.Option(help="Offer SHA-256: auto (where it cannot amplify), always, or md5 for never."),
    ] = None,
    allow_peer: Annotated[
        list[str] | None, typer.Option(help="A network that peers may lie in although it is not public.")
    ] = None,
    tcp: Annotated[bool, typer.Option("--tcp/--no-tcp", help="Serve TCP clients on the same port.")] = True,
    tls_port: Annotated[int | None, typer.Option(help="TCP port of TLS clients.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    user_quota: Annotated[int | None, typer.Option(help="Most allocations a user.")] = None,
    total_quota: Annotated[int | None, typer.Option(help="Most allocations in all.")] = None,
    session_kbit: Annotated[
        int | None, typer.Option(help="Most kbit/s of one allocation, each way; the rest is dropped.")
    ] = None,
    node_mbit: Annotated[int | None, typer.Option(help="Most Mbit/s of all allocations together.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the ports; 0 is one a core.")] = 1,
    drain_sessions: Annotated[
        int, typer.Option(help="At how many allocations a drain by SIGUSR1 is done.")
    ] = 0,
    metrics: Annotated[
        str | None,
        typer.Option(help="[ADDRESS:]PORT of the Prometheus metrics; without an address 127.0.0.1."),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help="Path of the control socket (status, drain, undrain, reload, metrics)."),
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
) -> None:
    """Run a plain TURN server (RFC 8656) here in the foreground: no fleet, no table.

    SIGHUP reads the files and certificates again, SIGUSR1 drains, SIGUSR2 takes clients again, SIGTERM ends it.
    """
    from commcli import __version__
    from commcli.relay import daemon
    from commcli.relay.config import ConfigError, RelayConfig, standalone

    def read() -> RelayConfig:
        return standalone(
            listen=listen or ["127.0.0.1:3478"],
            relay_ports=relay_ports,
            users=user or [],
            users_file=users_file,
            secret_file=secret_file,
            revoked_file=revoked_file,
            realm=realm,
            password_algorithms=password_algorithms,
            allow_peers=allow_peer or [],
            tcp=tcp,
            tls_port=tls_port,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            user_quota=user_quota,
            total_quota=total_quota,
            session_kbit_s=session_kbit,
            node_mbit_s=node_mbit,
            workers=workers,
            drain_sessions=drain_sessions,
            metrics=metrics,
            control=None if control is None else control.absolute(),
            log_json=log_json,
        )

    try:
        config = read()
    except ConfigError as error:
        raise Usage(str(error)) from error
    raise typer.Exit(daemon.serve(config, __version__))


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
