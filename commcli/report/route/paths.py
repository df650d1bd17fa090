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


def span(seconds: float | None) -> str:
    """A time that is long: "5.8 d", "3.2 h", "40 s"."""
    if seconds is None:
        return "-"
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"
