"""`directory: {path, mode}`: a folder with these permissions; parents that are missing are made with 0755."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import files
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict

KEYS = {"path": Key("text", required=True), "mode": Key("mode")}
DEFAULT_MODE = 0o755


def decide(have: files.Have | None, mode: int) -> str:
    """What is to change, "" for nothing. Raises StepFailed when something else is in the way."""
    if have is None:
        return f"create, mode {mode:04o}"
    if have.kind != "directory":
        raise StepFailed(f"a {have.kind} is in the way")
    return "" if have.mode == mode else f"mode {have.mode:04o} -> {mode:04o}"


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the folder with what is wanted."""
    path, mode = args["path"], args.get("mode", DEFAULT_MODE)
    change = decide(files.look(path), mode)
    return Verdict(change, apply=lambda: make(path, mode))


def make(path: str, mode: int) -> None:
    """Create it and set its mode. Raises StepFailed."""
    try:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        os.chmod(path, mode)  # noqa: PTH101
    except OSError as error:
        raise StepFailed(f"{path}: {files.reason(error)}") from None
