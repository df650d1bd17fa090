"""How many calls a node is an end of at once, whoever made them: locks on files, which the kernel drops with us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
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
    """`folder` if we may put locks there; else one of our own among the temporary files. Raises Ended without either.

    A node's own folder is its installer's to make, with the mode that it is to have.
    """
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and not found.st_mode & stat.S_IWOTH
            and os.access(folder, os.W_OK | os.X_OK)
        ):
            return folder
    own = Path(tempfile.gettempdir()) / f"commcli-probe-{os.geteuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            own.mkdir(0o700)
        found = own.lstat()
    except OSError as error:
        raise Ended(f"no folder for locks: not {folder}, and {own}: {error.strerror}", "node") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Ended(f"no folder for locks: not {folder}, and {own} is somebody else's", "node")
    return own


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
    """Read-only is enough for a lock, so root, a folder's owner and others can share a file that one of the first made.

    Raises OSError also for what is no file of theirs. Nothing waits for what else has that name (a FIFO, a link).
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            descriptor = os.open(path, flags)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid in (os.geteuid(), path.parent.stat().st_uid, 0):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "not a file of ours")
