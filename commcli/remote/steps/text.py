"""What `line` and `block` share: a text file of which they change a part, and the place of what is new in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from commcli.remote.onnode import change, files
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps.file import DEFAULT_MODE, READABLE, difference

KEYS = {
    "path": Key("path", required=True),
    "after": Key("pattern"),
    "before": Key("pattern"),
    "state": Key("text", words=("present", "absent")),
    "create": Key("flag"),
    "mode": Key("mode"),
}


def check(args: Mapping[str, Any], place: Place, edit: Callable[[list[str]], list[str]]) -> Verdict:
    """Compare the file with what `edit` makes of its lines. Its owner stays, and its mode unless one is asked for."""
    path, have = args["path"], files.look(args["path"])
    if have is None and (args.get("state") == "absent" or not args.get("create")):
        if args.get("state") == "absent":
            return Verdict()
        if place.checking and place.changed_before:
            return Verdict("create or change")
        raise StepFailed(f"{path} is not there (create: true makes it)")
    if have is not None and have.kind != "file":
        raise StepFailed(f"a {have.kind} is in the way")
    old = b"" if have is None else have.data or b""
    new = _edited(path, old, edit)
    mode = args.get("mode", DEFAULT_MODE if have is None else have.mode)
    if have is not None and new == old and have.mode == mode:
        return Verdict()
    uid, gid = (None, None) if have is None else (have.uid, have.gid)
    hides = have is not None and not have.mode & READABLE
    diff = difference(path, old, new, secret=False, hides=hides) if place.diff else ""
    return change.verdict([change.Write(path, new, mode, uid, gid)], place, _told(have, new, mode), diff)


def lines_of(text: str) -> list[str]:
    """Not splitlines: a form feed is no end of line, and a carriage return stays where it is."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _edited(path: str, old: bytes, edit: Callable[[list[str]], list[str]]) -> bytes:
    try:
        text = old.decode("utf-8")
    except UnicodeDecodeError:
        raise StepFailed(f"{path} is not UTF-8 text") from None
    lines = lines_of(text)
    made = edit(lines)
    return old if made == lines else "".join(f"{line}\n" for line in made).encode()


def _told(have: files.Have | None, new: bytes, mode: int) -> str:
    if have is None:
        return f"create, {len(new)} bytes, mode {mode:04o}"
    old = have.data or b""
    told = [] if old == new else [f"content, {len(old)} -> {len(new)} bytes"]
    return ", ".join([*told, *([] if have.mode == mode else [f"mode {have.mode:04o} -> {mode:04o}"])])


def place_for(lines: list[str], args: Mapping[str, Any]) -> int:
    """Where what is new goes. Raises StepFailed when the place that is asked for is not there."""
    for key, after in (("after", True), ("before", False)):
        if key not in args:
            continue
        found = [at for at, line in enumerate(lines) if re.search(args[key], line)]
        if not found:
            raise StepFailed(f"no line matches {key}: {args[key]}")
        return found[-1] + 1 if after else found[0]
    return len(lines)
