"""`fetch: {path, to, most_mb, fail_on_missing}`: a file of the node comes to the controller, as `to`/NODE/its name.

It is streamed in pieces over the play's own channel, and kept there only when it is whole: its SHA-256 is that which
the node has read. What is larger than `most_mb` (64) fails. Nothing is changed, so it is `ok`; in check mode it is only
looked for.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import files
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, later

KEYS = {
    "path": Key("path", required=True),
    "to": Key("text", required=True),
    "most_mb": Key("number"),
    "fail_on_missing": Key("flag"),
}
VERIFY = False
MOST_MB = 64
PIECE = 128 << 10


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Send it. Raises StepFailed: not there, no file, too large."""
    path = args["path"]
    try:
        # Without blocking, so that a pipe nobody writes to does not hold us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return _missing(args, place)
    except OSError as error:
        raise StepFailed(f"{path}: {files.reason(error)}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        most = args.get("most_mb", MOST_MB) << 20
        if not stat.S_ISREG(status.st_mode):
            raise StepFailed(f"{path}: is no file")
        if status.st_size > most:
            raise StepFailed(f"{path}: {status.st_size} bytes, most_mb is {most >> 20}")
        if place.checking:
            return Verdict(result={"size": status.st_size})
        return Verdict(result=_sent(file, status.st_size, path, place))


def _sent(file: Any, size: int, path: str, place: Place) -> dict[str, Any]:
    """As much as it had at the start: a log grows while it is read."""
    digest, left = hashlib.sha256(), size
    while left:
        try:
            piece = file.read(min(left, PIECE))
        except OSError as error:
            raise StepFailed(f"{path}: {files.reason(error)}") from None
        if not piece:
            raise StepFailed(f"{path}: became shorter while it was read")
        place.send(piece)
        digest.update(piece)
        left -= len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def _missing(args: Mapping[str, Any], place: Place) -> Verdict:
    if place.checking and place.changed_before:
        return Verdict(skipped=later())
    if args.get("fail_on_missing") is False:
        return Verdict(skipped="not there")
    raise StepFailed(f"{args['path']}: is not there")
