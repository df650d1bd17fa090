"""Draws what `commcli route show` answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.route.paths import route
from commcli.report.terminal import STYLES, grid

Document = Mapping[str, Any]
DAY_S = 86400


def show(doc: Document) -> RenderableType:
    table = grid(title=f"routes of {doc['fleet']}, table {doc['serial']}")
    for head in ("from", "to", "primary", "backup", "last resort"):
        table.add_column(head, no_wrap=True)
    for row in doc["routes"]:
        spare = [route(row["backup"]), route(row["last_resort"])]
        primary = Text("blocked by a zone", STYLES["warn"]) if row["blocked"] else route(row["primary"])
        table.add_row(row["from"], row["to"], primary, *spare)
    left = Text(f"signed {doc['created']}, expires {doc['expires']}", style="dim")
    if doc["due"]:
        # Half of its life is over, and nobody has renewed it.
        style = STYLES["fail" if doc["left_s"] < DAY_S else "warn"]
        left = Text(
            f"signed {doc['created']}, expires in {doc['left_s'] / DAY_S:.1f} days: commcli route apply",
            style,
        )
    if doc["expired"]:
        left = Text(
            f"expired {doc['expires']}: relays keep it, but take no new table of its age: commcli route apply",
            STYLES["fail"],
        )
    return Group(table, *_doors(doc), left)


def _doors(doc: Document) -> list[Text]:
    """Where new clients are taken, and how many client networks are sent there: one line, and what is odd."""
    closed = [door["node"] for door in doc["doors"] if door["turn_port"] is None]
    lines = [Text(f"no new clients are sent to {', '.join(closed)}", "dim")] if closed else []
    if doc["prefixes"]:
        nearest = (
            ", ".join(f"{d['node']} {d['prefixes']}" for d in doc["doors"] if d["prefixes"]) or "none here"
        )
        lines.append(Text(f"client networks: {doc['prefixes']}, nearest to {nearest}", "dim"))
    return lines
