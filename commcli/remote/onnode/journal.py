"""What a run does to this node, and what was there before: enough to put it back (`commcli rollback RUN`).

<base>/runs/RUN/ is ours alone to read. In it `journal`, of JSON lines, and what files held, named by its sha256:

    {"run", "play", "holder", "undoes"}              once, before the first change
    {"handlers": [compiled steps], "variables"}      before the first change that notifies them
    {"step", "name", "section", "told", "notify", "secret"}     before the first change of each step
    {"n", "path", "was", "will"}  {"n", "is"}        a change of a file: state.py; synced before it; what it came to
    {"n", "argv", "undo", "of"}   {"n", "done"}      a command; "done" is false where it has changed nothing
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from typing import Any

from commcli.remote.onnode import change, files, state
from commcli.remote.onnode.change import Change
from commcli.remote.onnode.state import State
from commcli.remote.onnode.step import StepFailed

KEPT_RUNS = 20
KEPT_BYTES = 256 << 20
# The names of the runs that are not kept any more.
PRUNED = "pruned"
MOST_PRUNED = 1000


class Journal:
    """The journal of one run. Nothing is written before the first change."""

    def __init__(self, plan: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
        self._plan, self._blobs = plan, blobs
        self._folder = f"{plan['base']}/runs/{plan['run']}"
        self._file = -1
        self._count = self._size = 0
        self._commands: list[int] = []
        self._step: dict[str, Any] | None = None
        self._handlers: set[str] = set()

    def begin(self, step: Mapping[str, Any], told: str) -> None:
        """What is noted from now on is done by this step, which says so of it."""
        keys = ("name", "section", "notify")
        self._step = {
            "step": 1,
            "told": told,
            "secret": bool(step["args"].get("secret")),
            **{k: step[k] for k in keys},
        }
        self._commands = []

    def moot(self) -> None:
        """The step's commands have changed nothing."""
        self._append([{"n": number, "done": False} for number in self._commands], must=False)

    @contextlib.contextmanager
    def noted(self, made: Change) -> Iterator[None]:
        """Around a change. Raises StepFailed before the body when it can not be noted."""
        numbers = self._note(made)
        yield
        look = state.bare if isinstance(made, change.Attributes) else state.look
        after = [{"n": number, "is": look(path)} for number, path in numbers if path]
        self._append(
            [*after, *({"n": number, "done": True} for number, path in numbers if not path)], must=False
        )

    def _note(self, made: Change) -> list[tuple[int, str]]:
        self._open()
        lines = [*self._heading(), *self._before(made)]
        numbers = []
        for line in lines:
            if "path" in line or "argv" in line:
                line["n"] = self._count
                self._count += 1
                numbers.append((line["n"], line.get("path", "")))
        self._append(lines, must=True)
        if isinstance(made, change.Run):
            self._commands += [number for number, _ in numbers]
        return numbers

    def _heading(self) -> list[dict[str, Any]]:
        """Handlers and step, if this is the first to need them."""
        step, self._step = self._step, None
        if step is None:
            return []
        new = [
            handler
            for handler in self._plan["steps"]
            if handler["section"] == "handlers" and handler["name"] in {*step["notify"]} - self._handlers
        ]
        self._handlers.update(handler["name"] for handler in new)
        for handler in new:
            if (digest := handler["args"].get("digest")) in self._blobs:
                self._keep(self._blobs[digest])
        asked = self._plan.get("variables", {})
        return [*([{"handlers": new, "variables": asked}] if new else []), step]

    def _before(self, made: Change) -> Iterator[dict[str, Any]]:
        if isinstance(made, change.Run):
            yield {"argv": made.argv, "undo": made.undo and made.undo._asdict(), "of": made.of}
            return
        path = _itself(made.path)
        if isinstance(made, change.Folder):
            for parent in reversed(_missing(path)):
                yield {"path": parent, "was": None, "will": {"kind": "directory"}}
        if os.path.realpath(self._folder).startswith(f"{path}/"):
            was: State = {"kind": "directory", "lost": "this journal is in it"}
        elif isinstance(made, change.Attributes):
            was = state.bare(path)
        else:
            was = (state.with_tree if isinstance(made, change.Remove) else state.look)(path, self._keep)
        yield {"path": path, "was": was, "will": _will(made, was)}

    def _keep(self, data: bytes) -> str:
        digest = files.digest(data)
        path = f"{self._folder}/{digest}"
        # Where the run has removed the journal itself, there is nothing more to keep.
        if not os.path.isdir(self._folder) or files.look(path, content=False) is not None:  # noqa: PTH112
            return digest
        if self._size + len(data) > KEPT_BYTES:
            return ""
        self._size += len(data)
        try:
            files.write(path, data, 0o600)
        except StepFailed as error:
            raise StepFailed(f"no journal of what was there, so nothing is changed: {error}") from None
        return digest

    def _open(self) -> None:
        if self._file >= 0:
            return
        runs = os.path.dirname(self._folder)  # noqa: PTH120
        try:
            os.makedirs(runs, 0o700, exist_ok=True)  # noqa: PTH103
            os.makedirs(self._folder, 0o700, exist_ok=True)  # noqa: PTH103
            prune(runs, {self._plan["run"], self._plan.get("undoes")})
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._file = os.open(f"{self._folder}/journal", flags, 0o600)
            self._count = _go_on(self._file)
            files.sync_folder(self._folder)
            files.sync_folder(runs)
        except OSError as error:
            raise _failed(self._folder, error) from None
        self._append([{key: self._plan.get(key) for key in ("run", "play", "holder", "undoes")}], must=True)

    def _append(self, lines: list[dict[str, Any]], *, must: bool) -> None:
        """Not `must`: it is nobody's loss if it is not written. What is half written is taken away again."""
        if not lines:
            return
        data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) < len(data):
                raise OSError(28, "No space left on device")
            if must:
                os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            if must:
                raise _failed(self._folder, error) from None


