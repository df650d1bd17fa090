"""The textfile for Prometheus of a command that cron runs: written whichever way it ends."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from commcli.errors import CommcliError, Interrupted, LockHeld, Terminated
from commcli.report import textfile as textfiles

BUG = 70
# The document (None: there is none), exit code, now, seconds, the text before -> the new text.
Text = Callable[[dict[str, Any] | None, int, float, float, str], str]
TextfileOpt = Annotated[
    Path | None,
    typer.Option("--textfile", help="Write gauges for Prometheus here, also when the run fails."),
]


class Gauges:
    """The textfile of one run, whichever way it ends."""

    def __init__(self, path: Path | None, text: Text) -> None:
        self._path = path
        self._text = text
        self._began = time.monotonic()
        self.doc: dict[str, Any] | None = None
        self.code = BUG
        self.problem_code = 0
        self._is_ours = True

    @contextmanager
    def written(self) -> Iterator[None]:
        """Around the run: what ends it is its exit code. A file that can not be written is a line on stderr, one that
        is no file is no run. Where another run is at work the file is that one's.
        """
        if self._path is not None:
            textfiles.check(self._path)
        stopped: type[CommcliError] = Interrupted
        on_sigterm = signal.getsignal(signal.SIGTERM)

        def terminated(number: int, frame: FrameType | None) -> None:
            # It takes the road of Ctrl-C from here on, but has another exit code.
            nonlocal stopped
            stopped = Terminated
            if callable(on_sigterm):
                on_sigterm(number, frame)

        signal.signal(signal.SIGTERM, terminated)
        try:
            yield
        except CommcliError as error:
            self.code = error.exit_code
            self._is_ours = not isinstance(error, LockHeld)
            raise
        except KeyboardInterrupt:
            self.code = stopped.exit_code
            raise
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
            self._write()

    def _write(self) -> None:
        if self._path is None or not self._is_ours:
            return
        seconds = time.monotonic() - self._began
        new = self._text(self.doc, self.code, time.time(), seconds, textfiles.read(self._path))
        try:
            textfiles.write(self._path, new)
        except CommcliError as error:
            self.problem_code = error.exit_code
            print(error, file=sys.stderr)
