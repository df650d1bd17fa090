"""What may be done to a node, as values: a step decides on a list of these, and only `do` touches anything.

So a decision is a function of what is there and what is wanted, and its cases are data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

from commcli.remote.onnode import command, files
from commcli.remote.onnode.step import Place, StepFailed, Verdict


class Write(NamedTuple):
    """A file with this content. None: the owner or group of who writes."""

    path: str
    data: bytes
    mode: int
    uid: int | None = None
    gid: int | None = None


class Folder(NamedTuple):
    """A folder, with its parents where they are missing."""

    path: str
    mode: int
    uid: int | None = None
    gid: int | None = None


class Attributes(NamedTuple):
    """Other permission bits, owner or group of what is there. None: as it is. `below`: a folder above it from which on
    no link is followed, since another user may have put it there meanwhile.
    """

    path: str
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    below: str | None = None


class Link(NamedTuple):
    """A symbolic link in one rename, whatever link was there."""

    path: str
    target: str


class Remove(NamedTuple):
    """A file or link gone; a folder with all that is in it."""

    path: str


class Undo(NamedTuple):
    """What a rollback makes of a command: `argv` is its opposite; `again`: it is run again when the files are what they
    were; `service` is then as it is to be, so that no handler needs to see to it ("": of none).
    """

    argv: tuple[str, ...] = ()
    again: bool = False
    service: str = ""


class Run(NamedTuple):
    """A command that ends with status 0. `environment`: more variables than its own; `undo`: None: not known how.
    `of`: the run and the number of what it is the undoing of.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = {}
    undo: Undo | None = None
    of: tuple[str, int] | None = None


Change = Union[Write, Folder, Attributes, Link, Remove, Run]  # noqa: UP007  the node has python 3.9


def verdict(changes: Sequence[Change], place: Place, told: str = "", diff: str = "") -> Verdict:
    """The verdict that these are to be made, `told` in one line."""

    def apply() -> None:
        for change in changes:
            do(change, place)

    return Verdict(told or ", ".join(map(words, changes)), diff, apply=apply)


def do(change: Change, place: Place) -> None:
    """Make it so, with what was there in the journal first. Raises StepFailed."""
    with place.noted(change):
        _make(change, place)


def _make(change: Change, place: Place) -> None:
    if isinstance(change, Run):
        ran = command.run(list(change.argv), place, environment=change.environment)
        if ran.status != 0:
            raise StepFailed(f"{' '.join(change.argv[:4])}: {ran.why()}")
        return
    try:
        _on_disk(change)
    except OSError as error:
        raise StepFailed(f"{change.path}: {files.reason(error)}") from None


def _on_disk(change: Change) -> None:
    if isinstance(change, Write):
        files.write(change.path, change.data, change.mode, change.uid, change.gid, late=True)
    elif isinstance(change, Folder):
        os.makedirs(change.path, exist_ok=True)  # noqa: PTH103
        _attributes(Attributes(*change))
    elif isinstance(change, Attributes):
        _attributes(change)
    elif isinstance(change, Link):
        files.link(change.path, change.target)
    elif isinstance(change, Remove):
        if os.path.isdir(change.path) and not os.path.islink(change.path):  # noqa: PTH112, PTH114
            shutil.rmtree(change.path)
        else:
            os.unlink(change.path)  # noqa: PTH108
        files.sync_later(os.path.dirname(change.path))  # noqa: PTH120


def _attributes(wanted: Attributes) -> None:
    if wanted.below is not None:
        _owner_below(wanted.below, wanted)
    elif wanted.uid is not None or wanted.gid is not None:
        # Before the mode: a change of owner takes the set-id bits away.
        os.chown(wanted.path, _or_same(wanted.uid), _or_same(wanted.gid), follow_symlinks=False)
    if wanted.mode is not None:
        os.chmod(wanted.path, wanted.mode)  # noqa: PTH101


def _owner_below(folder: str, wanted: Attributes) -> None:
    """Each folder on the way is opened in the one before it, so that none of them can become a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    *folders, name = os.path.relpath(wanted.path, folder).split("/")
    here = os.open(folder, flags)
    try:
        for each in folders:
            outer, here = here, os.open(each, flags, dir_fd=here)
            os.close(outer)
        os.chown(name, _or_same(wanted.uid), _or_same(wanted.gid), dir_fd=here, follow_symlinks=False)
    finally:
        os.close(here)


def _or_same(number: int | None) -> int:
    return -1 if number is None else number


def words(change: Change) -> str:
    """One line about it, for reports."""
    if isinstance(change, Run):
        return f"run {' '.join(change.argv)}"
    return f"{type(change).__name__.lower()} {change.path}"


def as_data(change: Change) -> list[Any]:
    """JSON-able: the kind, then its fields without the last that are None or empty; a command's opposite is named."""
    fields: list[Any] = [type(change).__name__.lower(), *change]
    while fields[-1] is None or fields[-1] == {}:
        fields.pop()
    if isinstance(change, Run) and change.undo is not None:
        fields[2:] = [{**change.environment, "undo": list(change.undo.argv)}]
    return [list(field) if isinstance(field, tuple) else field for field in fields]
