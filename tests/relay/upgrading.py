"""Relays that are upgraded while somebody calls: a node's folder with its program, and calls that count packets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commcli.relay.process import control
from commcli.remote import zipapp
from tests.hostile.wire import SocketClient
from tests.relay.serving import ADDRESS, dies_with_us, free_port, wait_until_it_answers
from tests.relay.turn_world import REALM

WITHIN_S = 20.0
PACKETS_A_SECOND = 200
CHANNEL = 0x4000


NEXT = "9.9.9"


def newer(version: str = NEXT, **files: str) -> bytes:
    """The program as another version, or with other files."""
    out, changed = io.BytesIO(), {"commcli/__init__.py": f'__version__ = "{version}"\n', **files}
    with zipfile.ZipFile(io.BytesIO(zipapp.build())) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name, old.read(name)))
    return out.getvalue()


class Node:
    """One node's folder, as the play leaves it, and whatever runs there."""

    def __init__(self, base: Path, **config: Any) -> None:
        self.base, self.server = base, (ADDRESS, free_port())
        for name in ("etc", "lib", "log"):
            (base / name).mkdir(parents=True)
        self.program = base / "lib/relay.pyz"
        self.put_program(zipapp.build())
        (base / "etc/turn.users").write_text("alice:wonder\n")
        (base / "etc/turn.secret").write_text("a shared secret of this test\n")
        self.config = {
            "schema": 1, "node": "test-1", "base": str(base), "address": ADDRESS, "realm": REALM,
            "turn_port": self.server[1], "relay_ports": [22300, 23400], "allow_peers": ["127.0.0.0/8"], **config,
        }  # fmt: skip
        self.write_config()
        self.process: subprocess.Popen[bytes] | None = None

    def put_program(self, content: bytes) -> None:
        """As a play does: another file in its place."""
        aside = self.program.with_suffix(".new")
        aside.write_bytes(content)
        aside.replace(self.program)

    def write_config(self, **changes: Any) -> None:
        self.config.update(changes)
        (self.base / "etc/relay.json").write_text(json.dumps(self.config))

    def command(self, verb: str, *options: str) -> list[str]:
        config = str(self.base / "etc/relay.json")
        return [sys.executable, "-I", str(self.program), verb, "--config", config, *options]

    def serve(self, environ: Mapping[str, str] | None = None) -> None:
        with (self.base / "log/relay.log").open("ab") as log:
            self.process = subprocess.Popen(dies_with_us(self.command("serve")), stderr=log, env=environ)
        wait_until_it_answers(self.server[1], self.process)

    def supervise(self) -> None:
        done = subprocess.run(self.command("supervise", "--daemon"), check=True, capture_output=True)
        assert done.returncode == 0
        with contextlib.closing(_Bystander()) as bystander:
            wait_until_it_answers(self.server[1], bystander.process)

    def ask(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self.base / "run/control.sock", {"cmd": cmd, **arguments})

    def pid(self) -> int:
        pid = self.ask("status")["pid"]
        assert isinstance(pid, int)
        return pid

    def log(self) -> str:
        return (self.base / "log/relay.log").read_text()

    def end(self) -> None:
        """End whatever runs here."""
        if (self.base / "run/relay.pid").exists():
            subprocess.run(self.command("stop"), check=True)
        with contextlib.suppress(OSError, ValueError):
            pid = self.pid()
            os.kill(pid, signal.SIGTERM)
            gone(pid)
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WITHIN_S)


class _Bystander:
    """A process that lives: for waits that look whether somebody died."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(dies_with_us(["sleep", "60"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def node(base: Path, **config: Any) -> Iterator[Node]:
    made = Node(base, **config)
    try:
        yield made
    finally:
        made.end()


def gone(pid: int) -> None:
    """Wait until this process, which is nobody's child of ours, has ended. Raises AssertionError."""
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # whoever is to bury it may take his time
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} does not end")


class Call:
    """A client that sends PACKETS_A_SECOND numbered packets to an echo, through a relay."""

    def __init__(
        self, server: tuple[str, int], transport: str = "udp", user: tuple[str, str] = ("alice", "wonder")
    ) -> None:
        self._echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._echo.bind((ADDRESS, 0))
        self._echo.settimeout(0.2)
        self.client = SocketClient(server, transport, *user)
        codes = self.client.allocate().code, self.client.bind(CHANNEL, self._echo.getsockname()).code
        assert codes == (None, None)
        self.sent = 0
        self.heard: list[int] = []
        self._ends, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._answer, self._listen, self._talk)]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._echo.sendto(*self._echo.recvfrom(2000))

    def _listen(self) -> None:
        self.client.wire.sock.settimeout(0.2)
        while not self._over.is_set():
            frame = self.client.wire.receive()
            if frame is not None and frame[0] == CHANNEL >> 8:
                self.heard.append(int.from_bytes(frame[4:8], "big"))

    def _talk(self) -> None:
        due = time.monotonic()
        while not self._ends.is_set():
            self.client.channel(CHANNEL, self.sent.to_bytes(4, "big") + bytes(156))
            self.sent += 1
            due += 1 / PACKETS_A_SECOND
            time.sleep(max(0.0, due - time.monotonic()))

    def goes_on(self, packets: int = 40) -> None:
        """Until so many more have come back. Raises AssertionError."""
        wanted, end = len(self.heard) + packets, time.monotonic() + WITHIN_S
        while len(self.heard) < wanted:
            assert time.monotonic() < end, f"{len(self.heard)} of {self.sent} packets came back"
            time.sleep(0.02)

    def lost(self) -> int:
        """End the call; the packets that did not come back."""
        self._ends.set()
        self._threads[-1].join()
        end = time.monotonic() + 2.0
        while len(self.heard) < self.sent and time.monotonic() < end:
            time.sleep(0.02)
        self.close()
        assert self.heard == sorted(set(self.heard))
        return self.sent - len(self.heard)

    def close(self) -> None:
        self._ends.set()
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._echo.close()

    def refreshes(self) -> bool:
        """After the call: is the allocation still there, for the same client?"""
        self.client.wire.sock.settimeout(3)
        return self.client.refresh(600).code is None