def _go_on(file: int) -> int:
    """The first number that is free, where a run has been here before and may have died within a line."""
    there = os.pread(file, os.fstat(file).st_size, 0)
    if there and not there.endswith(b"\n"):
        os.write(file, b"\n")
    return there.count(b"\n")


def _failed(path: str, error: OSError) -> StepFailed:
    return StepFailed(f"{path}: no journal, so nothing is changed: {files.reason(error)}")


def _itself(path: str) -> str:
    """Where it really is: a link on the way there may lead elsewhere later. Of a link, where the link is."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118


def _missing(path: str) -> list[str]:
    """The parents of `path` that are not there, the innermost first."""
    found = []
    while (path := os.path.dirname(path.rstrip("/"))) and not os.path.lexists(path):  # noqa: PTH120
        found.append(path)
    return found


def _will(made: Change, was: State) -> State:
    """What is there after the change or, if we are killed, within it: no more than is certain."""
    if isinstance(made, change.Write):
        about = {"mode": made.mode, "uid": made.uid, "gid": made.gid}
        return {"kind": "file", **about, "size": len(made.data), "digest": files.digest(made.data)}
    if isinstance(made, change.Folder):
        return {"kind": "directory"}
    if isinstance(made, change.Link):
        return {"kind": "link", "target": made.target}
    if isinstance(made, change.Attributes) and was is not None:
        return {"kind": was["kind"], "bare": True}
    return None


def prune(runs: str, kept: Set[str | None]) -> None:
    """Remove the oldest runs beyond KEPT_RUNS or KEPT_BYTES, but none of `kept`. Raises OSError."""
    size, gone = 0, list[str]()
    # Somebody may have put a file there.
    found = (name for name in os.listdir(runs) if os.path.isdir(f"{runs}/{name}"))  # noqa: PTH112, PTH208
    for place, run in enumerate(sorted(found, reverse=True)):
        with os.scandir(f"{runs}/{run}") as files_of_run:
            size += sum(file.stat(follow_symlinks=False).st_size for file in files_of_run)
        if run not in kept and (place >= KEPT_RUNS or size > KEPT_BYTES):
            shutil.rmtree(f"{runs}/{run}")
            gone.append(run)
    if gone:
        before = (files.look(f"{runs}/{PRUNED}") or files.Have("file", 0)).data or b""
        names = [*before.decode("utf-8", "replace").split("\n"), *gone][-MOST_PRUNED:]
        files.write(f"{runs}/{PRUNED}", "\n".join(names).encode(), 0o600)
