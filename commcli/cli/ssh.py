"""`commcli ssh`: a login to one node by the system's ssh client."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, ReasonOpt, StateOpt, settings_from
from commcli.errors import BadInput


def ssh(
    node: Annotated[str, typer.Argument(help="A node's id.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="Run this there, instead of a shell."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Let ssh tell how it gets there (its own -v).")
    ] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the command line, and do not run it.")
    ] = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Log in to a node with the system's ssh: same way, same keys, same known_hosts as every other command.

    As the login's own user, also where the inventory says sudo. --json prints the command line as a document. Else ssh
    takes over, its exit status too.
    """
    from commcli import fleet as fleets
    from commcli.fleet.record import nearest
    from commcli.remote import adhoc, openssh
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    if node not in fleet.nodes:
        raise BadInput(f'unknown node "{node}"{nearest(node, fleet.nodes)}')
    line = adhoc.line_of(command) if command else None
    argv = openssh.arguments(fleet, fleet.nodes[node], line, verbose=verbose)
    if as_json:
        output.emit({"schema": 1, "kind": "ssh.command", "node": node, "argv": argv}, as_json=True)
    elif only_print:
        print(shlex.join(argv))
    else:
        with Store(settings.database) as store:
            # Nobody will be here to write how it ended.
            store.audit("ssh", reason, "begun", {"node": node, "command": line})
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            raise BadInput(f"{argv[0]}: {error.strerror}: is the OpenSSH client installed?") from None
