"""Log lines on stderr: text or JSON, never a secret, never a flood."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Callable, TextIO

LINES_A_SECOND = 20


class Log:
    """Writes `event key=value ...` lines, at most LINES_A_SECOND of them; what was held back is counted."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        out: TextIO = sys.stderr,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._as_json, self._out, self._unix, self._monotonic = as_json, out, unix, monotonic
        self._second, self._written, self._held_back = -1, 0, 0

    def __call__(self, event: str, **fields: Any) -> None:
        """One line. Callers pass names, addresses and reasons; passwords, keys and secrets have no field."""
        second = int(self._monotonic())
        if second != self._second:
            held_back, self._second, self._written, self._held_back = self._held_back, second, 0, 0
            if held_back:
                self._write("log_held_back", {"lines": held_back})
        if self._written >= LINES_A_SECOND:
            self._held_back += 1
            return
        self._written += 1
        self._write(event, fields)

    def _write(self, event: str, fields: "dict[str, Any]") -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._unix()))
        if self._as_json:
            line = json.dumps({"time": stamp, "event": event, **fields}, default=str)
        else:
            line = " ".join([stamp, event] + [f"{key}={_plain(value)}" for key, value in fields.items()])
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except OSError:
            # A full disk or a closed pipe must not stop calls; there is nowhere left to say so.
            self._held_back += 1


def _plain(value: Any) -> str:
    # Values may hold what the network sent: no line breaks, no terminal escapes.
    text = str(value)
    return text if text.isprintable() else repr(text)
