"""`wait_for: {socket | port | unit | url, ...}`: nothing goes on before a service answers as it is to.

`socket`: a relay's control socket, which is asked `ask` (status); `until` is a condition over its `answer`. `port`: a
TCP port of `host` (by default this node's own) takes a connection. `unit`: systemd calls it active. `url`: an http or
https address; `until` is a condition over `status` and `body`, by default any status below 400. `log` is a file whose
last lines are told when the time is over, `journal` a unit whose are where there is no such file.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from commcli.remote.onnode import command, journald
from commcli.remote.onnode.condition import ConditionError, holds, names
from commcli.remote.onnode.step import Key, Place, StepFailed, StepTimeout, Verdict, later

KEYS = {
    "socket": Key("path"),
    "ask": Key("text"),
    "port": Key("number"),
    "host": Key("text"),
    "unit": Key("text"),
    "url": Key("text"),
    "until": Key("condition"),
    "log": Key("path"),
    "journal": Key("text"),
}
# Exactly one of these is waited for.
KINDS = ("socket", "port", "unit", "url")
VERIFY = False
EVERY_S = 0.1
ONE_S = 2.0
LOG_LINES = 5
LONGEST = 300
MOST_BODY = 64 << 10


class Look(NamedTuple):
    """One look: what was found (None: no answer), and a line about it."""

    found: Mapping[str, Any] | None
    words: str


def check(args: Mapping[str, Any], place: Place, sleep: Callable[[float], None] = time.sleep) -> Verdict:
    """Ask until it is good. In check mode once, and not at all when the answer would be that before a change."""
    if place.checking and place.changed_before:
        return Verdict(skipped=later())
    look, until = _looks(args, place), args.get("until")
    last = "not asked"
    try:
        while True:
            found, last = look()
            if found is not None and _is_good(until, {**place.values, **found}):
                return Verdict(result=found)
            if place.checking:
                raise StepFailed(f"not so: {last}")
            sleep(EVERY_S)
    except StepTimeout:
        raise StepFailed(f"not so after {place.timeout_s:g} s: {last}{_said(args, place)}") from None


def _is_good(until: str | None, values: Mapping[str, Any]) -> bool:
    """What can not be asked of this answer may be asked of a later one."""
    try:
        return until is None or holds(until, values)
    except ConditionError:
        if names(until or "") <= set(values):
            return False
        raise


def _looks(args: Mapping[str, Any], place: Place) -> Callable[[], Look]:
    if "socket" in args:
        return lambda: _relay(args["socket"], args.get("ask", "status"), place)
    if "port" in args:
        return lambda: _port(args.get("host", "127.0.0.1"), args["port"])
    if "unit" in args:
        return lambda: _unit(args["unit"], place)
    return lambda: _page(args["url"], needs_good="until" not in args)


def _short(answer: Any, place: Place) -> str:
    """Masked before it is cut: half a secret nobody would know."""
    return str(place.mask(json.dumps(answer)))[:LONGEST]


def _relay(path: str, word: str, place: Place) -> Look:
    try:
        answer = ask(path, {"cmd": word})
    except FileNotFoundError:
        return Look(None, f"{path} does not exist")
    except (OSError, ValueError) as error:
        return Look(None, f"{path}: {error}")
    return Look({"answer": answer}, f"the answer was {_short(answer, place)}")


def _port(host: str, port: int) -> Look:
    try:
        with socket.create_connection((host, port), timeout=ONE_S):
            return Look({"port": port}, "")
    except OSError as error:
        return Look(None, f"{host} port {port}: {(error.strerror or str(error)).lower()}")


def _unit(name: str, place: Place) -> Look:
    ran = command.run(["systemctl", "is-active", name], place)
    told = ran.last_words() or ran.why()
    return Look({"state": told} if ran.status == 0 else None, f"unit {name} is {told}")


def _page(url: str, *, needs_good: bool) -> Look:
    if not url.startswith(("http://", "https://")):
        raise StepFailed(f"{url}: neither http nor https")
    import http.client
    import urllib.error
    import urllib.request  # 0.03 s, wherever this module is loaded

    try:
        # No proxy: it is this node that is asked about, not what its environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=ONE_S) as answer:
            status, body = answer.status, answer.read(MOST_BODY)
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read(MOST_BODY)
        error.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Look(None, f"{url}: {error or type(error).__name__}")
    found = {"status": status, "body": body.decode("utf-8", "replace")}
    is_good = status < 400 or not needs_good
    return Look(found if is_good else None, f"{url}: status {status}")


def ask(path: str, request: Mapping[str, Any]) -> Any:
    """One JSON line there and back. Raises OSError, ValueError."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ONE_S)
            # A Unix address holds 107 bytes; by way of the folder's descriptor every path fits.
            sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")  # noqa: PTH119
            sock.sendall(json.dumps(request).encode() + b"\n")
            received = b""
            while chunk := sock.recv(1 << 16):
                received += chunk
    finally:
        os.close(folder)
    return json.loads(received)


def _said(args: Mapping[str, Any], place: Place) -> str:
    if "journal" in args and not os.path.exists(args.get("log", "")):  # noqa: PTH110
        return journald.last_words(args["journal"], place)
    return _tail(args["log"]) if "log" in args else ""


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return f"; no log at {path}"
    return f"; the log ends with: {' | '.join(lines[-LOG_LINES:])}" if lines else f"; {path} is empty"
