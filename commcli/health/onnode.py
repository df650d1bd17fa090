"""What runs on the node for `health check`: look at the machine and ask its relay. Python 3.9, no other library.

Every fact is looked up by itself: a full disk or a dead relay is what we came for and must not hide the rest.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commcli.relay.process import control

# A relay that lives answers in microseconds; more than this is an answer of its own.
RELAY_TIMEOUT_S = 3.0
# The question for the clock comes one round trip after the facts have left.
CLOCK_TIMEOUT_S = 10.0
LOG_TAIL = 4096
LOG_LINE = 200


def main(argument: dict[str, Any], channel: Any) -> None:
    """The entry of the streamed program: `argument` is {"base": the relay's folder}."""
    channel.send(look(Path(argument["base"])))
    # Read the clock only now: python's own start would stand in the bounds as uncertainty.
    if channel.receive(CLOCK_TIMEOUT_S) is not None:
        channel.send({"unix": time.time()})


def look(base: Path) -> dict[str, Any]:
    """Every fact as {"value", "error"}, one of them None."""
    asked = _tried(lambda: relay(base))
    # Of a relay that hangs one timeout tells enough.
    keys = _tried(lambda: send_keys(base)) if asked["value"] else {"value": None, "error": None}
    return {
        "python": _tried(platform.python_version),
        "disk": _tried(lambda: disk(base)),
        "load": _tried(lambda: {"one_minute": os.getloadavg()[0], "cpus": _cpus()}),
        "relay": asked,
        "keys": keys,
        "log": _tried(lambda: last_words(base / "log" / "relay.log")),
    }


def _tried(question: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": question(), "error": None}
    except OSError as error:
        return {"value": None, "error": error.strerror or str(error)}
    except ValueError as error:
        return {"value": None, "error": str(error)}


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def disk(base: Path) -> dict[str, Any]:
    """Room under `base` or its nearest parent that exists, in bytes and inodes (None where they are not counted)."""
    place = base
    while not place.exists() and place != place.parent:
        place = place.parent
    room = os.statvfs(str(place))
    return {
        "free_bytes": room.f_bavail * room.f_frsize,
        "total_bytes": room.f_blocks * room.f_frsize,
        # Some file systems (btrfs) make inodes as needed and say 0 of 0.
        "free_inodes": room.f_favail if room.f_files else None,
        "read_only": bool(room.f_flag & os.ST_RDONLY),
    }


def last_words(log: Path) -> str:
    """The last line of the relay's log: where it died, it says why. Raises OSError."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[:LOG_LINE] for line in reversed(lines) if line.strip()), "")


def relay(base: Path) -> dict[str, Any]:
    """The relay's own status. Raises OSError with what stands in the way: no socket, nobody there, no answer."""
    if not base.exists():
        raise OSError(0, f"not provisioned ({base} does not exist)")
    try:
        answer = control.ask(base / "run" / "control.sock", {"cmd": "status"}, RELAY_TIMEOUT_S)
    except FileNotFoundError:
        raise OSError(0, "not running (no control socket)") from None
    except ConnectionRefusedError:
        raise OSError(0, "not running (nobody answers its control socket)") from None
    except socket.timeout:  # noqa: UP041  (in python 3.9 this is not TimeoutError)
        raise OSError(0, f"hangs: no answer within {RELAY_TIMEOUT_S:g} s") from None
    if not answer.get("ok"):
        raise OSError(0, f"answers with an error: {answer.get('error')}")
    return answer


def send_keys(base: Path) -> dict[str, str]:
    """By neighbour the id of the key that the relay sends with; {} where it can not say. Raises OSError."""
    answer = control.ask(base / "run" / "control.sock", {"cmd": "keys"}, RELAY_TIMEOUT_S)
    return {peer: ids[0] for peer, ids in (answer.get("keys") or {}).items() if ids}
