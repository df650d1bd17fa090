"""How many calls a node is an end of at once, whoever made them: locks on files, which the kernel drops with us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from commcli.probe.ending import Ended


@contextlib.contextmanager
def slot(folder: str, most: int) -> Iterator[int]:
    """Hold one of `most` slots, and tell its number, while the body runs. Raises Ended when all are taken."""
    usable = _usable(Path(folder))
    for number in range(most):
        held = _try(usable / f"commcli-probe-{number}.lock")
        if held is not None:
            try:
                yield number
            finally:
                os.close(held)
            return
    calls = "a probe call" if most == 1 else f"{most} probe calls"
    raise Ended(f"this node is busy with {calls} already, and takes no more at once", "busy")


def _usable(folder: Path) -> Path:
    """`folder` if its locks can be opened or made; else the one for temporary files, which every user may write to."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path(tempfile.gettempdir())


def _try(path: Path) -> int | None:
    """A descriptor that holds the lock on `path`; None if somebody else does. Raises Ended if it can not be made."""
    try:
        descriptor = _opened(path)
    except OSError as error:
        raise Ended(f"{path}: {error.strerror}", "node") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise Ended(f"{path}: {error.strerror}", "node") from None
    return descriptor


def _opened(path: Path) -> int:
    """Read-only is enough for a lock, so the users of a node can share a file that one of them made."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return os.open(path, flags)
