"""Handlers that are still to run. Written before the change that asks for them: a play that dies between a new
configuration and the restart leaves word, and the next run restarts although it changes nothing."""

from __future__ import annotations

import contextlib
import json
import os

from commcli.remote.onnode import files
from commcli.remote.onnode.step import StepFailed


class Pending:
    """The names of the handlers of one play (or of one rollback) that are still to run, in a file of its own."""

    def __init__(self, path: str) -> None:
        """Reads what an earlier run left. Raises StepFailed when there is something that can not be read."""
        self._path = path
        self.names: list[str] = self._read()

    def _read(self) -> list[str]:
        have = files.look(self._path)
        if have is None:
            return []
        try:
            return [str(name) for name in json.loads(have.data or b"")["pending"]]
        except (ValueError, KeyError, TypeError):
            raise StepFailed(f"{self._path}: is no journal of pending handlers; remove it") from None

    def add(self, names: list[str]) -> list[str]:
        """Note that these handlers must run; returns the new ones. Raises StepFailed: then nothing may be changed."""
        if new := [name for name in names if name not in self.names]:
            self._write([*self.names, *new])
        return new

    def done(self, name: str) -> None:
        """Note that this handler has run."""
        self._write([other for other in self.names if other != name])

    def _write(self, names: list[str]) -> None:
        if names:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)  # noqa: PTH103, PTH120
            files.write(self._path, json.dumps({"pending": names}).encode(), 0o600)
        else:
            # A play may have removed the folder that this is in.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108
        self.names = names
