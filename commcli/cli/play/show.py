"""`commcli play show`: what would run where, with which variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    StateOpt,
)
from commcli.cli.play.loading import FileArg, SkipTagsOpt, TagsOpt, chosen, left_out, load, variables_of

if TYPE_CHECKING:
    pass


def show(
    file: FileArg,
    selector: Annotated[
        str | None,
        typer.Argument(
            help="Nodes, as in `play run`: what would run on which, with which variables. Secrets are not read."
        ),
    ] = None,
    tags: TagsOpt = None,
    skip_tags: SkipTagsOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the steps of a playbook and, for selected nodes, what would run where and where each variable is from."""
    from commcli.remote import answer, overview, playbook
    from commcli.remote.run import compile_all

    if selector is None:
        whole = playbook.load(file)
        play = chosen(whole, tags, skip_tags)
        doc = answer.shown(play, left_out(whole, play))
    else:
        fleet, whole, nodes = load(file, selector, inventory, state)
        play = chosen(whole, tags, skip_tags)
        variables = variables_of(fleet, play, real=False)
        plans = compile_all(play, nodes, variables)
        given = {node.id: variables(node) for node in nodes}
        doc = answer.shown(
            play, left_out(whole, play), runs=overview.runs(nodes, plans),
            variables=overview.variables(play, nodes, given), nodes=[node.id for node in nodes],
        )  # fmt: skip
    output.emit(doc, as_json=as_json, quiet=quiet)
