"""`commcli relay`: run one relay here, or ask and steer relays over SSH."""

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
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.cli.watched import connected
from commcli.errors import BadInput, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from commcli.fleet.model import Fleet, Node
    from commcli.remote.outcome import Outcome
    from commcli.remote.ssh import Pool
    from commcli.settings import Settings

    Answers = list[Outcome[dict[str, Any]]]
    Ask = Callable[[Fleet, list[Node]], Coroutine[Any, Any, tuple[Answers, dict[str, Any]]]]
    Then = Callable[[Pool, list[Node], Answers], Coroutine[Any, Any, Answers]]

app = typer.Typer(help="Run one relay here, or ask and steer relays over SSH.", no_args_is_help=True)


@app.command()
def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(help="ADDRESS:PORT of the TURN server (127.0.0.1:3478); again for the other family."),
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(
            help="Public ADDRESS behind 1:1 NAT, in place of the listen address; again for the other family."
        ),
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
        typer.Option(help="Path of the control socket (status, drain, undrain, reload, upgrade, metrics)."),
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
    takeover: Annotated[
        int | None, typer.Option(hidden=True, help="Take the place of the relay that started this one.")
    ] = None,
) -> None:
    """Run a plain TURN server (RFC 8656) here in the foreground: no fleet, no table.

    SIGHUP reads the files and certificates again, SIGUSR1 drains, SIGUSR2 takes clients again, SIGTERM ends it.
    """
    from commcli import __version__
    from commcli.relay.clients import tls
    from commcli.relay.config import BadFile, ConfigError, RelayConfig, standalone
    from commcli.relay.process import daemon
    from commcli.relay.process.takeover import Takeover

    def read() -> RelayConfig:
        return standalone(
            listen=listen or ["127.0.0.1:3478"],
            external=external or [],
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
        # A fleet's relay waits for its certificate; here nobody will bring one.
        if config.tls_certificate is not None and config.tls_key is not None:
            tls.check(config.tls_certificate, config.tls_key)
        of_another = None if takeover is None else Takeover(takeover, follow_parent=False)
    except BadFile as error:
        raise BadInput(str(error)) from error
    except ConfigError as error:
        raise Usage(str(error)) from error
    raise typer.Exit(daemon.serve(config, __version__, read, of_another))


@app.command()
def status(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what the relays say of themselves: table, allocations, drops, and of the overlay segments, paths, buffers.

    One or two nodes show all of the overlay, more of them only what is remarkable; --json has everything.
    """
    import asyncio

    from commcli.remote import survey

    fleet, nodes = _selected(settings_from(inventory, state).inventory, selector)
    _tell("status", fleet, asyncio.run(survey.ask_all(fleet, nodes, "status")), as_json=as_json, quiet=quiet)


@app.command()
def drain(
    selector: Annotated[str, typer.Argument(help="Which nodes.")],
    sessions: Annotated[
        int | None,
        typer.Option(
            min=0, help="Drained once so few allocations are left (default: the node's drain_sessions)."
        ),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the relay when it is drained.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Come back when they are drained.")] = False,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Take no new allocation; finish the old ones. Holds over a restart of the relay, until `undrain`."""
    from commcli.remote import survey
    from commcli.report.progress import following

    async def drained(pool: Pool, nodes: list[Node], answers: Answers) -> Answers:
        with following("drain", quiet=quiet) as shown:
            return await survey.await_drained(
                pool, nodes, answers, stop=stop, deadline_s=deadline, on_event=shown.take
            )

    wish = {"stop": stop} if sessions is None else {"stop": stop, "sessions": sessions}
    _steer(
        "drain",
        selector,
        settings_from(inventory, state),
        wish,
        then=drained if wait else None,
        as_json=as_json,
        quiet=quiet,
        yes=yes,
        reason=reason,
    )


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
    settings = settings_from(inventory, state)
    _steer("undrain", selector, settings, {}, as_json=as_json, quiet=quiet, yes=yes, reason=reason)


@app.command()
def reload(
    selector: Annotated[str, typer.Argument(help="Which nodes.")],
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Read configuration, secrets, users, revocations and certificates again; every call stays.

    A relay whose new configuration is wrong keeps the old one and says why.
    """
    settings = settings_from(inventory, state)
    _steer("reload", selector, settings, {}, as_json=as_json, quiet=quiet, yes=yes, reason=reason)


@app.command()
def upgrade(
    selector: Annotated[str, typer.Argument(help="Which nodes.")],
    tls: Annotated[
        str,
        typer.Option(
            metavar="refuse|cut|wait",
            help="Calls over TLS can not move: do nothing while there are any, cut them, or wait for their end.",
        ),
    ] = "refuse",
    wait: Annotated[float, typer.Option(min=0, help="With --tls wait: seconds at most.")] = 600.0,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
) -> None:
    """Let the program that is on the node now take the running relay's place; every call stays.

    One node first, the others in waves once that one serves with its calls, and no more of them after a failure.

    For a new version (`commcli play playbooks/upgrade.yml` brings it there) and for configuration that waits for a
    restart. If the new program can not serve, the old one goes on and says why. A relay of several processes has to
    be drained and restarted.
    """
    from commcli.relay.process.control import patience_s

    if tls not in ("refuse", "cut", "wait"):
        raise Usage(f"--tls {tls}: none of refuse, cut, wait")
    wish = {"tls": tls, **({"wait_s": wait} if tls == "wait" else {})}

    async def ask(fleet: Fleet, nodes: list[Node]) -> tuple[Answers, dict[str, Any]]:
        from commcli.remote import waves
        from commcli.report.progress import following

        timeout_s = patience_s({"cmd": "upgrade", **wish})
        with following("upgrade", quiet=quiet) as shown:
            course = await waves.upgrade(fleet, nodes, timeout_s=timeout_s, on_event=shown.take, **wish)
        return course.outcomes, {"stopped": course.stopped, "not_tried": course.not_tried}

    _steer(
        "upgrade",
        selector,
        settings_from(inventory, state),
        wish,
        ask=ask,
        as_json=as_json,
        quiet=quiet,
        yes=yes,
        reason=reason,
    )


def _steer(
    verb: str,
    selector: str,
    settings: Settings,
    wish: dict[str, Any],
    then: Then | None = None,
    *,
    ask: Ask | None = None,
    as_json: bool,
    quiet: bool,
    yes: bool,
    reason: str | None,
) -> None:
    """Ask `verb` with the arguments `wish` under the lock; `then` is what is waited for when it is free again.

    `ask`, if given, does the asking, and tells what else belongs into the document.
    """
    import asyncio

    from commcli.remote import outcome, survey
    from commcli.remote.ssh import Pool
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    fleet, nodes = _selected(settings.inventory, selector)
    agree(fleet, f"{verb} {named(nodes)}", len(nodes), yes=yes)
    with asyncio.Runner() as runner, connected(runner, Pool(fleet)) as pool:
        with (
            exclusive(settings.lock, f"relay {verb} {selector}"),
            Store(settings.database) as store,
            store.audited(f"relay {verb}", reason, {"selector": selector, **wish}) as told,
            output.naming_unknowns({node.id: verb for node in nodes}),
        ):
            more: dict[str, Any] = {}
            if ask is None:
                answers = runner.run(survey.ask_all(fleet, nodes, verb, pool=pool, **wish))
            else:
                answers, more = runner.run(ask(fleet, nodes))
            if code := outcome.exit_code(answers):
                told["result"] = f"exit {code}"
        if then is not None:
            answers = runner.run(then(pool, nodes, answers))
    _tell(verb, fleet, answers, more, as_json=as_json, quiet=quiet)


def _selected(inventory: Path, selector: str) -> tuple[Fleet, list[Node]]:
    from commcli import fleet as fleets
    from commcli.fleet.selector import select

    fleet = fleets.load(inventory)
    return fleet, select(fleet, selector)


def _tell(
    verb: str,
    fleet: Fleet,
    answers: Answers,
    more: dict[str, Any] | None = None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from commcli.remote import outcome

    rows = [
        {
            "node": o.node,
            "state": o.state,
            "reason": o.reason,
            "seconds": round(o.seconds, 3),
            "answer": o.value,
        }
        for o in answers
    ]
    code = outcome.exit_code(answers)
    doc = {"schema": 1, "kind": f"relay.{verb}", "fleet": fleet.name, "nodes": rows, **(more or {})}
    output.emit(doc, as_json=as_json, quiet=quiet, good=code == 0)
    if code:
        raise typer.Exit(code)
