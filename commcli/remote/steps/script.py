"""`script: {source, args, interpreter, creates, unless, changed_when, cwd}`: run a local script on the node.

Without an `interpreter` its own first line (`#!`) says what runs it. It lies on the node, for us alone to read, only
while it runs. The other words are those of `command`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import files
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, with_python
from commcli.remote.steps import command

KEYS = {
    "source": Key("text", required=True),
    "args": Key("texts"),
    "interpreter": Key("texts"),
    **{key: command.KEYS[key] for key in ("creates", "unless", "changed_when", "cwd")},
}
VERIFY = False


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """As of `command`."""
    data = place.blobs[args["digest"]]
    told = f"run a script of {len(data)} bytes"
    return command.decide(args, place, lambda: _run(data, args, place), told, ("script",))


def _run(data: bytes, args: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    try:
        with tempfile.TemporaryDirectory(prefix="commcli-") as folder:
            path = os.path.join(folder, "script")  # noqa: PTH118
            named = with_python(args.get("interpreter", []), str(place.facts.get("python")))
            # Not left to the kernel: many machines forbid that anything is executed in /tmp.
            interpreter = named or _of_first_line(data)
            files.write(path, data, 0o600 if interpreter else 0o700)
            return command.run([*interpreter, path, *args.get("args", [])], place, args.get("cwd"))
    except OSError as error:
        raise StepFailed(f"no place for the script: {files.reason(error)}") from None


def _of_first_line(data: bytes) -> list[str]:
    """Program and argument, as execve(2) has it; none of what is no text."""
    line = data.split(b"\n", 1)[0].decode("utf-8", "replace")
    return [word.strip() for word in line[2:].split(None, 1)] if line.startswith("#!") else []
