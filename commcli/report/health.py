"""Drawers of `commcli health ...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import STYLES, grid, styled

Document = Mapping[str, Any]


def _check(doc: Document) -> RenderableType:
    table = grid("node", "region", "health", title=f"health of {doc['fleet']}")
    table.add_column("findings", ratio=1)
    for row in doc["nodes"]:
        table.add_row(row["node"], row["region"], styled(row["verdict"]), _findings(row["findings"]))
    return Group(table, *_causes(doc["causes"]), _summary(doc["counts"]))


def _findings(findings: Sequence[Mapping[str, Any]]) -> Text:
    """Bad ones on a line each, with their verdict; what is fine in one paragraph after them."""
    text = Text()
    for finding in findings:
        if finding["verdict"] != "ok":
            text.append(finding["verdict"], style=STYLES[finding["verdict"]])
            text.append(f" {finding['reason']}\n")
    fine = "; ".join(finding["reason"] for finding in findings if finding["verdict"] == "ok")
    text.append(fine, style="dim")
    text.rstrip()
    return text


def _causes(causes: Sequence[Mapping[str, Any]]) -> list[Text]:
    lines = []
    for cause in causes:
        line = Text()
        line.append(cause["verdict"], style=STYLES[cause["verdict"]])
        line.append(f" {', '.join(cause['nodes'])}: {cause['cause']}")
        if cause["next"]:
            line.append(f"\n     next: {cause['next']}", style="dim")
        lines.append(line)
    return lines


def _summary(counts: Mapping[str, int]) -> Text:
    words = {"ok": "ok", "warn": "warn", "fail": "fail", "unreachable": "out of reach"}
    total = sum(counts.values())
    text = Text("1 node: " if total == 1 else f"{total} nodes: ")
    parts = [Text(f"{count} {words[name]}", STYLES[name]) for name, count in counts.items() if count]
    return text.append_text(Text(", ").join(parts))


DRAW = {"check": _check}
