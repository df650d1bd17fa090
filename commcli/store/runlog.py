"""One log a run: JSON lines, with the time (UTC) of each; for whoever asks afterwards what happened when.

{"at", "run", "command", "who", ...} · {"at", "node", "step", "section", "state", "text", "seconds"} ·
{"at", "node", "state", "reason"} · {"at", "result"}
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from commcli.errors import BadInput
from commcli.store.runs import KEPT


class Happening(Protocol):
    """A word about one node: `ended` is a step that has come to its end, `state` not empty when the node has."""

    @property
    def node(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def ended(self) -> Any: ...


class RunLog:
    """The log of one run, in a file of its own below `folder`; the oldest make room. Raises BadInput."""

    def __init__(self, folder: Path, run: str, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / f"{run}.jsonl"
        self._clock = clock
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for old in sorted(folder.glob("*.jsonl"), reverse=True)[KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(f"{self.path}: {error.strerror}") from None
        self._file = open(descriptor, "a", encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115  closed by `close`

    def write(self, **said: Any) -> None:
        """One line. A disk that is full by now is no reason to stop the run."""
        at = datetime.fromtimestamp(self._clock(), UTC)
        with contextlib.suppress(OSError):
            self._file.write(
                json.dumps({"at": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z", **said}) + "\n"
            )

    def take(self, event: Happening) -> None:
        """What an event of remote work says; what a node is only at is not said."""
        if event.ended is not None:
            step = event.ended
            about = {"section": step.section, "state": step.state, "text": step.text, "seconds": step.seconds}
            self.write(node=event.node, step=event.text, **about)
        elif event.state:
            self.write(node=event.node, state=event.state, reason=event.text)

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that was cut off; none where there is no log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def last_words(said: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each node the last that was heard: {"node", "at", "step" (None: the node itself), "state", "text"}."""
    last = {
        line["node"]: {
            "node": line["node"],
            "at": line["at"],
            "step": line.get("step"),
            "state": line["state"],
            "text": line.get("text", line.get("reason", "")),
        }
        for line in said
        if "node" in line
    }
    return list(last.values())
