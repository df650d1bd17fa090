"""Files that are whole at every moment: written aside, synced, renamed. A full disk leaves the old one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from typing import NamedTuple

from commcli.remote.onnode.step import StepFailed

_ASIDE = ".commcli-"


class Have(NamedTuple):
    """What is there: kind (file, directory, link, other), permission bits, and a file's content."""

    kind: str
    mode: int
    data: bytes | None = None


def look(path: str, *, content: bool = True) -> Have | None:
    """What is at `path`, None if nothing. Raises StepFailed when that can not be told."""
    try:
        status = os.lstat(path)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            return Have("directory", mode)
        if stat.S_ISLNK(status.st_mode):
            return Have("link", mode)
        if not stat.S_ISREG(status.st_mode):
            return Have("other", mode)
        if not content:
            return Have("file", mode)
        with open(path, "rb") as file:  # noqa: PTH123  os.* throughout: what runs is what is written
            return Have("file", mode, file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StepFailed(f"{path}: {reason(error)}") from None


def write(path: str, data: bytes, mode: int) -> None:
    """Put `data` at `path` with exactly `mode`. Raises StepFailed; the old file is then as it was."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}{_ASIDE}{secrets.token_hex(4)}")  # noqa: PTH118
    try:
        _sweep(folder, name)
        _write_aside(aside, data, mode)
        os.rename(aside, path)  # noqa: PTH104
        sync_folder(folder)
    except OSError as error:
        raise StepFailed(f"{path}: {reason(error)}; the old file is untouched") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)  # noqa: PTH108


def _write_aside(path: str, data: bytes, mode: int) -> None:
    # 0600 until it is whole: a secret must not be readable for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)  # not the umask's business
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: str, name: str) -> None:
    """Remove what a run that was killed in the middle left aside; the play's lock keeps others away."""
    for entry in os.listdir(folder):  # noqa: PTH208
        if entry.startswith(f".{name}{_ASIDE}"):
            os.unlink(os.path.join(folder, entry))  # noqa: PTH108, PTH118


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """The system's words in lower case, with the likely cause of the most common one."""
    words = (error.strerror or str(error)).lower()
    return "disk full (no space left on device)" if error.errno == 28 else words


def digest(data: bytes) -> str:
    """What a file's content is called in reports."""
    return hashlib.sha256(data).hexdigest()
