"""A node in a folder, for plays without a host: facts are given, programs only note that they ran and answer.

A program's answers are `{status, stdout, stderr, sh}`, in order, the last one for ever; `sh` is what it does besides,
with the node's folder as $BASE. The relay's control socket answers alike.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from commcli.remote.onnode import executor

_PROGRAM = """#!/bin/sh
set -e
BASE={base}
cd {fakes}
echo "{name} $*" >> ran
count=$(cat {name}.count 2>/dev/null || echo 0)
echo $((count + 1)) > {name}.count
[ -f {name}.$count ] || count=last
. ./{name}.$count
"""


class Channel:
    """What the executor talks to."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.blobs = dict(blobs)
        self.messages: list[Any] = []
        self.pieces: list[bytes] = []

    def send(self, message: Any) -> None:
        self.messages.append(json.loads(json.dumps(message)))

    def mask(self, value: Any) -> Any:
        return value

    def send_piece(self, data: bytes) -> None:
        self.pieces.append(data)


class FakeNode:
    """The folder `base` with what is in it, and beside it the programs, which are all that PATH has."""

    def __init__(self, folder: Path, case: Mapping[str, Any]) -> None:
        self.base = folder / "node"
        self._fakes = folder / "fakes"
        self._case = case
        self.base.mkdir()
        self._fakes.mkdir()
        for name, content in case.get("files", {}).items():
            path = self.base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir()
            else:
                path.write_text(content)
        for tool in ("cat", "flock", "sleep", "touch"):
            (self._fakes / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        for name, answers in {"true": {}, "false": {"status": 1}, **case.get("commands", {})}.items():
            self._program(name, answers if isinstance(answers, list) else [answers])

    @property
    def path(self) -> str:
        """For the environment: the programs, and the few that they themselves need."""
        return str(self._fakes)

    def ran(self) -> list[str]:
        """The commands that have run, without the node's own folder."""
        noted = self._fakes / "ran"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line.replace(f"{self.base}/", "").strip() for line in lines]

    def nameless(self, text: str) -> str:
        """A text of the node's with `node` for its folder."""
        return text.replace(str(self.base), "node")

    def play(self, plan: Any) -> Channel:
        """Run a plan on it."""
        facts = {"base": str(self.base), "python": "fakepython", "systemd": False, "uid": 0}
        channel = Channel(plan.blobs)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_serving(self.base / "run/control.sock", self._case.get("relay")))
            for name in self._case.get("held", ()):
                stack.enter_context(_held(self.base / name))
            executor.play(plan.body, channel, {**facts, **self._case.get("facts", {})})  # type: ignore[arg-type]
        return channel

    def _program(self, name: str, answers: Sequence[Mapping[str, Any]]) -> None:
        for at, answer in enumerate(answers):
            text = (
                f"{answer.get('sh', '')}\nprintf %s {_quoted(answer.get('stdout', ''))}\n"
                f"printf %s {_quoted(answer.get('stderr', ''))} >&2\nexit {answer.get('status', 0)}\n"
            )
            for count in (str(at), *(["last"] if at + 1 == len(answers) else [])):
                (self._fakes / f"{name}.{count}").write_text(text)
        program = self._fakes / name
        program.write_text(_PROGRAM.format(base=self.base, fakes=self._fakes, name=name))
        program.chmod(0o755)

    def close(self) -> None:
        """End the processes that a `sh` has left, with their ids in children."""
        children = self._fakes / "children"
        for pid in children.read_text().split() if children.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """A supervisor lives: it holds its pid file locked."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _serving(path: Path, answers: Sequence[Any] | None) -> Iterator[None]:
    """The relay's control socket, with these answers one after the other."""
    if answers is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        listening.listen()
        thread = threading.Thread(target=_answer, args=(listening, answers))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            os.close(folder)
            path.unlink(missing_ok=True)


def _answer(listening: socket.socket, answers: Sequence[Any]) -> None:
    asked = 0
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(1 << 16)
            connection.sendall(json.dumps(answers[min(asked, len(answers) - 1)]).encode())
        asked += 1
