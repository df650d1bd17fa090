"""`commcli play check`: what is wrong in a playbook, before any node is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commcli.cli import output
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    SelectorArg,
    StateOpt,
)
from commcli.cli.play.loading import FileArg, load, variables_of

if TYPE_CHECKING:
    pass


def check(
    file: FileArg,
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Check a playbook and render it for the selected nodes, without connecting and without secrets."""
    from dataclasses import replace

    from commcli.remote import answer
    from commcli.remote.run import compile_all

    fleet, play, nodes = load(file, selector, inventory, state)
    # Every step, also those that only their tag calls.
    compile_all(replace(play, chosen=True), nodes, variables_of(fleet, play, real=False))
    doc = answer.checked(play, fleet.name, [node.id for node in nodes])
    output.emit(doc, as_json=as_json, quiet=quiet)
