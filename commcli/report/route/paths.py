"""How a path and a difference are written."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text


def route(path: Sequence[str] | None) -> Text:
    """The nodes from edge to edge; a direct path says so, because it is easily overlooked."""
    if path is None:
        return Text("-", "dim")
    return Text("direct", "dim") if len(path) == 2 else Text(" > ".join(path))


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0f}"
