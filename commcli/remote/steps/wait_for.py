"""`wait_for: {socket, ask, until, log}`: ask a relay's control socket until its answer is good.

`until` is a condition over `answer`; `log` a file whose last lines are told when the time is over.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode.condition import holds
from commcli.remote.onnode.step import Key, Place, StepFailed, StepTimeout, Verdict, later

KEYS = {
    "socket": Key("text", required=True),
    "ask": Key("text"),
    "until": Key("condition", required=True),
    "log": Key("text"),
}
VERIFY = False
EVERY_S = 0.1
LOG_LINES = 5


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Ask until it is good. In check mode once, and not at all when the answer would be that before a change."""
    if place.checking and place.changed_before:
        return Verdict(skipped=later())
    last = "not asked"
    try:
        while True:
            answer, last = _answer(args["socket"], args.get("ask", "status"))
            if answer is not None and holds(args["until"], {"answer": answer}):
                return Verdict(result={"answer": answer})
            if place.checking:
                raise StepFailed(f"not so: {last}")
            time.sleep(EVERY_S)
    except StepTimeout:
        raise StepFailed(f"not so after {place.timeout_s:g} s: {last}{_tail(args.get('log'))}") from None


def _answer(path: str, word: str) -> tuple[Any, str]:
    """The answer and a line about it; None when there is none yet."""
    try:
        answer = ask(path, {"cmd": word})
    except FileNotFoundError:
        return None, f"{path} does not exist"
    except (OSError, ValueError) as error:
        return None, f"{path}: {error}"
    return answer, f"the answer was {json.dumps(answer)[:300]}"


def ask(path: str, request: Mapping[str, Any]) -> Any:
    """One JSON line there and back. Raises OSError, ValueError."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(2.0)
            # A Unix address holds 107 bytes; by way of the folder's descriptor every path fits.
            sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")  # noqa: PTH119
            sock.sendall(json.dumps(request).encode() + b"\n")
            received = b""
            while chunk := sock.recv(1 << 16):
                received += chunk
    finally:
        os.close(folder)
    return json.loads(received)


def _tail(path: Any) -> str:
    if not path:
        return ""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return f"; no log at {path}"
    return f"; the log ends with: {' | '.join(lines[-LOG_LINES:])}" if lines else f"; {path} is empty"
