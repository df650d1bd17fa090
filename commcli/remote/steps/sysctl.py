"""`sysctl: {name, value, at_least, file}`: a setting of the kernel, now and after the next boot.

It is written to `file` (by default /etc/sysctl.d/60-commcli.conf) beside the others there, and to /proc/sys at once.
With `at_least: true` a larger number stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files
from commcli.remote.onnode.change import Change, Run, Undo, Write
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict

KEYS = {
    "name": Key("text", required=True),
    "value": Key("text", required=True),
    "at_least": Key("flag"),
    "file": Key("path"),
}
FILE = "/etc/sysctl.d/60-commcli.conf"
MODE = 0o644


def decide(name: str, value: str, now: str | None, path: str, written: str | None) -> list[Change]:
    """What makes it so. `now`: what the kernel has, `written`: the file (None: there is none). Raises StepFailed."""
    if now is None:
        raise StepFailed(f"the kernel of this node has no {name}")
    changes: list[Change] = []
    lines = [] if written is None else written.splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() != name]
    wanted = f"{name} = {value}"
    if [line.split() for line in lines if line not in kept] != [wanted.split()]:
        changes.append(Write(path, "".join(f"{line}\n" for line in [*kept, wanted]).encode(), MODE))
    if now.split() != value.split():
        undo = Undo(("sysctl", "-w", f"{name}={' '.join(now.split())}"))
        changes.append(Run(("sysctl", "-w", f"{name}={value}"), undo=undo))
    return changes


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare kernel and file with what is wanted."""
    name, value, path = args["name"], args["value"], args.get("file", FILE)
    have = files.look(path)
    written = None if have is None else (have.data or b"").decode("utf-8", "replace")
    now = _now(name)
    if args.get("at_least") and is_more(now, value):
        return Verdict()
    changes = decide(name, value, now, path, written)
    told = (
        f"{' '.join((now or '').split())} -> {value}"
        if any(isinstance(c, Run) for c in changes)
        else "written"
    )
    return change.verdict(changes, place, told) if changes else Verdict()


def is_more(now: str | None, value: str) -> bool:
    """Whether the kernel has a larger number than the one that is wanted."""
    return now is not None and now.strip().isdigit() and value.isdigit() and int(now) > int(value)


def _now(name: str) -> str | None:
    try:
        with open(os.path.join("/proc/sys", *name.split(".")), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            return file.read()
    except OSError:
        return None
