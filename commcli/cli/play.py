"""`commcli play`: bring nodes to the state that a playbook describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
from commcli.errors import BadInput

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.answer import Document
    from commcli.remote.outcome import OnEvent, Outcome
    from commcli.remote.playbook import Play
    from commcli.remote.run import PlayResult, Variables
    from commcli.settings import Settings

T = TypeVar("T")

app = typer.Typer(help="Bring nodes to the state that a playbook describes.", no_args_is_help=True)


FileArg = Annotated[Path, typer.Argument(help="The playbook, for example playbooks/relay.yml.")]
NodeTimeoutOpt = Annotated[
    float | None, typer.Option("--node-timeout", min=0.1, help="Seconds for one node.")
]


@app.command()
def run(
    file: FileArg,
    selector: SelectorArg = "all",
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes of files, secrets masked.")] = False,
    deadline: DeadlineOpt = None,
    node_timeout: NodeTimeoutOpt = None,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Run a playbook over SSH on the selected nodes, in one exchange each. Safe to run again."""
    from commcli.remote import answer
    from commcli.remote.run import run_play

    fleet, play, nodes = _load(file, selector, inventory, state)
    variables = _variables(fleet, play)

    def go() -> Document:
        run_on = partial(
            run_play, play, nodes, check=check, diff=diff, variables=variables, deadline_s=deadline,
            node_timeout_s=node_timeout,
        )  # fmt: skip
        outcomes = _watched(fleet, f"play {play.name}", run_on, quiet=quiet)
        return answer.ran(play, fleet.name, outcomes, check=check)

    if check:
        doc = go()
    else:
        what = f"play {play.name} on {len(nodes)} nodes ({named(nodes)})"
        agree(fleet, what, len(nodes), yes=yes, without_asking="add --yes (or --check)")
        told = {"file": play.file, "selector": selector, "nodes": [node.id for node in nodes]}
        doc = _audited(go, settings_from(inventory, state), f"play run {play.name}", reason, told)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


@app.command()
def check(
    file: FileArg,
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Check a playbook and render it for the selected nodes, without connecting and without secrets."""
    from commcli.remote import answer
    from commcli.remote.run import compile_all

    fleet, play, nodes = _load(file, selector, inventory, state)
    compile_all(play, nodes, _variables(fleet, play, real=False))
    doc = answer.checked(play, fleet.name, [node.id for node in nodes])
    output.emit(doc, as_json=as_json, quiet=quiet)


@app.command()
def show(file: FileArg, as_json: JsonOpt = False, quiet: QuietOpt = False) -> None:
    """Show the steps of a playbook."""
    from commcli.remote import answer, playbook

    output.emit(answer.shown(playbook.load(file)), as_json=as_json, quiet=quiet)


def _load(
    file: Path, selector: str, inventory: Path | None, state: Path | None
) -> tuple[Fleet, Play, list[Node]]:
    """Fleet, playbook and nodes; whatever is wrong in fleet and playbook is told together."""
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import playbook

    problems: list[str] = []
    fleet = _tried(lambda: fleets.load(settings_from(inventory, state).inventory), problems)
    play = _tried(lambda: playbook.load(file), problems)
    if fleet is None or play is None:
        raise BadInput(problems)
    return fleet, play, list(select(fleet, selector))


def _tried(act: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return act()
    except BadInput as error:
        problems += error.errors
        return None


def _variables(fleet: Fleet, play: Play, *, real: bool = True) -> Variables:
    """The variables that the play `uses`, for each node. Not `real`: made-up secrets, for a look at the playbook."""
    from commcli.fleet.secrets import Secret

    if "relay" not in play.uses:
        return lambda node: {}
    from commcli.remote import relayfiles, zipapp

    wanted = (relayfiles.TURN, relayfiles.OVERLAY, relayfiles.OVERLAY_NEXT)
    names = [name for name in wanted if name in fleet.secrets]
    secrets = {
        name: fleet.secrets[name].read() if real else Secret(f"made-up {name} secret") for name in names
    }
    pyz, signers = zipapp.build(), _text(fleet.signing.signers)
    return lambda node: relayfiles.variables(fleet, node, secrets, pyz, signers)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"allowed signers {path}: {error.strerror}") from None


def _watched(
    fleet: Fleet, title: str, run_on: Callable[..., Awaitable[list[Outcome[PlayResult]]]], *, quiet: bool
) -> list[Outcome[PlayResult]]:
    """Run with a progress display. After Ctrl-C, name the nodes whose state nobody knows."""
    import asyncio

    from commcli.remote.ssh import Pool
    from commcli.report import terminal

    async def work(on_event: OnEvent) -> list[Outcome[PlayResult]]:
        async with Pool(fleet) as pool:
            return await run_on(pool=pool, on_event=on_event)

    with terminal.progress(title, quiet=quiet) as progress, output.naming_unknowns(progress.now):
        return asyncio.run(work(progress.take))


def _audited(
    go: Callable[[], Document], settings: Settings, command: str, reason: str | None, told: Mapping[str, Any]
) -> Document:
    """Run under the lock, with an audit row before and after; the document is kept as a run."""
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    with exclusive(settings.lock, command), Store(settings.database) as store:
        with store.audited(command, reason, told) as row:
            doc = go()
            row["counts"], row["changed"] = doc["counts"], doc["changed"]
            if doc["exit_code"]:
                row["result"] = f"exit {doc['exit_code']}"
        store.record_run(command, doc)
    return doc
