"""`file: {path, content | source | blob, mode, owner, group, keep, state}`: a file with this content.

`copy: {path, source, ...}` and `template: {path, source, ...}` are the same with a local file, as it is or rendered.
The controller has rendered it already; here it is a blob, named by its digest. `state: absent`: no file there.
`keep: former`: what the file was is kept until a step with `puts_back` has succeeded. Without `mode` a file keeps the
one that it has, and a new one gets 0644. Without content: mode, owner and group of a file that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files, former, owners, state
from commcli.remote.onnode.owners import Owner
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, later

_ATTRIBUTES = {"mode": Key("mode"), "owner": Key("text"), "group": Key("text")}
KEYS = {
    "path": Key("path", required=True),
    "content": Key("text"),
    "source": Key("text"),
    "blob": Key("text"),
    **_ATTRIBUTES,
    "keep": Key("text", words=("former",)),
    "state": Key("text", words=("present", "absent")),
}
COPY_KEYS = {"path": Key("path", True), "source": Key("text", True), **_ATTRIBUTES}
DEFAULT_MODE = 0o644
LONGEST_DIFF = 64 << 10
NOBODY = Owner()
READABLE = 0o004  # by everybody


def decide(have: files.Have | None, data: bytes, mode: int | None = None, owner: Owner = NOBODY) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, {len(data)} bytes, mode {DEFAULT_MODE if mode is None else mode:04o}"
    others = attributes(have, "file", mode, owner)
    parts = []
    if have.data != data:
        parts.append(f"content, {len(have.data or b'')} -> {len(data)} bytes")
    if have.data != data and len(have.data or b"") > state.LARGEST:
        others.append("and what it was is too large to be kept for a rollback")
    return ", ".join([*parts, *others])


def attributes(have: files.Have, kind: str, mode: int | None, owner: Owner) -> list[str]:
    """What is to change of mode, owner and group. Raises StepFailed for what is of another kind."""
    if have.kind != kind:
        raise StepFailed(f"a {have.kind} is in the way")
    told = [] if mode in (None, have.mode) else [f"mode {have.mode:04o} -> {mode:04o}"]
    return [*told, *owner.differs(have)]


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the file with what is wanted."""
    path, have = args["path"], files.look(args["path"], content="digest" in args)
    if args.get("state") == "absent":
        return gone(path, have, ("file", "link"), place)
    mode, owner = args.get("mode"), owners.of(args, place)
    if "digest" not in args:
        return _of_what_is_there(path, have, mode, owner, place)
    data = _wanted(args["digest"], have, place)
    told = decide(have, data, mode, owner)
    old = b"" if have is None else have.data or b""
    hides = have is not None and not have.mode & READABLE
    diff = (
        difference(path, old, data, secret=args.get("secret", False), hides=hides)
        if place.diff and told
        else ""
    )

    def apply() -> None:
        if args.get("keep") and have is not None and have.data != data:
            former.keep(path, have)
        if have is not None and have.data == data:
            change.do(change.Attributes(path, mode, owner.uid, owner.gid), place)
        else:
            # Who is not asked for stays: a new file in an old one's place is not to change hands.
            kept = owner if have is None else owner.or_of(have)
            bits = mode if mode is not None else DEFAULT_MODE if have is None else have.mode
            change.do(change.Write(path, data, bits, kept.uid, kept.gid), place)

    return Verdict(told, diff, apply=apply)


def _of_what_is_there(
    path: str, have: files.Have | None, mode: int | None, owner: Owner, place: Place
) -> Verdict:
    """No content is given."""
    if have is None and place.checking and place.changed_before:
        return Verdict(skipped=later())
    if have is None:
        raise StepFailed(f"{path} is not there, and no content is given")
    told = ", ".join(attributes(have, "file", mode, owner))
    made = change.Attributes(path, mode, owner.uid, owner.gid)
    return change.verdict([made], place, told) if told else Verdict()


def _wanted(digest: str, have: files.Have | None, place: Place) -> bytes:
    # A large one comes only if it is asked for, so what is here already is looked at first.
    if have is not None and have.data is not None and files.digest(have.data) == digest:
        return have.data
    return place.blobs[digest]


def gone(path: str, have: files.Have | None, kinds: tuple[str, ...], place: Place) -> Verdict:
    """Nothing is to be there. Raises StepFailed when what is there is of another kind."""
    if have is None:
        return Verdict()
    if have.kind not in kinds:
        raise StepFailed(f"a {have.kind} is in the way")
    lost = state.goes_for_good(path)
    return change.verdict([change.Remove(path)], place, f"remove, for good: {lost}" if lost else "remove")


def difference(path: str, old: bytes, new: bytes, *, secret: bool, hides: bool = False) -> str:
    """A unified diff for short text, a line about anything else. Of a secret nothing is shown: the old value is
    not known to anyone who could mask it. Of a file that `hides` what it holds, only the lines that are new."""
    if old == new:
        return ""
    if secret:
        return f"{path}: the secret content differs, not shown\n"
    if max(len(old), len(new)) <= LONGEST_DIFF and b"\0" not in old + new:
        try:
            return _unified(path, old.decode("utf-8"), new.decode("utf-8"), hides=hides)
        except UnicodeDecodeError:
            pass
    was = f"sha256 {files.digest(old)[:12]}, {len(old)} bytes" if old else "nothing"
    return f"{path}: {was} -> sha256 {files.digest(new)[:12]}, {len(new)} bytes\n"


def _unified(path: str, old: str, new: str, *, hides: bool) -> str:
    import difflib

    heads = (f"{path} (now)", f"{path} (wanted)")
    lines = [
        *difflib.unified_diff(old.splitlines(), new.splitlines(), *heads, lineterm="", n=0 if hides else 3)
    ]
    if hides:
        lines = [*lines[:2], *("-(not shown)" if line.startswith("-") else line for line in lines[2:])]
    return "\n".join(lines) + "\n"
