"""`file: {path, content | source | blob, mode, keep}` and `template: {path, source, mode}`: a file with this content.

The controller has rendered it already; here it is a blob, named by its digest. `keep: former`: what the file was is
kept until a step with `puts_back` has succeeded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import files, former
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict

KEYS = {
    "path": Key("text", required=True),
    "content": Key("text"),
    "source": Key("text"),
    "blob": Key("text"),
    "mode": Key("mode"),
    "keep": Key("text", words=("former",)),
}
DEFAULT_MODE = 0o644
LONGEST_DIFF = 64 << 10


def decide(have: files.Have | None, data: bytes, mode: int) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, {len(data)} bytes, mode {mode:04o}"
    if have.kind != "file":
        raise StepFailed(f"a {have.kind} is in the way")
    parts = []
    if have.data != data:
        parts.append(f"content, {len(have.data or b'')} -> {len(data)} bytes")
    if have.mode != mode:
        parts.append(f"mode {have.mode:04o} -> {mode:04o}")
    return ", ".join(parts)


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the file with what is wanted."""
    path, mode, data = args["path"], args.get("mode", DEFAULT_MODE), place.blobs[args["digest"]]
    have = files.look(path)
    change = decide(have, data, mode)
    old = b"" if have is None else have.data or b""
    diff = difference(path, old, data, secret=args.get("secret", False)) if place.diff and change else ""

    def apply() -> None:
        if args.get("keep") and have is not None and have.data != data:
            former.keep(path, have)
        files.write(path, data, mode)

    return Verdict(change, diff, apply=apply)


def difference(path: str, old: bytes, new: bytes, *, secret: bool) -> str:
    """A unified diff for short text, a line about anything else. Of a secret nothing is shown: the old value is
    not known to anyone who could mask it."""
    if old == new:
        return ""
    if secret:
        return f"{path}: the secret content differs, not shown\n"
    if max(len(old), len(new)) <= LONGEST_DIFF and b"\0" not in old + new:
        try:
            return _unified(path, old.decode("utf-8"), new.decode("utf-8"))
        except UnicodeDecodeError:
            pass
    was = f"sha256 {files.digest(old)[:12]}, {len(old)} bytes" if old else "nothing"
    return f"{path}: {was} -> sha256 {files.digest(new)[:12]}, {len(new)} bytes\n"


def _unified(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{path} (now)", f"{path} (wanted)", lineterm=""
    )
    return "\n".join(lines) + "\n"
