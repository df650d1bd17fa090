"""Draws what `commcli probe` answers. One verb a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType

from commcli.report.probe.call import both, call, compare
from commcli.report.probe.edge import edge
from commcli.report.probe.matrix import matrix
from commcli.report.probe.mesh import mesh
from commcli.report.probe.run import run

__all__ = ["DRAW", "call", "compare", "edge", "matrix", "mesh", "run"]

DRAW: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {
    "call": call,
    "compare": both,
    "edge": edge,
    "matrix": matrix,
    "mesh": mesh,
    "run": run,
}
