"""One play at a time on a node: a flock that names its holder and vanishes with its process."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from typing import Any

# A play whose controller has gone is away within a second: whoever runs it again at once need not be told of himself.
PATIENCE_S, EVERY_S = 1.5, 0.05


class Held(Exception):
    """Somebody else holds it; `holder` is what he wrote there, None if he had no time to."""

    def __init__(self, holder: Mapping[str, Any] | None) -> None:
        super().__init__("the lock is held")
        self.holder = holder


def take(path: str, holder: Mapping[str, Any]) -> int:
    """Take the lock and keep it until the process ends: returns its descriptor. Raises Held after a moment, OSError."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)  # noqa: PTH103, PTH120
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + PATIENCE_S
    while not _locked(descriptor):
        if time.monotonic() > end:
            written = os.read(descriptor, 4096)
            os.close(descriptor)
            raise Held(_parsed(written))
        time.sleep(EVERY_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(written: bytes) -> Mapping[str, Any] | None:
    try:
        holder = json.loads(written)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None
