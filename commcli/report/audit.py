"""Draws the documents of `commcli audit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]

LISTED = 3


def _draw_list(doc: Document) -> RenderableType:
    if not doc["rows"]:
        return Text("nobody has changed anything yet", style="dim")
    table = grid()
    for column in ("when (UTC)", "who", "command", "result", "took", "reason", "detail"):
        table.add_column(column, no_wrap=column in ("when (UTC)", "result", "took"))
    for row in doc["rows"]:
        table.add_row(
            datetime.fromtimestamp(row["started"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            Text(row["who"]),
            Text(row["command"]),
            styled(row["result"]) if row["ended"] is not None else Text("unfinished", style="magenta"),
            "-" if row["ended"] is None else f"{row['ended'] - row['started']:.1f} s",
            Text(row["reason"] or "-"),
            Text(_detail(row["detail"])),
        )
    return table


def _detail(detail: Document) -> str:
    """What there is to say, short enough for 80 columns; all of it stands in --json."""
    told = {key: _short(value) for key, value in detail.items() if value not in (None, [], {})}
    return ", ".join(f"{key}={text}" for key, text in told.items()) or "-"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key} {item}" for key, item in value.items()]
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
    return "; ".join(map(str, value[:LISTED])) + more


DRAW: dict[str, Callable[[Document], RenderableType]] = {"list": _draw_list}
