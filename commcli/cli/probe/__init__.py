"""Measure: real calls, between two markets or all, the mesh of the relays, the edges. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.probe.call import call
from commcli.cli.probe.edge import edge
from commcli.cli.probe.matrix import matrix
from commcli.cli.probe.mesh import mesh
from commcli.cli.probe.run import run

app = typer.Typer(help="Measure: probe calls, the relays' own mesh, the edges.", no_args_is_help=True)

for _verb in (call, matrix, mesh, edge, run):
    app.command()(_verb)
