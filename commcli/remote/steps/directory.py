"""`directory: {path, mode, owner, group, state}`: a folder with these permissions; parents that are missing are made
with 0755. `state: absent`: no folder there, nor anything that was in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files, owners
from commcli.remote.onnode.owners import Owner
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps.file import NOBODY, gone

KEYS = {
    "path": Key("text", required=True),
    "mode": Key("mode"),
    "owner": Key("text"),
    "group": Key("text"),
    "state": Key("text", words=("present", "absent")),
}
DEFAULT_MODE = 0o755


def decide(have: files.Have | None, mode: int, owner: Owner = NOBODY) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, mode {mode:04o}"
    if have.kind != "directory":
        raise StepFailed(f"a {have.kind} is in the way")
    mode_told = [] if have.mode == mode else [f"mode {have.mode:04o} -> {mode:04o}"]
    return ", ".join([*mode_told, *owner.differs(have)])


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the folder with what is wanted."""
    path, have = args["path"], files.look(args["path"])
    if args.get("state") == "absent":
        return gone(path, have, ("directory",), place)
    mode, owner = args.get("mode", DEFAULT_MODE), owners.of(args, place)
    told = decide(have, mode, owner)
    return (
        change.verdict([change.Folder(path, mode, owner.uid, owner.gid)], place, told) if told else Verdict()
    )
