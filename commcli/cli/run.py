"""`commcli run`: one command on many nodes."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.consent import FEW_NODES, agree, named
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
from commcli.cli.watched import watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from commcli.fleet.model import Fleet
    from commcli.remote.adhoc import Said
    from commcli.remote.outcome import Outcome

    Outcomes = list[Outcome[Said]]
    How = Callable[..., Awaitable[Outcomes]]

CommandArg = Annotated[
    list[str],
    typer.Argument(
        metavar="-- COMMAND...",
        help="One word is a line for the node's shell, more are a command and its arguments as they are.",
    ),
]


def run(
    selector: SelectorArg,
    command: CommandArg,
    deadline: DeadlineOpt = None,
    node_timeout: NodeTimeoutOpt = None,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Run a command on the selected nodes: equal outputs are told once, failures last.

    The output of one node alone comes as it is. Asks only in a production fleet or for more than 10 nodes.
    The command is killed there when it is stopped here.
    """
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import adhoc
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = list(select(fleet, selector))
    line = adhoc.line_of(command)
    if fleet.production or len(nodes) > FEW_NODES:
        agree(fleet, f"run `{line}` on {len(nodes)} nodes ({named(nodes)})", len(nodes), yes=yes)
    alone = len(nodes) == 1 and not as_json and not quiet
    told = {"command": line, "selector": selector, "nodes": [node.id for node in nodes]}
    how = partial(adhoc.run_on, nodes, line, deadline_s=deadline, node_timeout_s=node_timeout)
    with Store(settings.database) as store, store.audited("run", reason, told) as row:
        if alone:
            # What comes as it is has the terminal to itself.
            outcomes = _ran(fleet, partial(how, on_output=_pass_on), quiet=True)
        else:
            outcomes = gathered(fleet, how, line, quiet=quiet, tell=not as_json)
        doc = adhoc.document(fleet, line, outcomes)
        row["counts"] = doc["counts"]
        if doc["exit_code"]:
            row["result"] = f"exit {doc['exit_code']}"
    if not alone:
        output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    elif doc["exit_code"]:
        [only] = doc["nodes"]
        print(f"{only['node']}: {only['state']}: {only['reason']}", file=sys.stderr)
    raise typer.Exit(doc["exit_code"])


def gathered(fleet: Fleet, how: How, line: str, *, quiet: bool, tell: bool) -> Outcomes:
    """The outcomes. When it is stopped, what was said until then is told all the same."""
    from commcli.remote import adhoc

    ended: dict[str, Outcome[Said]] = {}
    try:
        return _ran(fleet, partial(how, ended=ended), quiet=quiet)
    except KeyboardInterrupt:
        if ended and tell:
            output.emit(adhoc.document(fleet, line, list(ended.values())), as_json=False)
        raise


def _ran(fleet: Fleet, how: How, *, quiet: bool) -> Outcomes:
    return watched(fleet, "run", lambda pool, on_event: how(pool=pool, on_event=on_event), quiet=quiet)


def _pass_on(_node: str, stream: str, data: bytes) -> None:
    output.pass_on(data, stream=stream)
