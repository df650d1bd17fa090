"""The inventory: what it says, whose host keys are trusted, and how it is begun. Only `trust` touches nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.fleet.import_ import import_
from commcli.cli.fleet.trust import trust
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, SelectorArg, settings_from

app = typer.Typer(help="What the inventory says: nodes, regions, markets, zones.", no_args_is_help=True)

NodeArg = Annotated[str, typer.Argument(help="A node's id.")]


def list_(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """List nodes, one a line, with region, markets and state."""
    from commcli.fleet import load
    from commcli.fleet.describe import listing

    fleet = load(settings_from(inventory, None).inventory)
    output.emit(listing(fleet, selector), as_json=as_json, quiet=quiet)


def show(node: NodeArg, inventory: InventoryOpt = None, as_json: JsonOpt = False) -> None:
    """Show all that the inventory says of one node, and the zones that bind it."""
    from commcli.fleet import load
    from commcli.fleet.describe import card

    fleet = load(settings_from(inventory, None).inventory)
    output.emit(card(fleet, node), as_json=as_json)


def check(inventory: InventoryOpt = None, as_json: JsonOpt = False, quiet: QuietOpt = False) -> None:
    """Check all of its files: every error with file and line (exit 3), then what works but is thin (exit 0)."""
    from commcli.fleet import load
    from commcli.fleet.describe import checked

    fleet = load(settings_from(inventory, None).inventory)
    doc = checked(fleet)
    output.emit(doc, as_json=as_json, quiet=quiet)


for _name, _verb in (
    ("list", list_),
    ("show", show),
    ("check", check),
    ("trust", trust),
    ("import", import_),
):
    app.command(_name)(_verb)
