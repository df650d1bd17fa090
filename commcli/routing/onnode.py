"""Runs on the node (python 3.9, standard library): takes a table in, and asks the relay what it made of it.

    table/.<serial>.<pid>/   the new files, written aside and synced
    table/<serial>/          renamed there whole
    table/current            a symlink, replaced by rename: the relay sees the old table or the new one

The relay alone judges a table. If it refuses this one, `current` goes back to where it pointed, so that the
disk holds what is in force.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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


def main(argument: Mapping[str, Any], channel: Any) -> None:
    """The program's entry: {"base", "serial", "wait_s", "files": {name: text}} in, one answer out (see
    `install`).
    """
    base = Path(argument["base"])
    socket_path = base / "run" / "control.sock"
    channel.send(
        install(
            base / "table",
            argument["serial"],
            argument["files"],
            ask=lambda word: _asked(socket_path, word),
            wait_s=argument["wait_s"],
        )
    )


def install(
    folder: Path,
    serial: int,
    files: Mapping[str, str],
    *,
    ask: Ask,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Put the table in force: {"state", "serial" (what the relay has now, or None), "reason"}.

    state: "confirmed"; "refused" (the relay said why); "down" (no relay answers; nothing was touched);
    "failed" (the disk or a relay that does not come to an end). Safe to repeat.
    """
    try:
        before = ask("status")["table"]
    except (OSError, ValueError, KeyError) as error:
        return _answer("down", None, f"no relay answers: {error}")
    if before["serial"] == serial:
        return _answer("confirmed", serial, "")
    try:
        with _alone(folder):
            former = _switch(folder, serial, files)
    except OSError as error:
        return _answer("failed", before["serial"], f"{folder}: {error.strerror or error}")
    try:
        answer = _await_verdict(ask, serial, before["refused"], wait_s, clock, sleep)
    except (OSError, ValueError, KeyError) as error:
        return _answer("failed", None, f"the relay went silent on the new table: {error}")
    if answer["state"] == "refused":
        _point(folder, former)
        shutil.rmtree(str(folder / str(serial)), ignore_errors=True)
        _quietly(ask, "reload")
    _tidy(folder)
    return answer


def _answer(state: str, serial: int | None, reason: str) -> dict[str, Any]:
    return {"state": state, "serial": serial, "reason": reason}


def _await_verdict(
    ask: Ask,
    serial: int,
    stale: str | None,
    wait_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    """Ask until the relay has the serial or a new word of refusal; `stale` is what it said of an earlier
    table.
    """
    ask("reload")
    until = clock() + wait_s
    while True:
        table = ask("status")["table"]
        if table["serial"] == serial:
            return _answer("confirmed", serial, "")
        late = clock() >= until
        if table["refused"] is not None and (table["refused"] != stale or late):
            return _answer("refused", table["serial"], table["refused"])
        if late:
            return _answer("failed", table["serial"], f"no word on the new table within {wait_s:g} s")
        sleep(POLL_S)


def _switch(folder: Path, serial: int, files: Mapping[str, str]) -> str | None:
    """Write the table aside, then rename. Gives what `current` pointed at. Raises OSError with nothing
    half-done.
    """
    former = str((folder / "current").readlink()) if (folder / "current").is_symlink() else None
    aside = folder / f".{serial}.{os.getpid()}"
    try:
        _write(aside, files)
        # Left by a push that broke off: the relay never confirmed it, so it is not in force.
        shutil.rmtree(str(folder / str(serial)), ignore_errors=True)
        aside.rename(folder / str(serial))
    except OSError:
        shutil.rmtree(str(aside), ignore_errors=True)
        raise
    _point(folder, str(serial))
    return former


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


def _point(folder: Path, target: str | None) -> None:
    """Make `current` point at `target` in one rename; None: there was no table before."""
    current = folder / "current"
    if target is None:
        current.unlink()
    else:
        link = folder / f".current.{os.getpid()}"
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)
        link.replace(current)
    _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidy(folder: Path) -> None:
    """Remove what broken-off pushes left, and all tables but the one in force and the newest few."""
    current = str((folder / "current").readlink()) if (folder / "current").is_symlink() else ""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            entry.unlink() if entry.is_symlink() else shutil.rmtree(str(entry), ignore_errors=True)
    old = [entry for entry in folder.iterdir() if entry.name.isdigit() and entry.name != current]
    for entry in sorted(old, key=lambda entry: int(entry.name))[:-KEPT]:
        shutil.rmtree(str(entry), ignore_errors=True)


def _asked(path: Path, word: str) -> dict[str, Any]:
    answer = control.ask(path, {"cmd": word}, ANSWER_S)
    if not answer.get("ok"):
        raise ValueError(f"the relay's answer to {word}: {answer.get('error')}")
    return answer


def _quietly(ask: Ask, word: str) -> None:
    # It looks at its files by itself, only later.
    with contextlib.suppress(OSError, ValueError):
        ask(word)
