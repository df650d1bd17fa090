"""Where the lab's story is played: the real command line in subprocesses, its documents checked and drawn."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commcli.errors import AnswerBad, CommcliError
from commcli.lab import processes
from commcli.lab.folder import LabFolder, Record
from commcli.report import terminal

Document = dict[str, Any]
_GRACE_S = 5.0


class NotTrue(AnswerBad):
    """A step of the story is not true; the message says which and what was found instead."""


def require(true: object, otherwise: str) -> None:
    """The story goes on only while it is true."""
    if not true:
        raise NotTrue(otherwise)


class Running:
    """One command of ours at work, in a session of its own: a Ctrl-C reaches us, and we pass it on once."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.shown = shlex.join(["commcli", *arguments])
        self._child = subprocess.Popen(
            [sys.executable, "-m", "commcli", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,
        )

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    def finish(self, codes: Sequence[int], timeout_s: float) -> Document:
        """Its document. NotTrue when it ends otherwise than with one of `codes`, or not in time."""
        try:
            out, _ = self._child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise NotTrue(f"{self.shown}: no end after {timeout_s:g} s") from None
        except BaseException:
            self.stop()
            raise
        document = _document(out)
        if self._child.returncode not in codes:
            messages = document.get("error", {}).get("messages") or ["no reason given"]
            hint = document.get("error", {}).get("hint")
            text = "; ".join(messages) + (f" ({hint})" if hint else "")
            raise NotTrue(f"{self.shown}: exit {self._child.returncode}: {text}")
        return document

    def stop(self) -> None:
        """End it as Ctrl-C would, and for certain after a grace period.

        TERM takes the same road in our commands, and is silent where they have not come to install it yet.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._child.poll() is None:
                self._child.send_signal(number)
            try:
                self._child.communicate(timeout=_GRACE_S)
                return
            except subprocess.TimeoutExpired:
                continue


def _document(out: bytes) -> Document:
    try:
        document = json.loads(out)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


@dataclass(slots=True)
class Stage:
    """The lab of the story, what was seen so far, and the way to the audience."""

    folder: LabFolder
    network: str
    silent: bool = False
    seen: dict[str, Document] = field(default_factory=dict)
    made: tuple[Path, ...] = ()  # the folders above the lab's that did not exist before, the deepest first
    _began: float = field(default_factory=time.monotonic)
    _running: list[Running] = field(default_factory=list)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def record(self) -> Record:
        record = self.folder.read()
        if record is None:
            raise CommcliError(f"the lab at {self.folder.path} is gone")
        return record

    @property
    def environ(self) -> dict[str, str]:
        """What `lab up` tells its users to export; and the lab's marker, so that `down` finds our commands too."""
        own = {"COMMCLI_INVENTORY": str(self.folder.inventory), "COMMCLI_STATE": str(self.folder.state)}
        return processes.environment(self.folder.path, None, {**os.environ, **own})

    def begin(self, *arguments: str) -> Running:
        """Start a command and let it run."""
        running = Running(arguments, self.environ)
        self._running = [other for other in self._running if not other.ended] + [running]
        return running

    def run(self, *arguments: str, codes: Sequence[int] = (0,), timeout_s: float = 60.0) -> Document:
        """Run a command to its end; its document."""
        return self.begin(*arguments).finish(codes, timeout_s)

    def stop_all(self) -> None:
        """End every command that still runs."""
        for running in self._running:
            if not running.ended:
                running.stop()

    def say(self, text: str) -> None:
        if not self.silent:
            terminal.stdout().print(text, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """Talk, not data: told also when silent."""
        terminal.stderr().print(text, soft_wrap=True, markup=False)

    def title(self, text: str) -> None:
        if not self.silent:
            console = terminal.stdout()
            console.print()
            console.rule(text, align="left")

    def command(self, *arguments: str) -> None:
        """Show what is about to be run, as its user would type it."""
        self.say("$ " + shlex.join(["commcli", *arguments]))

    def draw(self, document: Document) -> None:
        """As the command itself would have drawn it."""
        if self.silent:
            return
        noun, verb = str(document["kind"]).split(".", 1)
        terminal.stdout().print(importlib.import_module(f"commcli.report.{noun}").DRAW[verb](document))

    def compare(self, before: Document, after: Document) -> None:
        """Two calls side by side."""
        if not self.silent:
            from commcli.report import probe

            terminal.stdout().print(probe.compare(before, after))

    def perform(self, *arguments: str, codes: Sequence[int] = (0,), timeout_s: float = 60.0) -> Document:
        """Show a command, run it, draw its document."""
        self.command(*arguments)
        document = self.run(*arguments, codes=codes, timeout_s=timeout_s)
        self.draw(document)
        return document
