"""Relays of a WAN as operators have them: a real OpenSSH server on every node, an inventory, and `commcli` to run.

    with Wan(...) as wan, Relays(wan, folder, ["ae-1", "kr-1"]) as relays, Operator(relays, "desk", folder) as operator:
        done = operator.commcli("probe", "call", "ae-1", "kr-1", "--json")

The command runs in the namespace of a node of the WAN that is no relay, and reaches the servers over the WAN's links.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.bench.rivals import node_python
from tests.remote.sshd import SSHD, keygen
from tests.wan.desk import PORT, Desk
from tests.wan.relays import OVERLAY, RELAY_PORTS, STAMP, TURN, Relays

_SSHD_CONFIG = """\
ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxSessions 100
MaxStartups 100
SetEnv HOME={folder}
"""

_FLEET = """\
name: wan
production: false
realm: lab
ssh: {{known_hosts: {folder}/known_hosts, identities: [{folder}/operator], agent: false}}
signing: {{signers: {folder}/authorized_keys}}
secrets: {{turn: {{file: {folder}/turn}}, overlay: {{file: {folder}/overlay}}}}
"""


class Operator(Desk):
    """A place to run `commcli` from. A context manager: the nodes' SSH servers serve while it is entered.

    `servers`: the sshd processes by node; kill one, or cut a link of the WAN, as a test needs.
    """

    def __init__(self, relays: Relays, place: str, folder: Path) -> None:
        """place: the WAN's node where `commcli` runs."""
        super().__init__(relays.wan, place, folder)
        self.servers: dict[str, subprocess.Popen[Any]] = {}
        self._relays = relays
        self._keys, self._probe_python = folder / "ssh", folder / "probe_python"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._write_keys()
            self._write_inventory()
            stack.callback(self._end)
            for node in self._relays.nodes:
                self._serve(node)
            for node in self._relays.nodes:
                self.wait(node, self.servers[node], self._relays.base(node) / "sshd.log")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def endpoints(self, *nodes: str) -> list[int]:
        """The processes of probe calls on these nodes; on all without."""
        found = []
        for pid in (pid for node in nodes or self._relays.nodes for pid in self._wan.inhabitants(node)):
            # Only a probe's python is this one; relays and their control run with the system's.
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0] == sys.executable.encode():
                    found.append(pid)
        return found

    @contextlib.contextmanager
    def starved(self, *nodes: str) -> Iterator[None]:
        """The endpoints on these nodes get no CPU for half of the time, 60 ms at once."""
        pids, done = self.endpoints(*nodes), threading.Event()

        def pulse() -> None:
            while not done.is_set():
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, number)
                    time.sleep(0.06)

        thread = threading.Thread(target=pulse)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # Files

    def _write_keys(self) -> None:
        self._keys.mkdir()
        for name in ("host_key", "operator"):
            keygen(self._keys / name, name)
        shutil.copy(self._keys / "operator.pub", self._keys / "authorized_keys")
        public = (self._keys / "host_key.pub").read_text()
        known = "".join(f"{self._wan.nodes[node]} {public}" for node in self._relays.nodes)
        (self._keys / "known_hosts").write_text(known)
        (self._keys / "overlay").write_text("a master key that no relay here has\n")
        shutil.copy(self._relays.base(self._relays.nodes[0]) / "etc/turn.secret", self._keys / "turn")
        for secret in ("overlay", "turn"):
            (self._keys / secret).chmod(0o600)

    def _write_inventory(self) -> None:
        self.inventory.mkdir()
        # A probe's end shares its machine with its relay alone; here it would wait for whatever else runs.
        self._probe_python.write_text(f'#!/bin/sh\nexec nice -n -10 {shlex.quote(sys.executable)} "$@"\n')
        self._probe_python.chmod(0o755)
        rows = [self._row(node) for node in self._relays.nodes]
        files = {
            "fleet.yaml": _FLEET.format(folder=self._keys),
            "regions.yaml": "regions:\n  lab: {city: Lab, country: sg, continent: asia}\n",
            "nodes.yaml": "".join(["nodes:\n", *rows]),
            "markets.yaml": "markets: {}\n",
            "zones.yaml": "zones: {}\n",
        }
        for name, text in files.items():
            (self.inventory / name).write_text(text)

    def _row(self, node: str) -> str:
        low, high = RELAY_PORTS
        row = {
            "region": "lab",
            "address": self._wan.nodes[node],
            "base": str(self._relays.base(node)),
            "ssh": {"user": getpass.getuser(), "port": PORT, "python": node_python()},
            "probe_python": str(self._probe_python),
            "ports": {"turn": TURN, "overlay": OVERLAY, "stamp": STAMP, "relay_low": low, "relay_high": high},
        }
        # JSON is YAML.
        return f"  {node}: {json.dumps(row)}\n"

    # Servers

    def _serve(self, node: str) -> None:
        base = self._relays.base(node)
        (base / "lib").mkdir(exist_ok=True)
        # Where the relay's control program is on a machine.
        (base / "lib/relay.pyz").symlink_to(base.parent / "relay.pyz")
        config = base / "etc/sshd_config"
        address = self._wan.nodes[node]
        config.write_text(_SSHD_CONFIG.format(address=address, port=PORT, folder=self._keys))
        Path("/run/sshd").mkdir(exist_ok=True)
        with (base / "sshd.log").open("ab") as log:
            command: Sequence[str | Path] = [SSHD, "-D", "-e", "-f", config]
            self.servers[node] = self._wan.popen(node, command, stderr=log, stdin=subprocess.DEVNULL)

    def _end(self) -> None:
        for server in self.servers.values():
            server.terminate()
        for server in self.servers.values():
            server.wait(10)
