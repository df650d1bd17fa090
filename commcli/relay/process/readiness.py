"""Tell a service manager how we are: the datagrams of sd_notify(3), without its library.

Where nobody asks (no NOTIFY_SOCKET in the environment) every method does nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from typing import Callable, Mapping, Optional

Send = Callable[[bytes], None]


class Readiness:
    """Says READY, RELOADING and STOPPING, and while `tick` is called that we are alive."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, pid: Optional[int] = None, send: Optional[Send] = None
    ) -> None:
        """`send` takes one datagram's text; by default it goes to the socket that `environ` names."""
        where = environ.get("NOTIFY_SOCKET", "")
        self._send = send if send is not None else sender(where)
        self._every_s = _watchdog_s(environ, os.getpid() if pid is None else pid) if where else math.inf
        self._next = 0.0
        self.quiet = False  # is it another process that they listen to?

    def ready(self, status: str = "") -> None:
        """We serve; after RELOADING: with the new configuration. `status` is one line for people."""
        self._say("READY=1", f"STATUS={status}")

    def reloading(self, monotonic_us: int) -> None:
        """The configuration is read again; `monotonic_us` is the time on CLOCK_MONOTONIC (sd_notify(3))."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        """We end."""
        self._say("STOPPING=1")

    def main_pid(self, pid: int) -> None:
        """From now on this process is the service's main one. Only the present one may say so (NotifyAccess=main)."""
        self._say(f"MAINPID={pid}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say(f"STATUS={text}")

    def tick(self, now: float) -> None:
        """Call it from the loop that does the work: what stands still there is what the watchdog is to see."""
        if now >= self._next and self._every_s < math.inf and not self.quiet:
            self._next = now + self._every_s
            self._say("WATCHDOG=1")

    def _say(self, *lines: str) -> None:
        if self.quiet:
            return
        # A manager that is gone, or too busy to read, is no reason to end calls.
        with contextlib.suppress(OSError):
            self._send("\n".join(lines).encode())


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """Seconds between two signs of life, half of what is allowed as sd_watchdog_enabled(3) advises; inf: none."""
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0:
        return math.inf
    return int(allowed_us) / 2e6 if environ.get("WATCHDOG_PID", str(pid)) == str(pid) else math.inf


def sender(where: str) -> Send:
    """What sends to the socket that NOTIFY_SOCKET names; does nothing if it names none."""
    if not where.startswith(("/", "@")):
        return lambda _text: None
    address = "\0" + where[1:] if where.startswith("@") else where

    def send(text: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(text, address)

    return send
