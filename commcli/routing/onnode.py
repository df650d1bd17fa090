"""Runs on the node (python 3.9, standard library): takes a table in, and asks the relay what it made of it.

    table/.<serial>.<pid>/   the new files, written aside and synced
    table/<serial>/          renamed there whole
    table/staged             a symlink: the table to come, which the relay reads, judges and holds ready
    table/current            a symlink, replaced by rename: the relay sees the old table or the new one

The relay alone judges a table. If it refuses this one, the link goes back to where it pointed, so that the disk
holds what is in force.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from commcli.relay.process import control

POLL_S = 0.05
ANSWER_S = 10.0
# Tables kept on the node beside the one in force, for someone who looks there at 3 a.m.
KEPT = 3

Ask = Callable[[str], Mapping[str, Any]]
# The link that is set, and the words in the relay's status for the table that it points at and for why not.
_CURRENT = ("current", "serial", "refused")
_STAGED = ("staged", "staged", "staged_refused")


def main(argument: Mapping[str, Any], channel: Any) -> None:
    """The program's entry: {"base", "do": "stage" or "install", "serial", "wait_s", "files": {name: text} or None,
    "manifest": sha256} in, one answer out (see `Push`).
    """
    base = Path(argument["base"])
    socket_path = base / "run" / "control.sock"
    push = Push(
        base / "table",
        argument["serial"],
        argument["files"],
        manifest=argument["manifest"],
        ask=lambda word: _asked(socket_path, word),
        wait_s=argument["wait_s"],
    )
    channel.send(push.stage() if argument["do"] == "stage" else push.install())


class Push:
    """One table on its way into `folder`. `files` None: those that lie there already, if `manifest` is their digest.

    Both verbs answer {"state", "serial" (what the relay has now, or None), "reason"}.
    state: "confirmed"; "refused" (the relay said why); "down" (no relay answers; nothing was touched);
    "failed" (the disk or a relay that does not come to an end); "unstaged" (`files` is None and they do not lie
    there); "older" (a relay that can not hold a table ready). Safe to repeat.
    """

    def __init__(
        self,
        folder: Path,
        serial: int,
        files: Mapping[str, str] | None,
        *,
        manifest: str,
        ask: Ask,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder, self.serial, self.files, self.manifest = folder, serial, files, manifest
        self.ask, self.wait_s, self.clock, self.sleep = ask, wait_s, clock, sleep

    def stage(self) -> dict[str, Any]:
        """Have the relay hold the table ready: it carries the paths of it from then on, and sends along none."""
        return self._set(_STAGED)

    def install(self) -> dict[str, Any]:
        """Put the table in force."""
        return self._set(_CURRENT)

    def _set(self, which: tuple[str, str, str]) -> dict[str, Any]:
        try:
            with _alone(self.folder):
                return self._push(*which)
        except OSError as error:
            return _answer("failed", None, f"{self.folder}: {error.strerror or error}")

    def _push(self, link: str, has: str, refused: str) -> dict[str, Any]:
        """Nobody else pushes here until it has come to its end."""
        try:
            before = self.ask("status")["table"]
            serial = before["serial"]
        except (OSError, ValueError, KeyError) as error:
            return _answer("down", None, f"no relay answers: {error}")
        if has not in before:
            return _answer("older", serial, "")
        there = self._digests("table")
        if serial == self.serial:
            in_force = there | self._digests("state")
            if in_force and self.manifest not in in_force:
                return _answer(
                    "failed", serial, f"another table {serial} is in force: somebody else publishes, too"
                )
            return _answer("confirmed", serial, "")
        if before[has] == self.serial and self.manifest in there:
            return _answer("confirmed", self.serial, "")
        if self.files is None and self.manifest not in there:
            return _answer("unstaged", serial, "")
        try:
            former = _target(self.folder, link)
            self._write()
            _point(self.folder, link, str(self.serial))
        except OSError as error:
            return _answer("failed", serial, f"{self.folder}: {error.strerror or error}")
        try:
            answer = self._verdict(has, refused, before[refused])
        except (OSError, ValueError, KeyError) as error:
            return _answer("failed", None, f"the relay went silent on the new table: {error}")
        if answer["state"] == "refused":
            _point(self.folder, link, former if former != str(self.serial) else None)
            shutil.rmtree(str(self.folder / str(self.serial)), ignore_errors=True)
            _quietly(self.ask, "reload")
        _tidy(self.folder)
        return answer

    def _verdict(self, has: str, refused: str, stale: str | None) -> dict[str, Any]:
        """Ask until the relay has the serial or a new word of refusal; `stale` is what it said of an earlier table."""
        self.ask("reload")
        until = self.clock() + self.wait_s
        while True:
            table = self.ask("status")["table"]
            if table[has] == self.serial:
                return _answer("confirmed", self.serial, "")
            late = self.clock() >= until
            if table[refused] is not None and (table[refused] != stale or late):
                return _answer("refused", table["serial"], table[refused])
            if late:
                return _answer(
                    "failed", table["serial"], f"no word on the new table within {self.wait_s:g} s"
                )
            self.sleep(POLL_S)

    def _digests(self, where: str) -> set[str]:
        """Of the manifest that lies there under this serial ("table"), or that the relay keeps as its good one
        ("state"); none where there is none.
        """
        good = self.folder.parent / "state" / "good"
        folder = self.folder / str(self.serial) if where == "table" else good
        try:
            return {hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()}
        except OSError:
            return set()

    def _write(self) -> None:
        """Aside, then renamed. Raises OSError with nothing half-done."""
        if self.files is None:
            return
        aside = self.folder / f".{self.serial}.{os.getpid()}"
        try:
            _write(aside, self.files)
            # Left by a push that broke off: the relay never confirmed it, so it is not in force.
            shutil.rmtree(str(self.folder / str(self.serial)), ignore_errors=True)
            aside.rename(self.folder / str(self.serial))
        except OSError:
            shutil.rmtree(str(aside), ignore_errors=True)
            raise


def _answer(state: str, serial: int | None, reason: str) -> dict[str, Any]:
    return {"state": state, "serial": serial, "reason": reason}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises BlockingIOError: two operators push at once, and the second is told so."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another push is at work there") from None
    finally:
        os.close(handle)


def _write(aside: Path, files: Mapping[str, str]) -> None:
    shutil.rmtree(str(aside), ignore_errors=True)
    aside.mkdir()
    # Not the umask's business: the relay may run as another user.
    aside.chmod(0o755)
    for name, text in files.items():
        with (aside / name).open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        (aside / name).chmod(0o644)
    _sync(aside)


def _target(folder: Path, link: str) -> str | None:
    return str((folder / link).readlink()) if (folder / link).is_symlink() else None


def _point(folder: Path, link: str, target: str | None) -> None:
    """Make the link point at `target` in one rename; None: there was none before."""
    if target is None:
        (folder / link).unlink()
    else:
        aside = folder / f".{link}.{os.getpid()}"
        if aside.is_symlink():
            aside.unlink()
        aside.symlink_to(target)
        aside.replace(folder / link)
    _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidy(folder: Path) -> None:
    """Remove what broken-off pushes left, and all tables but the one in force, the one to come and the newest few."""
    current, staged = _target(folder, "current"), _target(folder, "staged")
    if staged is not None and (_number(staged) <= _number(current) or not (folder / staged).exists()):
        (folder / "staged").unlink()
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            entry.unlink() if entry.is_symlink() else shutil.rmtree(str(entry), ignore_errors=True)
    kept = (current, staged)
    old = [entry for entry in folder.iterdir() if entry.name.isdigit() and entry.name not in kept]
    for entry in sorted(old, key=lambda entry: int(entry.name))[:-KEPT]:
        shutil.rmtree(str(entry), ignore_errors=True)


def _number(target: str | None) -> int:
    return int(target) if target is not None and target.isdigit() else 0


def _asked(path: Path, word: str) -> dict[str, Any]:
    answer = control.ask(path, {"cmd": word}, ANSWER_S)
    if not answer.get("ok"):
        raise ValueError(f"the relay's answer to {word}: {answer.get('error')}")
    return answer


def _quietly(ask: Ask, word: str) -> None:
    # It looks at its files by itself, only later.
    with contextlib.suppress(OSError, ValueError):
        ask(word)
