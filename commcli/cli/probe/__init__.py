"""Measure: real calls between nodes, and the mesh that the relays measure themselves. One verb a file."""

from __future__ import annotations

import typer

from commcli.cli.probe.call import call
from commcli.cli.probe.mesh import mesh

app = typer.Typer(help="Measure: probe calls and the relays' own mesh.", no_args_is_help=True)

for _verb in (call, mesh):
    app.command()(_verb)
