"""Measure: real calls between nodes, the mesh that the relays measure themselves, the edges. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.probe.call import call
from commcli.cli.probe.edge import edge
from commcli.cli.probe.mesh import mesh

app = typer.Typer(help="Measure: probe calls, the relays' own mesh, the edges.", no_args_is_help=True)

for _verb in (call, mesh, edge):
    app.command()(_verb)
