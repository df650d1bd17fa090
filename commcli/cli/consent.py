"""Asking before the fleet is changed, in proportion to what could go wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from commcli.errors import AnswerBad, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node

# More nodes than this, or a production fleet: the fleet's name must be typed, not just y.
FEW_NODES = 10


def named(nodes: Sequence[Node], most: int = 8) -> str:
    """The nodes of a question, as many as fit into it."""
    return ", ".join(node.id for node in nodes[:most]) + (" ..." if len(nodes) > most else "")


def agree(
    fleet: Fleet,
    what: str,
    nodes: int,
    *,
    yes: bool,
    first: Callable[[], None] = lambda: None,
    without_asking: str = "add --yes",
) -> None:
    """Ask whether to go on with `what` ("publish to 8 nodes") on `nodes` nodes; `first` shows what would change.

    Raises Usage where nobody can be asked (it names `without_asking`), AnswerBad for a no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Usage(f"this changes the fleet and nobody can be asked: {without_asking}")
    first()
    question = f"{what}, {'PRODUCTION ' if fleet.production else ''}fleet {fleet.name}"
    if fleet.production or nodes > FEW_NODES:
        agreed = typer.prompt(f"{question}. Type the fleet's name to go on", err=True) == fleet.name
    else:
        agreed = typer.confirm(f"{question}. Go on?", err=True)
    if not agreed:
        raise AnswerBad("not confirmed: nothing was changed")
