"""Files that are whole at every moment: written aside, synced, renamed. A full disk leaves the old one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import NamedTuple

from commcli.remote.onnode.step import StepFailed

_ASIDE = ".commcli-"
# Folders with renames that are to last when the play is at its end (`sync_late`).
_late: set[str] = set()


class Have(NamedTuple):
    """What is there: kind (file, directory, link, other), permission bits, a file's content, its owner and group, and
    where a link points.
    """

    kind: str
    mode: int
    data: bytes | None = None
    uid: int = 0
    gid: int = 0
    target: str = ""


def look(path: str, *, content: bool = True) -> Have | None:
    """What is at `path`, None if nothing. Raises StepFailed when that can not be told."""
    try:
        status = os.lstat(path)
        have = Have("other", stat.S_IMODE(status.st_mode), None, status.st_uid, status.st_gid)
        if stat.S_ISDIR(status.st_mode):
            return have._replace(kind="directory")
        if stat.S_ISLNK(status.st_mode):
            return have._replace(kind="link", target=os.readlink(path))  # noqa: PTH115
        if not stat.S_ISREG(status.st_mode):
            return have
        if not content:
            return have._replace(kind="file")
        with open(path, "rb") as file:  # noqa: PTH123  os.* throughout: what runs is what is written
            return have._replace(kind="file", data=file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StepFailed(f"{path}: {reason(error)}") from None


def write(
    path: str, data: bytes, mode: int, uid: int | None = None, gid: int | None = None, *, late: bool = False
) -> None:
    """Put `data` at `path` with exactly `mode`, and this owner and group (None: ours). Raises StepFailed; the old file
    is then as it was. `late`: whether the new one outlasts a loss of power is seen to by `sync_late`; whichever it is
    is whole.
    """
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}{_ASIDE}{os.urandom(4).hex()}")  # noqa: PTH118
    try:
        sweep(folder, name)
        _write_aside(aside, data, mode, uid, gid)
        os.rename(aside, path)  # noqa: PTH104
        if late:
            sync_later(folder)
        else:
            sync_folder(folder)
    except OSError as error:
        if not os.path.isdir(folder):  # noqa: PTH112
            raise StepFailed(f"{path}: there is no folder {folder}") from None
        raise StepFailed(f"{path}: {reason(error)}; the old file is untouched") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)  # noqa: PTH108


def link(path: str, target: str) -> None:
    """A symbolic link at `path`, in one rename. Raises OSError; what was there is then as it was. Lasts as a file that
    is written `late`.
    """
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}{_ASIDE}{os.urandom(4).hex()}")  # noqa: PTH118
    sweep(folder, name)
    os.symlink(target, aside)  # noqa: PTH211
    try:
        os.rename(aside, path)  # noqa: PTH104
    except OSError:
        os.unlink(aside)  # noqa: PTH108
        raise
    sync_later(folder)


def _write_aside(path: str, data: bytes, mode: int, uid: int | None, gid: int | None) -> None:
    # 0600 until it is whole: a secret must not be readable for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if uid is not None or gid is not None:
            os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
        os.fchmod(
            descriptor, mode
        )  # not the umask's business; after the owner, who takes the set-id bits away
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: str, name: str) -> None:
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


def sync_later(folder: str) -> None:
    """Let what was done in `folder` last from the next `sync_late` on: a play changes many files of few folders."""
    _late.add(folder)


def sync_late() -> None:
    """Make last what waits for it. Raises StepFailed; a folder that is gone has nothing to keep."""
    while _late:
        folder = _late.pop()
        try:
            sync_folder(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StepFailed(f"{folder}: {reason(error)}; what was changed there may not last") from None


def reason(error: OSError) -> str:
    """The system's words in lower case, with the likely cause of the most common one."""
    words = (error.strerror or str(error)).lower()
    return "disk full (no space left on device)" if error.errno == 28 else words


def digest(data: bytes) -> str:
    """What a file's content is called in reports."""
    return hashlib.sha256(data).hexdigest()
