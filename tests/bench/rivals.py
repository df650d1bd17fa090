"""The two relays that the benchmarks compare: ours and Debian's coturn, each its own process on loopback.

CPU and memory are the kernel's figures of the process and its children, read from outside while it runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from commcli.remote import zipapp
from tests.relay.serving import ADDRESS, free_port, wait_until_it_answers

USER, PASSWORD, REALM = "user", "pass", "lab"
# Room for 10 000 allocations, below the kernel's ephemeral ports as the tests' ports are.
OUR_RELAY_PORTS = "12000-31999"


@dataclass(frozen=True)
class Rival:
    """One relay that serves on ADDRESS:port; `pid` is its first process, `base` its folder if it has one."""

    name: str
    port: int
    pid: int
    base: Path = Path()

    @property
    def server(self) -> tuple[str, int]:
        """Where its TURN server listens."""
        return ADDRESS, self.port

    def cpu_s(self) -> float:
        """User and system seconds so far of all its threads and children.

        The process's CPU clock is utime + stime of /proc/PID/stat, in nanoseconds instead of ticks of 10 ms.
        """
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in _family(self.pid))

    def resident_bytes(self) -> int:
        """Resident memory of it and its children: smaps_rollup counts pages, statm may be 64 of them a CPU behind."""
        return 1024 * sum(_resident_kib(pid) for pid in _family(self.pid))

    def unread(self) -> int:
        """Datagrams that the kernel dropped at its listening sockets, from /proc/net/udp."""
        port, dropped = f":{self.port:04X}", 0
        for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(port):
                dropped += int(fields[-1])
        return dropped


Start = Callable[[], AbstractContextManager[Rival]]


def _family(pid: int) -> list[int]:
    children = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in listed.read_text().split()]
    return [pid, *(member for child in children for member in _family(child))]


def _resident_kib(pid: int) -> int:
    for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if row.startswith("Rss:"):
            return int(row.split()[1])
    raise RuntimeError(f"process {pid} has ended")


def node_python() -> str:
    """The python3 that a node has, not that of this checkout: distributions build theirs with more care."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    return sys.executable if system is None else system


@contextmanager
def commcli() -> Iterator[Rival]:
    """Our relay as a node runs it: the zipapp, from a base folder, by the node's python3."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="commcli-bench-") as folder:
        base = Path(folder)
        low, high = OUR_RELAY_PORTS.split("-")
        config = {
            **{"schema": 1, "node": "bench", "base": folder, "address": ADDRESS, "realm": REALM},
            **{"turn_port": port, "relay_ports": [int(low), int(high)], "allow_peers": ["127.0.0.0/8"]},
        }
        (base / "etc").mkdir()
        (base / "etc/relay.json").write_text(json.dumps(config))
        (base / "etc/turn.users").write_text(f"{USER}:{PASSWORD}\n")
        (base / "etc/turn.secret").write_text("")
        (base / "relay.pyz").write_bytes(zipapp.build())
        command = [node_python(), "-I", str(base / "relay.pyz"), "serve", "--config"]
        process = subprocess.Popen([*command, str(base / "etc/relay.json")], stderr=subprocess.DEVNULL)
        try:
            wait_until_it_answers(port, process)
            yield Rival("commcli", port, process.pid, base)
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def coturn() -> Iterator[Rival]:
    """Debian's turnserver, with its own defaults but for what a test on loopback needs."""
    port = free_port()
    command = ["turnserver", "-n", "-L", ADDRESS, "-E", ADDRESS, "--allow-loopback-peers", "--lt-cred-mech"]
    command += ["-u", f"{USER}:{PASSWORD}", "-r", REALM, "-p", str(port)]
    command += ["--no-tls", "--no-dtls", "--no-cli", "--log-file=/dev/null"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_answers(port, process)
        yield Rival("coturn", port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def starts(bench: str) -> list[Start]:
    """How to start each rival that is installed, ours first; says so when it is alone."""
    if shutil.which("turnserver") is not None:
        return [commcli, coturn]
    print(f"{bench}: coturn's turnserver is not installed (Debian package coturn): only our own figures")
    return [commcli]


@contextmanager
def together(bench: str) -> Iterator[list[Rival]]:
    """All rivals running at once; the one that is not asked costs nothing that is counted."""
    with ExitStack() as stack:
        yield [stack.enter_context(start()) for start in starts(bench)]
