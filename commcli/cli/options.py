"""The options that commands share, each written once: one word, one meaning on every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commcli.errors import Usage
from commcli.settings import Settings, from_environment

InventoryOpt = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        envvar="COMMCLI_INVENTORY",
        help="Inventory: folder, file or program (default ./inventory).",
    ),
]
StateOpt = Annotated[
    Path | None,
    typer.Option("--state", envvar="COMMCLI_STATE", help="State folder (default: XDG state folder)."),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors included.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing when all is good.")]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing the fleet.")]
ReasonOpt = Annotated[str | None, typer.Option("--reason", help="Why, for the audit (for example INC-123).")]
DeadlineOpt = Annotated[
    float | None, typer.Option("--deadline", min=0.1, help="Seconds for the whole run; the rest is named.")
]
NodeTimeoutOpt = Annotated[
    float | None, typer.Option("--node-timeout", min=0.1, help="Seconds for one node.")
]
SelectorArg = Annotated[
    str,
    typer.Argument(
        help="Which nodes: id globs, region:, market:, country:, tag:, state:. Words of one kind add up "
        "(sg-1,hk-1 is both), different kinds narrow (region:sgp,tag:metal is in both), '!' takes away."
    ),
]


def settings_from(inventory: Path | None, state: Path | None) -> Settings:
    """The paths of this run."""
    return from_environment(inventory, state)


def span_s(option: str, text: str) -> float:
    """The seconds of an option that names a span of time, such as 10m. Usage when it is none."""
    from commcli.fleet import duration

    seconds = duration.seconds(text)
    if seconds is None:
        raise Usage(f"{option} {text}: must be {duration.HOW}")
    return float(seconds)
