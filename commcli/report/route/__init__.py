"""Draws what `commcli route` answers. One verb a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType

from commcli.report.route.applied import applied
from commcli.report.route.audit import audit
from commcli.report.route.diff import diff
from commcli.report.route.edge import edge
from commcli.report.route.explain import explain
from commcli.report.route.history import history
from commcli.report.route.plan import plan
from commcli.report.route.replay import replay
from commcli.report.route.show import show
from commcli.report.route.whatif import whatif

DRAW: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {
    "plan": plan,
    "apply": applied,
    "rollback": applied,
    "show": show,
    "explain": explain,
    "edge": edge,
    "history": history,
    "replay": replay,
    "audit": audit,
    "diff": diff,
    "whatif": whatif,
}
