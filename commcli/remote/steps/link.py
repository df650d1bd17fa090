"""`link: {path, target, state}`: a symbolic link. What it points at need not be there. `state: absent`: no link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps.file import gone

KEYS = {
    "path": Key("path", required=True),
    "target": Key("text"),
    "state": Key("text", words=("present", "absent")),
}


def decide(have: files.Have | None, target: str) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, to {target}"
    if have.kind != "link":
        raise StepFailed(f"a {have.kind} is in the way")
    return "" if have.target == target else f"{have.target} -> {target}"


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the link with what is wanted."""
    path, have = args["path"], files.look(args["path"])
    if args.get("state") == "absent":
        return gone(path, have, ("link",), place)
    told = decide(have, args["target"])
    return change.verdict([change.Link(path, args["target"])], place, told) if told else Verdict()
