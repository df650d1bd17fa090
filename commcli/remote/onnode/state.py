"""What is at a path, as JSON: enough to put it back, and to tell whether it is still so.

null · {"kind": "file", "mode", "uid", "gid", "size", "digest"} · {"kind": "link", "target", ...} ·
{"kind": "directory", ..., "tree": [[path in it, state], ...]} · {"kind": "other", ...}; "lost": why it could not be put
back; "bare": only mode and owner were to be changed, so that what it holds is nobody's business
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from commcli.remote.onnode import files

State = Optional[Mapping[str, Any]]  # noqa: UP045  the node has python 3.9

# One pre-image: a file, or all that is in a removed folder.
LARGEST = 32 << 20
MOST = 2000
NAMED = 3
_COMPARED = {
    "file": ("mode", "uid", "gid", "size", "digest"),
    "directory": ("mode", "uid", "gid"),
    "link": ("target",),
    "other": ("mode", "uid", "gid"),
}
OWNED = ("mode", "uid", "gid")


def look(path: str, keep: Callable[[bytes], str] = files.digest) -> State:
    """What is there; a file's content goes to `keep`, which returns its digest, or "" if it has no room for it. Raises
    StepFailed.
    """
    have = files.look(path, content=False)
    if have is None:
        return None
    state: dict[str, Any] = {"kind": have.kind, "mode": have.mode, "uid": have.uid, "gid": have.gid}
    if have.kind == "link":
        state["target"] = have.target
    elif have.kind == "file":
        state["size"] = os.lstat(path).st_size
        if state["size"] > LARGEST:
            state["lost"] = too_much(path)
        elif digest := keep((files.look(path) or have).data or b""):
            state["digest"] = digest
        else:
            state["lost"] = "too much for one run"
    elif have.kind == "other":
        state["lost"] = "neither file, folder nor link"
    return state


def bare(path: str) -> State:
    """What is there, but not what it holds. Raises StepFailed."""
    have = files.look(path, content=False)
    return have and {"kind": have.kind, "mode": have.mode, "uid": have.uid, "gid": have.gid, "bare": True}


def with_tree(path: str, keep: Callable[[bytes], str]) -> State:
    """`look`, and of a folder all that is in it."""
    state = look(path, keep)
    if state is None or state["kind"] != "directory":
        return state
    if why := too_much(path):
        return {**state, "lost": why}
    tree: list[tuple[str, State]] = [
        (os.path.relpath(inner, path), look(inner, keep)) for inner in inside(path)
    ]
    return {**state, "tree": tree}


def too_much(path: str) -> str:
    """Why nothing of what is there is kept when it goes, "" if it is."""
    return _kept(path)[0]


def goes_for_good(path: str) -> str:
    """What of it is not kept when it goes, in words; "" if all is."""
    why, odd = _kept(path)
    named = ", ".join(os.path.relpath(inner, path) for inner in odd[:NAMED])
    more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
    return why or (f"{named}{more}, neither file, folder nor link" if odd else "")


def _kept(path: str) -> tuple[str, list[str]]:
    """Why nothing is kept, "" if it is; and what is neither file, folder nor link, which nobody could put back."""
    size = count = 0
    odd = []
    try:
        for inner in [path, *inside(path)]:
            status = os.lstat(inner)
            size, count = size + status.st_size, count + 1
            if not (
                stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)
            ):
                odd.append(inner)
            if count > MOST:
                return f"more than {MOST} files and folders", odd
            if size > LARGEST:
                return f"more than {LARGEST >> 20} MiB", odd
    except OSError:
        pass  # gone meanwhile; whoever changes it will say so
    return "", odd


def inside(path: str) -> Iterator[str]:
    """All that is in a folder, each folder before what is in it."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        for folder, folders, names in os.walk(path):
            for name in sorted([*folders, *names]):
                yield os.path.join(folder, name)  # noqa: PTH118


def same(one: State, other: State) -> bool:
    """Whether these are the same, as far as both are known."""
    if one is None or other is None or one["kind"] != other["kind"]:
        return one is other
    compared = OWNED if one.get("bare") or other.get("bare") else _COMPARED.get(one["kind"], ())
    return all(one.get(key) is None or other.get(key) is None or one[key] == other[key] for key in compared)
