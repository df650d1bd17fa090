"""Draws the documents of `commcli key`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]

_MEANS = {
    "accept": "accept the new key, and go on sending with the old one",
    "send": "send with the new key, and go on accepting the old one",
    "retire": "no longer accept the old key",
}


def _draw_show(doc: Document) -> RenderableType:
    table = grid("node", "sends with", "accepts", "state")
    for row in doc["nodes"]:
        state = styled(row["state"]) if row["state"] == "done" else Text(f"{row['state']}: {row['reason']}")
        table.add_row(
            row["node"], Text(", ".join(row["sends"]) or "-"), Text(", ".join(row["accepts"]) or "-"), state
        )
    return table


def _draw_rotate(doc: Document) -> RenderableType:
    parts: list[RenderableType] = []
    for step in doc["steps"]:
        will = "would" if doc["check"] else "now" if step["done"] else "not all"
        parts.append(Text(f"{step['step']}: {len(step['nodes'])} nodes {will} {_MEANS[step['step']]}"))
    for trouble in doc["troubles"]:
        parts.append(Text.assemble(styled(trouble["state"]), f"  {trouble['node']}: {trouble['reason']}"))
    if doc["left_out"]:
        parts.append(
            Text(f"left out, and without the new key: {', '.join(doc['left_out'])}", style="magenta")
        )
    if doc["troubles"]:
        parts.append(
            Text("stopped before the next step; every relay still understands every other", style="dim")
        )
        parts.append(Text("  next: mend the cause, then: commcli key rotate", style="dim"))
    elif doc["next"]:
        parts.append(Text(f"next: {doc['next']}"))
    elif not doc["steps"]:
        parts.append(Text("every relay holds the keys of the inventory"))
    return Group(*parts)


DRAW: dict[str, Callable[[Document], RenderableType]] = {"show": _draw_show, "rotate": _draw_rotate}
