"""How far work on nodes is, for whoever watches. What draws it (terminal.py) is loaded only where somebody does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from commcli.report.printable import printable

_TROUBLES = ("failed", "unreachable", "refused", "lost", "timeout")


class Happening(Protocol):
    """A word about one node; `state` is empty while it is at work."""

    @property
    def node(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def state(self) -> str: ...


class Progress:
    """What every node is doing now."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self.aside = ""
        self.now: dict[str, str] = {}
        self.finished: dict[str, str] = {}
        self._since: dict[str, float] = {}
        # Where it says what went wrong, as soon as it is known: a state word, and the rest of the line.
        self.tell: Callable[[str, str], None] = lambda state, text: None

    def update(self, node: str, text: str) -> None:
        """`node` is at `text` (a step's name)."""
        if self.now.get(node) != printable(text):
            self._since[node] = time.monotonic()
        self.now[node] = printable(text)

    def done(self, node: str, state: str) -> None:
        """`node` came to its end in `state`."""
        self.now.pop(node, None)
        self.finished[node] = state

    def take(self, event: Happening) -> None:
        """What an event of remote work says; of no node, it is about all of them."""
        if not event.node:
            self.aside = printable(event.text)
        elif event.state:
            if event.state in _TROUBLES:
                self.tell(event.state, f"{event.node}: {printable(event.text)}")
            self.done(event.node, event.state)
        else:
            self.update(event.node, event.text)

    def waiting(self) -> Iterator[str]:
        """Who is at what and since when, the longest first."""
        now = time.monotonic()
        for node, text in sorted(self.now.items(), key=lambda item: (self._since.get(item[0], now), item[0])):
            seconds = int(now - self._since.get(node, now))
            yield f"{node} ({text}, {seconds} s)" if seconds else f"{node} ({text})"


@contextmanager
def following(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A Progress, shown on stderr while the body runs; silent when stderr is no terminal or `quiet`."""
    progress = Progress(title)
    if quiet or not sys.stderr.isatty():
        yield progress
        return
    from commcli.report import terminal

    with terminal.shown(progress):
        yield progress
