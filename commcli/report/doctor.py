"""Draws the document of `commcli doctor`: what fails last, where the eye is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]
_ORDER = {"ok": 0, "warn": 1, "fail": 2}


def _draw(doc: Document) -> RenderableType:
    table = grid("check", "verdict", "what")
    for row in sorted(doc["checks"], key=lambda row: _ORDER[row["verdict"]]):
        what = Text(row["what"])
        if row["next"]:
            what.append(f"\n  next: {row['next']}", style="dim")
        table.add_row(row["check"], styled(row["verdict"]), what)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in doc["counts"].items() if count)
    return Group(table, Text(f"{counts}, in {doc['seconds']:.1f} s"))


DRAW: dict[str, Callable[[Document], RenderableType]] = {"checks": _draw}
