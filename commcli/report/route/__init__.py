"""Draws what `commcli route` answers. One verb a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType

from commcli.report.route.applied import applied
from commcli.report.route.explain import explain
from commcli.report.route.history import history
from commcli.report.route.plan import plan
from commcli.report.route.replay import replay
from commcli.report.route.show import show

DRAW: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {
    "plan": plan,
    "apply": applied,
    "rollback": applied,
    "show": show,
    "explain": explain,
    "history": history,
    "replay": replay,
}
