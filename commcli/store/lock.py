"""One changing command at a time: a lock that names its holder and dies with it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from commcli.errors import BadInput, LockHeld
from commcli.store.operator import operator


@contextmanager
def exclusive(path: Path, what: str, *, clock: Callable[[], float] = time.time) -> Iterator[None]:
    """Hold the lock at `path` for the body; `what` is the command. Raises LockHeld at once, naming the holder.

    flock and not a pid file: the kernel lets go when the process ends, however it ends. The file stays, because
    removing it would let two processes lock two files of one name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Unbuffered, so that a full disk is met here and not again when the file is closed.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise BadInput(f"{path}: can not lock: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(
                _held(file), hint="Wait for it, or end it if it hangs; reads need no lock."
            ) from None
        _sign(file, path, {"who": operator(), "pid": os.getpid(), "command": what, "since": clock()})
        try:
            yield
        finally:
            file.truncate(0)


def _sign(file: FileIO, path: Path, holder: dict[str, object]) -> None:
    try:
        file.truncate(0)
        file.write(json.dumps(holder).encode())
    except OSError as error:
        raise BadInput(f"{path}: can not lock: {error.strerror}") from None


def _held(file: FileIO) -> str:
    """The line about whoever holds the lock. He may have taken it this instant and not signed yet."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        since = datetime.fromtimestamp(holder["since"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return f"locked by {holder['who']} (pid {holder['pid']}) since {since}: {holder['command']}"
    except (ValueError, KeyError, TypeError):
        return "locked by another command that has just begun"
