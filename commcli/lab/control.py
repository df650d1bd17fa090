"""The way to the hosts process: one JSON line there, one back, over the lab's Unix socket."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from commcli.errors import OutOfReach
from commcli.lab.folder import LabFolder


def ask(folder: LabFolder, command: str, *, timeout_s: float = 30.0, **arguments: object) -> dict[str, Any]:
    """The hosts process's answer; OutOfReach when it does not run or does not answer, or says no."""
    answer = _exchange(folder, json.dumps({"cmd": command, **arguments}).encode() + b"\n", timeout_s)
    if not answer.get("ok"):
        raise OutOfReach(f"lab: {command}: {answer.get('error', 'no answer')}")
    return answer


def running(folder: LabFolder) -> dict[str, Any] | None:
    """The hosts process's status, or None where none answers."""
    try:
        return ask(folder, "status", timeout_s=5.0)
    except OutOfReach:
        return None


def _exchange(folder: LabFolder, line: bytes, timeout_s: float) -> dict[str, Any]:
    try:
        directory = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise OutOfReach(f"there is no lab at {folder.path}", hint="commcli lab up") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout_s)
            # Through /proc the address stays short, however deep the folder lies.
            channel.connect(f"/proc/self/fd/{directory}/{folder.socket}")
            channel.sendall(line)
            answer = json.loads(channel.makefile("rb").readline() or b"{}")
    except (OSError, ValueError) as error:
        message = f"the lab's hosts at {folder.path} do not answer ({error})"
        raise OutOfReach(message, hint="commcli lab up") from None
    finally:
        os.close(directory)
    return answer if isinstance(answer, dict) else {}
