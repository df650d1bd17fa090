"""Log lines on stderr: text or JSON, never a secret, never a flood."""

from __future__ import annotations

import io
import json
import select
import sys
import time
from typing import Any, Callable, Dict, Iterable, TextIO, Tuple

# Each event has its own bucket: a burst of one must not hide the one line that another has to say.
BURST = 20
LINES_A_SECOND = 2.0
# Event names are words of our sources. Should one ever be made of what the network sent, it must not grow us.
MOST_EVENTS = 256
# A password of fewer characters would blank out parts of words.
SHORTEST_HIDDEN = 6
MOST_CHARACTERS = 500  # of one value
# Of a line: a pipe with room has room for 4096 bytes (pipe(7)). A longer one has its values cut again.
MOST_LINE, MOST_SHORT = 4000, 40


class Log:
    """Writes `event key=value ...` lines. What was held back, event by event, is counted and told."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        out: TextIO = sys.stderr,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._as_json, self._out, self._unix, self._monotonic = as_json, out, unix, monotonic
        self._buckets: Dict[str, Tuple[float, float]] = {}  # lines left, and when that was so
        self._held_back: Dict[str, int] = {}
        self._hidden: Tuple[str, ...] = ()
        self._next_word = 0.0
        self.held_back = 0  # lines, since the start

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on `***` stands for these in every line, whoever lets one slip into it."""
        self._hidden = tuple(
            sorted({text for text in secrets if len(text) >= SHORTEST_HIDDEN}, key=len, reverse=True)
        )

    def __call__(self, event: str, **fields: Any) -> None:
        """One line. Callers pass names, addresses and reasons; passwords, keys and secrets have no field."""
        now = self._monotonic()
        self.tick(now)
        if self._allowed(event, now):
            self._write(event, fields)
        else:
            self.held_back += 1
            self._held_back[event] = self._held_back.get(event, 0) + 1

    def tick(self, now: float) -> None:
        """Once a second tell what was held back; a quiet loop calls this, so that the count does not wait for news."""
        if now < self._next_word:
            return
        self._next_word = now + 1
        held_back, self._held_back = self._held_back, {}
        for event, lines in sorted(held_back.items()):
            self._write("log_held_back", {"of": event, "lines": lines})

    def _allowed(self, event: str, now: float) -> bool:
        if event not in self._buckets and len(self._buckets) >= MOST_EVENTS:
            event = "other"
        left, then = self._buckets.get(event, (float(BURST), now))
        left = min(float(BURST), left + (now - then) * LINES_A_SECOND)
        self._buckets[event] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def _write(self, event: str, fields: "dict[str, Any]") -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._unix()))
        shown = {key: self._shown(value) for key, value in fields.items()}
        line = self._line(stamp, event, shown)
        if len(line.encode("utf-8", "replace")) > MOST_LINE:
            line = self._line(stamp, event, {key: str(value)[:MOST_SHORT] for key, value in shown.items()})
        try:
            if not self._has_room():
                # Whoever reads it has stopped: that must not stop the calls as well.
                self.held_back += 1
                return
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            # A full disk, a closed pipe or a closed stream must not stop calls; there is nowhere left to say so.
            self.held_back += 1

    def _line(self, stamp: str, event: str, fields: "dict[str, Any]") -> str:
        if self._as_json:
            return json.dumps({"time": stamp, "event": event, **fields}, default=str)
        return " ".join([stamp, event] + [f"{key}={_plain(value)}" for key, value in fields.items()])

    def _has_room(self) -> bool:
        """Would one line go out at once? What is no descriptor always has room. Raises ValueError when it is closed."""
        try:
            descriptor = self._out.fileno()
        except io.UnsupportedOperation:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _shown(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = str(value)
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _plain(value: Any) -> str:
    # Values may hold what the network sent: no line breaks, no terminal escapes.
    text = str(value)
    return text if text.isprintable() else repr(text)
