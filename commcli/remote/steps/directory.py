"""`directory: {path, mode, owner, group, recurse, state}`: a folder with these permissions; parents that are missing
are made with 0755. Without `mode` a folder keeps the one that it has, and a new one gets 0755. `recurse`: all that is
below it has this owner and group too; links have it themselves, and none is followed. `state: absent`: no folder there,
nor anything that was in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files, owners, state
from commcli.remote.onnode.owners import Owner
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps.file import NOBODY, attributes, gone

KEYS = {
    "path": Key("path", required=True),
    "mode": Key("mode"),
    "owner": Key("text"),
    "group": Key("text"),
    "recurse": Key("flag"),
    "state": Key("text", words=("present", "absent")),
}
DEFAULT_MODE = 0o755
MOST_BELOW = 20_000


def decide(have: files.Have | None, mode: int | None = None, owner: Owner = NOBODY) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, mode {DEFAULT_MODE if mode is None else mode:04o}"
    return ", ".join(attributes(have, "directory", mode, owner))


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the folder with what is wanted."""
    path, have = args["path"], files.look(args["path"])
    if args.get("state") == "absent":
        return gone(path, have, ("directory",), place)
    mode, owner = args.get("mode"), owners.of(args, place)
    told = decide(have, mode, owner)
    inside = [] if have is None or not args.get("recurse") else strangers(path, owner)
    changes: list[change.Change] = []
    if have is None:
        changes = [change.Folder(path, DEFAULT_MODE if mode is None else mode, owner.uid, owner.gid)]
    elif told:
        changes = [change.Attributes(path, mode, owner.uid, owner.gid)]
    changes += [change.Attributes(each, None, owner.uid, owner.gid, path) for each in inside]
    words = [told] if told else []
    words += [f"owner or group of {len(inside)} below it"] if inside else []
    return change.verdict(changes, place, ", ".join(words)) if words else Verdict()


def strangers(path: str, owner: Owner) -> list[str]:
    """All below a folder that is not this owner's, each folder before what is in it. Raises StepFailed for more than
    MOST_BELOW files and folders.
    """
    found = []
    for count, each in enumerate(state.inside(path), start=1):
        if count > MOST_BELOW:
            raise StepFailed(f"more than {MOST_BELOW} files and folders below {path}")
        have = files.look(each, content=False)
        if have is not None and owner.differs(have):
            found.append(each)
    return found
