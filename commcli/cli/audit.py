"""`commcli audit`: who changed the fleet, when, why, and how it ended."""

from __future__ import annotations

from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import JsonOpt, StateOpt, settings_from

app = typer.Typer(help="Who changed the fleet, when, why, and how it ended.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Who changed the fleet, when, why, and how it ended."""


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows, the newest first.")] = 20,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """List the last changes, the newest first."""
    from commcli.store.sqlite import Store

    with Store(settings_from(None, state).database) as store:
        rows = store.audits(limit)
    output.emit({"schema": 1, "kind": "audit.list", "rows": rows}, as_json=as_json)
