"""Draws what `commcli route history` answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from commcli.report.terminal import STYLES, grid

Document = Mapping[str, Any]


def history(doc: Document) -> RenderableType:
    table = grid(title=f"tables of {doc['fleet']}")
    table.add_column("serial", justify="right", no_wrap=True)
    for head in ("signed", "status", "confirmed", "canary"):
        table.add_column(head, no_wrap=True)
    table.add_column("note", ratio=1)
    for row in doc["tables"]:
        confirmed = "-" if row["confirmed"] is None else f"{row['confirmed']} of {row['shards']}"
        status = Text(row["status"], STYLES["ok"] if row["serial"] == doc["in_force"] else "")
        note = "; ".join(filter(None, (_origin(row), row["reason"], row["stopped"])))
        table.add_row(str(row["serial"]), row["recorded"], status, confirmed, row["canary"] or "-", note)
    return table


def _origin(row: Document) -> str:
    if row["rollback_of"]:
        return f"takes back {row['rollback_of']}"
    return f"routes of {row['routes_of']}" if row["routes_of"] else ""
