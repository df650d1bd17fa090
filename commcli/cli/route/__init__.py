"""Decide, publish, explain, and go back. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.route.apply import apply
from commcli.cli.route.explain import explain
from commcli.cli.route.history import history
from commcli.cli.route.plan import plan
from commcli.cli.route.replay import replay
from commcli.cli.route.rollback import rollback
from commcli.cli.route.show import show

app = typer.Typer(help="Decide, publish and explain the routes.", no_args_is_help=True)

for _verb in (plan, apply, rollback, show, explain, history, replay):
    app.command()(_verb)
