"""Bring nodes to the state that a playbook describes. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.play.check import check
from commcli.cli.play.run import run
from commcli.cli.play.show import show

app = typer.Typer(help="Bring nodes to the state that a playbook describes.", no_args_is_help=True)

for _verb in (run, check, show):
    app.command()(_verb)
