"""Nothing stays on a node when a call ends in a bad way: `commcli probe call` over real OpenSSH, in its middle."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import pty
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet.secrets import Secret
from commcli.probe.credentials import mint
from commcli.probe.endpoint import serve
from commcli.probe.slots import slot
from commcli.probe.turn import Turn, allocate_bare
from tests.probe.test_call import SECRET
from tests.probe.test_endpoint import ARGUMENT
from tests.relay.serving import ADDRESS, free_port, plain_relay
from tests.remote import sshd
from tests.remote.test_program import gone

NODES = ("kr-1", "sg-1")
WITHIN_S = 20.0


@dataclass
class World:
    """Two nodes behind one SSH server, with a relay each that has one port to relay from.

    `ports`: by node, that of TURN and that.
    """

    host: sshd.Host
    ports: Mapping[str, tuple[int, int]]
    folder: Path
    terminals: list[int] = field(default_factory=list)

    @property
    def probe_python(self) -> Path:
        return self.folder / "probe_python"

    def prepare(self) -> None:
        self.probe_python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.probe_python.chmod(0o755)
        (self.folder / "turn").write_text(SECRET + "\n")
        (self.folder / "turn").chmod(0o600)
        (self.folder / "inventory").mkdir()
        ssh = f"{{known_hosts: {self.host.known_hosts}, identities: [{self.host.key}], agent: false}}"
        files = {
            "fleet.yaml": f"name: test\nproduction: false\nrealm: lab\nssh: {ssh}\n"
            f"signing: {{signers: {self.folder}/signers}}\nsecrets: {{turn: {{file: {self.folder}/turn}}}}\n",
            "regions.yaml": "regions:\n  lab: {city: Lab, country: sg, continent: asia}\n",
            "nodes.yaml": "nodes:\n"
            + "".join(f"  {name}: {json.dumps(self._row(name))}\n" for name in NODES),
            "markets.yaml": "markets: {}\n",
            "zones.yaml": "zones: {}\n",
        }
        for name, text in files.items():
            (self.folder / "inventory" / name).write_text(text)

    def base(self, node: str) -> Path:
        return self.folder / node

    def _row(self, node: str) -> dict[str, object]:
        turn, only = self.ports[node]
        return {
            "region": "lab",
            "address": ADDRESS,
            "base": str(self.base(node)),
            "ssh": {
                "host": "127.0.0.1",
                "user": getpass.getuser(),
                "port": self.host.port,
                "python": sys.executable,
            },
            "probe_python": str(self.probe_python),
            "ports": {
                **{"turn": turn, "relay_low": only, "relay_high": only},
                **{"overlay": free_port(), "stamp": free_port()},
            },
        }

    async def call(self) -> asyncio.subprocess.Process:
        """A call of a minute, in its middle, as somebody at a terminal makes it."""
        ours, theirs = pty.openpty()
        self.terminals.append(ours)
        words = ["probe", "call", *NODES, "--profile", "weak", "--seconds", "60", "--json"]
        options = ["--inventory", str(self.folder / "inventory"), "--state", str(self.folder / "state")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "commcli", *words, *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "COLUMNS": "200", "TERM": "xterm", "HOME": str(self.folder)},
        )
        os.close(theirs)
        measuring = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, _read, loop, ours, measuring)
        waits = {asyncio.ensure_future(measuring.wait()), asyncio.ensure_future(process.wait())}
        _, late = await asyncio.wait(waits, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in late:
            wait.cancel()
        assert measuring.is_set(), await process.communicate()
        return process

    def endpoints(self) -> list[int]:
        """Whatever runs for a probe's end: its shells, and itself."""
        word = str(self.probe_python).encode()
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [pid for pid in pids if word in _command(pid)]

    async def nothing_is_left(self) -> None:
        for pid in self.endpoints():
            await gone(pid)
        for node in NODES:
            with slot(str(self.base(node) / "run"), 1):
                pass
        # The allocations are given back: each relay has one port.
        user = mint(Secret(SECRET), expires_unix=time.time() + 600)
        for port, _ in self.ports.values():
            await allocate_bare(Turn(ADDRESS, port, user.username, user.password.reveal()))


def _read(loop: asyncio.AbstractEventLoop, terminal: int, measuring: asyncio.Event) -> None:
    """What the command draws; a terminal that nobody reads would hold it up."""
    try:
        # One line for both ends of the call.
        if os.read(terminal, 65536).count(b"measuring") == len(NODES):
            measuring.set()
    except OSError:  # nobody writes there any more
        loop.remove_reader(terminal)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[str, tuple[int, int]]]:
    (tmp_path / "secret").write_text(SECRET + "\n")
    options = ["--allow-peer", "127.0.0.0/8", "--secret-file", str(tmp_path / "secret")]
    with ExitStack() as stack:
        made = {}
        for name in NODES:
            only = free_port()
            relay = stack.enter_context(plain_relay(*options, "--relay-ports", f"{only}-{only}"))
            made[name] = relay.port, only
        yield made


@pytest.fixture
async def world(ports: Mapping[str, tuple[int, int]], tmp_path: Path) -> AsyncIterator[World]:
    if reason := sshd.why_not():
        pytest.skip(reason)
    async with sshd.serve(tmp_path / "sshd") as host:
        made = World(host, ports, tmp_path)
        made.prepare()
        yield made
    for terminal in made.terminals:
        os.close(terminal)


def session_of(pid: int) -> int:
    """The sshd process that a program was started by."""
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        if _command(pid).startswith(b"sshd"):
            return pid


async def test_ctrl_c(world: World) -> None:
    controller = await world.call()
    controller.send_signal(signal.SIGINT)
    await controller.communicate()
    assert controller.returncode == 130
    await world.nothing_is_left()


async def test_a_killed_controller(world: World) -> None:
    controller = await world.call()
    controller.kill()
    await controller.communicate()
    await world.nothing_is_left()


async def test_a_lost_ssh_connection(world: World) -> None:
    controller = await world.call()
    os.kill(session_of(world.endpoints()[0]), signal.SIGKILL)
    out, _ = await controller.communicate()
    doc = json.loads(out)
    # What the other end hears of an end that is gone says nothing of the network.
    assert (controller.returncode, doc["verdict"], doc["invalid_reason"]) == (
        4,
        "invalid",
        "no end sent a report",
    )
    assert "connection lost" in " ".join(doc["problems"])
    await world.nothing_is_left()


class Silent:
    """A controller that is there and says nothing; `told` is what it heard."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def receive(self, timeout: float | None = None) -> Any:
        threading.Event().wait()


async def test_a_call_that_takes_too_long_ends_by_itself(ports: Mapping[str, tuple[int, int]]) -> None:
    turn, _ = ports["sg-1"]
    user = mint(Secret(SECRET), expires_unix=time.time() + 600)
    server = {"host": ADDRESS, "port": turn, "username": user.username, "password": user.password.reveal()}
    controller = Silent()
    try:
        await serve({**ARGUMENT, "turn": server, "limit_s": 6}, controller)
    finally:
        signal.alarm(0)
    assert controller.told[-2:] == [
        {"event": "error", "reason": "the call was not over after 6 s", "kind": "call"},
        {"event": "end"},
    ]
    await allocate_bare(Turn(ADDRESS, turn, user.username, user.password.reveal()))
