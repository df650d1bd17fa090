"""Draws the document of `commcli run`: equal outputs once, failures last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from commcli.report.terminal import styled

Document = Mapping[str, Any]
Group = tuple[Document, list[str]]


def _draw(doc: Document) -> Text:
    text = Text()
    for row, nodes in grouped(doc["nodes"]):
        text.append_text(_headed(row, nodes))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(doc["counts"].items()))
    return text.append(f"{len(doc['nodes'])} nodes of {doc['fleet']}: {counts}")


def grouped(rows: Sequence[Document]) -> list[Group]:
    """Nodes that said and did the same, the most common first, those that failed after all others."""
    groups: dict[tuple[object, ...], list[Document]] = {}
    for row in rows:
        key = (row["state"], row["reason"], row["stdout"], row["stderr"])
        groups.setdefault(key, []).append(row)
    found = [(same[0], [row["node"] for row in same]) for same in groups.values()]
    return sorted(found, key=lambda group: (group[0]["state"] != "done", -len(group[1])))


def _headed(row: Document, nodes: Sequence[str]) -> Text:
    text = Text()
    many = f" ({len(nodes)} nodes)" if len(nodes) > 1 else ""
    text.append(f"{','.join(nodes)}{many}", style="bold")
    if row["state"] != "done":
        text.append("  ").append_text(styled(row["state"])).append(f": {row['reason']}")
    text.append("\n")
    for said, style in ((row["stdout"], ""), (row["stderr"], "magenta")):
        if said:
            text.append(said if said.endswith("\n") else said + "\n", style=style)
    return text.append("\n")


DRAW: dict[str, Callable[[Document], Text]] = {"command": _draw}
