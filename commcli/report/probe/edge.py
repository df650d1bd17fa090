"""Draws the doors of the edges: how far a client comes at each, how fast, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, ms, styled

Document = Mapping[str, Any]


def edge(doc: Document) -> RenderableType:
    """A line a door, the edges in the inventory's order."""
    where = "this machine" if doc["from"] is None else doc["from"]
    table = grid(title=f"TURN at the edges, seen from {where}")
    for column in ("edge", "transport", "address"):
        table.add_column(column, no_wrap=True)
    for column in ("connect ms", "TLS ms", "401 ms", "allocate ms", "in all ms", "days left"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in doc["doors"]:
        table.add_row(row["node"], row["transport"], _place(row), *_figures(row), styled(row["verdict"]))
    return Group(table, *_reasons(doc), *_remarks(doc))


def _place(row: Document) -> str:
    host = f"[{row['address']}]" if ":" in row["address"] else row["address"]
    return f"{host}:{row['port']}"


def _figures(row: Document) -> list[str]:
    times = [ms(row[key], 1) for key in ("connect_ms", "tls_ms", "challenge_ms", "allocate_ms", "total_ms")]
    found = row["certificate"]
    return [*times, "-" if found is None else f"{found['days_left']:.0f}"]


def _reasons(doc: Document) -> list[Text]:
    """What is wrong, once, with all the doors that it is wrong with."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in doc["doors"]:
        again = [f"{row['resent']} requests had to be sent again"] if row["resent"] else []
        for text in (*row["reasons"], *again):
            found.setdefault((row["verdict"], text), []).append(f"{row['node']} {row['transport']}")
    return [
        Text.assemble(styled(verdict), f" {', '.join(where)}: {text}")
        for (verdict, text), where in found.items()
    ]


def _remarks(doc: Document) -> list[RenderableType]:
    parts: list[RenderableType] = []
    counts = ", ".join(f"{count} {name}" for name, count in doc["counts"].items() if count)
    parts.append(
        Text(f"{_many(doc['doors'], 'door')} of {_many(doc['edges'], 'edge')}: {counts}", style="dim")
    )
    if closed := [row["node"] for row in doc["edges"] if row["tls"] is None]:
        parts.append(Text(f"no TLS port in the inventory: {' '.join(closed)}", style="dim"))
    if not doc["valid"]:
        parts.append(Text(f"not to be believed: {doc['invalid_reason']}", style="bold red"))
    return parts


def _many(rows: Sequence[Document], noun: str) -> str:
    return f"{len(rows)} {noun}{'' if len(rows) == 1 else 's'}"
