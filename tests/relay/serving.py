"""A relay as its own process for tests that need a real one: a plain TURN server on loopback."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

ADDRESS = "127.0.0.1"
# Below the kernel's ephemeral ports: a test's own echo server must never stand where only allocations may.
RELAY_PORTS = "20000-22000"


@dataclass(frozen=True)
class Served:
    """Where it listens, and its process."""

    port: int
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A UDP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESS, 0))
        port: int = sock.getsockname()[1]
    return port


@contextlib.contextmanager
def plain_relay(*options: str, user: str = "user:pass", realm: str = "lab") -> Iterator[Served]:
    """`commcli relay serve` on a free port until the body ends; loopback peers allowed unless options say so."""
    port = free_port()
    command = [sys.executable, "-m", "commcli", "relay", "serve", "--listen", f"{ADDRESS}:{port}"]
    command += ["--user", user, "--realm", realm, "--relay-ports", RELAY_PORTS, *options]
    process = subprocess.Popen(command)
    try:
        _answers(port, process)
        yield Served(port, process)
        assert process.poll() is None, "the relay died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _answers(port: int, process: subprocess.Popen[bytes]) -> None:
    binding = bytes.fromhex("000100002112a442") + b"is it there?"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        end = time.monotonic() + 15
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                sock.sendto(binding, (ADDRESS, port))
                if sock.recv(1500)[8:20] == b"is it there?":
                    return
    raise AssertionError(f"the relay does not answer (exit code {process.poll()})")


def need(program: str, package: str) -> str:
    """The path of a foreign program, or a skip that names what is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    return path
