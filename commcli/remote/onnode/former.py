"""What a file was before, kept beside it until what it became has proven itself; then it is the former one."""

from __future__ import annotations

import os

from commcli.remote.onnode import files
from commcli.remote.onnode.step import StepFailed

_SUFFIX = ".before"
# playbooks/rollback.yml goes back to it.
_FORMER = ".former"


def keep(path: str, have: files.Have) -> None:
    """Keep what is there now. What is kept already stays: it is what has last proven itself. Raises StepFailed."""
    if files.look(path + _SUFFIX, content=False) is None:
        files.write(path + _SUFFIX, have.data or b"", have.mode, have.uid, have.gid)


def put_back(path: str) -> bool:
    """Let the file be as it was; False if nothing was kept. Raises StepFailed."""
    try:
        os.rename(path + _SUFFIX, path)  # noqa: PTH104  os.* as in files.py
        files.sync_folder(os.path.dirname(path))  # noqa: PTH120
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StepFailed(f"{path} can not be put back: {files.reason(error)}") from None
    return True


def forget(path: str) -> None:
    """It has proven itself: what was before is only kept for who wants it back. Raises StepFailed."""
    try:
        os.rename(path + _SUFFIX, path + _FORMER)  # noqa: PTH104
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StepFailed(f"{path}{_SUFFIX}: {files.reason(error)}") from None


class Trial:
    """`with Trial(path):` forgets what `path` was if the body succeeds, and puts it back if it fails.

    The text of a StepFailed then says so. Nothing happens without a path.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._path is None:
            return
        if error is None:
            forget(self._path)
        elif put_back(self._path) and isinstance(error, StepFailed):
            raise StepFailed(f"{error}; {os.path.basename(self._path)} is again what it was") from None  # noqa: PTH119
