"""Draws the document of `commcli fetch`: a line a file, for who pipes it on; then what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.push import troubles

Document = Mapping[str, Any]


def _draw(doc: Document) -> RenderableType:
    files = [
        Text(step["file"] or f"{row['node']}:{doc['path']}", no_wrap=True, overflow="ignore")
        for row in doc["nodes"]
        for step in row["steps"]
        if row["state"] == "done"
    ]
    done = doc["counts"].get("done", 0)
    verb = "have it" if doc["check"] else "done"
    told = Text(f"fetch on {doc['fleet']}: {done} of {len(doc['nodes'])} nodes {verb}")
    return Group(*files, *troubles(doc, "commcli fetch '{at}' {path} {local}"), told)


DRAW: dict[str, Callable[[Document], RenderableType]] = {"files": _draw}
