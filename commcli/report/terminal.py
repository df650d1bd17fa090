"""The terminal: consoles that respect pipes, NO_COLOR and COLUMNS, and how the progress of work looks there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from commcli.report.progress import Progress

Row = TypeVar("Row")

STYLES = {
    "ok": "green", "done": "green", "good": "green", "unchanged": "dim", "changed": "yellow",
    "warn": "yellow", "failed": "bold red", "fail": "bold red", "bad": "bold red", "unreachable": "magenta",
    "timeout": "magenta", "lost": "magenta", "refused": "bold red",
    "rescued": "yellow", "ignored": "yellow", "again": "yellow", "fetched": "green",
    "stopped": "bold red", "drained": "bold red", "rolled back": "yellow",
}  # fmt: skip


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to cli.output: rich would end the program with exit code 1, an answer of its own."""
        raise


def stdout() -> Console:
    """For data. A pipe gets 120 columns and no colour unless COLUMNS or FORCE_COLOR say otherwise."""
    width = None if sys.stdout.isatty() else _columns()
    # No markup: what a node or a file says in brackets is text, never a style.
    return _Console(file=sys.stdout, width=width, highlight=False, markup=False)


def stderr() -> Console:
    """For talk."""
    return Console(file=sys.stderr, highlight=False, markup=False)


class _Grid(Table):
    """A cell that is too wide goes on in its next line: an ellipsis would lose the end of a reason or a path."""

    def add_column(self, *texts: Any, **options: Any) -> None:
        fold = {} if options.get("no_wrap") else {"overflow": "fold"}
        super().add_column(*texts, **{**fold, **options})


def grid(*columns: str, title: str | None = None) -> Table:
    """The one look of tables: no frame, so that rows can be copied, grepped and read on a phone at 3 a.m."""
    table = _Grid(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold"
    )
    for column in columns:
        table.add_column(column)
    return table


def capped(rows: Sequence[Row], most: int) -> tuple[Sequence[Row], str]:
    """The first rows, and what to say of the others ("" if there are none)."""
    hidden = len(rows) - most
    return rows[:most], f"and {hidden} more (--json has all)" if hidden > 0 else ""


def is_text(drawn: RenderableType) -> bool:
    """Whether it is mere text, without a layout."""
    return isinstance(drawn, Text)


def styled(word: str) -> Text:
    """A state word in its colour; the word itself always carries the meaning."""
    return Text(word, style=STYLES.get(word, ""))


def ms(value: float | None, digits: int = 0) -> str:
    """Milliseconds, or a dash where nothing was measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction 0..1 as percent, or a dash where nothing was measured."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _columns() -> int:
    import os

    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        return 120


class View:
    """How a Progress looks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich__(self) -> RenderableType:
        progress = self._progress
        counts: dict[str, int] = {}
        for state in progress.finished.values():
            counts[state] = counts.get(state, 0) + 1
        head = Text(f"{progress.title} {time.monotonic() - progress.started:4.1f} s  ")
        for state, count in sorted(counts.items()):
            head.append(f"{count} {state}  ", style=STYLES.get(state, ""))
        if progress.aside:
            head.append(progress.aside)
        waiting = list(progress.waiting())
        rows = [Text("  waiting on: " + ", ".join(waiting[:6]), style="dim", no_wrap=True)]
        return Group(Spinner("dots", head), *(rows if waiting else []))


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show it on stderr while the body runs; nothing where stderr is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with Live(View(progress), console=console, transient=True, refresh_per_second=8) as live:

        def tell(state: str, text: str) -> None:
            live.console.print(Text.assemble(styled(state), f"  {text}"))

        progress.tell = tell
        yield
