"""A terminal's screen that is drawn again in place, as `watch` and `top` do, with what is being done above."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from commcli.report import terminal
from commcli.report.progress import Progress


def is_possible() -> bool:
    """Whether stdout is a terminal that can be drawn on in place."""
    return sys.stdout.isatty() and not terminal.stdout().is_dumb_terminal


class Screen:
    """What stands on the screen: the title, `progress` of the reading under way, and what was shown last."""

    def __init__(self, title: str) -> None:
        self.progress = Progress("reading")
        self._title = title
        self._shown: RenderableType | None = None
        self._when = ""

    def show(self, body: RenderableType) -> None:
        """`body` in place of what is there; a new reading begins with its own progress."""
        self._shown, self._when = body, f"{datetime.now(UTC):, read %H:%M:%SZ}"
        self.progress = Progress("reading")

    def __rich__(self) -> RenderableType:
        head = Text(f"{self._title}{self._when}", style="bold")
        busy = [terminal.View(self.progress)] if self.progress.now else []
        return Group(head, *busy, Text(), *([] if self._shown is None else [self._shown]))


@contextmanager
def screen(title: str) -> Iterator[Screen]:
    """The terminal's other screen while the body runs; the one before comes back."""
    shown = Screen(title)
    # A keystroke at 3 a.m. should not scroll what one is looking at: the other screen, and what is too long is cut.
    with Live(shown, console=terminal.stdout(), screen=True, refresh_per_second=4, vertical_overflow="crop"):
        yield shown
