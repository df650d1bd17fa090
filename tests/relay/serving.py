"""A relay as its own process for tests that need a real one: a plain TURN server on loopback."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESS = "127.0.0.1"
ADDRESS6 = "::1"
# Below the kernel's ephemeral ports: a test's own echo server must never stand where only allocations may.
RELAY_PORTS = "20000-22000"
STARTS_WITHIN_S = 20.0


@dataclass(frozen=True)
class Served:
    """Where it listens, and its process."""

    port: int
    process: subprocess.Popen[bytes]
    tls_port: int | None = None


def free_port() -> int:
    """A port that was free a moment ago, for UDP and for TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind((ADDRESS, 0))
            port: int = udp.getsockname()[1]
            with contextlib.suppress(OSError):
                tcp.bind((ADDRESS, port))
                return port


def dies_with_us(command: Sequence[str]) -> list[str]:
    """`command` so that the kernel ends it when the thread that started it ends, however that comes (where it can)."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL"] if setpriv else []), *command]


@contextlib.contextmanager
def plain_relay(
    *options: str,
    user: str = "user:pass",
    realm: str = "lab",
    six: bool = False,
    pair: tuple[Path, Path] | None = None,
    log: Path | None = None,
) -> Iterator[Served]:
    """`commcli relay serve` on a free port until the body ends; loopback peers allowed only if options say so.

    `six`: also on ::1. `pair`: certificate and key files, for a TLS port too. `log`: the file for what it says.
    """
    port, tls_port = free_port(), None
    command = [sys.executable, "-m", "commcli", "relay", "serve", "--listen", f"{ADDRESS}:{port}"]
    command += ["--user", user, "--realm", realm, "--relay-ports", RELAY_PORTS, *options]
    if six:
        command += ["--listen", f"[{ADDRESS6}]:{port}"]
    if pair is not None:
        tls_port = free_port()
        command += ["--tls-port", str(tls_port), "--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]
    with contextlib.ExitStack() as stack:
        out = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(dies_with_us(command), stdout=out, stderr=out)
        stack.callback(_end, process)
        wait_until_it_answers(port, process)
        yield Served(port, process, tls_port)
        assert process.poll() is None, "the relay died"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
        raise


def wait_until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a STUN server on this port answers. Raises AssertionError when it does not come to that."""
    binding = bytes.fromhex("000100002112a442") + b"is it there?"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        end = time.monotonic() + STARTS_WITHIN_S
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
