"""Decide, publish, explain, and go back. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.route.apply import apply
from commcli.cli.route.audit import audit
from commcli.cli.route.diff import diff
from commcli.cli.route.edge import edge
from commcli.cli.route.explain import explain
from commcli.cli.route.history import history
from commcli.cli.route.plan import plan
from commcli.cli.route.replay import replay
from commcli.cli.route.rollback import rollback
from commcli.cli.route.show import show
from commcli.cli.route.whatif import whatif

app = typer.Typer(help="Decide, publish and explain the routes.", no_args_is_help=True)

for _verb in (plan, apply, rollback, show, explain, edge, history, replay, audit, diff, whatif):
    app.command()(_verb)
