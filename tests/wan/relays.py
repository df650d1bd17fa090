"""A fleet of real relays on the nodes of a WAN: the zipapp with its files, keys of pairs, and a signed table.

A node's base folder is FOLDER/NODE, as on a machine: etc/relay.json, etc/peers.json, table/current, run/control.sock;
what the relay says is in its `log` there.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from commcli.relay.process import control
from commcli.remote import zipapp
from tests.bench.rivals import node_python
from tests.relay.tables_on_disk import Signer, shard
from tests.wan.turn_client import TurnClient
from tests.wan.wan import Wan

TURN, OVERLAY, STAMP = 3478, 3479, 3480
RELAY_PORTS = (40000, 42000)
USER, PASSWORD, SECRET = "user", "pass", "the shared secret"
# egress -> label (primary, backup, last_resort) -> path, for one ingress.
Routes = Mapping[str, Mapping[str, Sequence[str]]]

_FIRST: list[str | Path] = ["nice", "-n", "-10"]
_WAITS_S, _STEP_S = 30.0, 0.02


class Relays:
    """The relays of some nodes of a WAN. A context manager: they serve when it is entered and end with it.

    `processes`: by node; kill one or start it again as a test needs.
    """

    def __init__(
        self, wan: Wan, folder: Path, nodes: Sequence[str], settings: Mapping[str, object] | None = None
    ) -> None:
        """nodes: ids of the WAN that are relays; the others are clients' places. settings: more of their relay.json."""
        self.wan, self.nodes = wan, tuple(nodes)
        self._settings = dict(settings or {})
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.serial = 0
        self._folder = folder
        self._signers: dict[str, Signer] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Nothing is left to ask for when a relay fails to start.
            stack.callback(self._end)
            (self._folder / "relay.pyz").write_bytes(zipapp.build())
            for node in self.nodes:
                self._write(node)
                self.start(node)
            for node in self.nodes:
                self.wait(node, lambda status: bool(status["ok"]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def base(self, node: str) -> Path:
        """Its folder."""
        return self._folder / node

    def server(self, node: str) -> tuple[str, int]:
        """Where its TURN server listens."""
        return self.wan.nodes[node], TURN

    def start(self, node: str) -> None:
        """Start (again) the relay of a node; does not wait for it."""
        relay, config = self._folder / "relay.pyz", self.base(node) / "etc/relay.json"
        # A relay has its machine for itself; here it would wait for whatever else runs, and take that for a full path.
        command = [*_FIRST, node_python(), "-I", relay, "serve", "--config", config]
        with (self.base(node) / "log").open("ab") as log:
            self.processes[node] = self.wan.popen(node, command, stderr=log)

    def publish(self, routes: Mapping[str, Routes], zones: Sequence[object] = ()) -> None:
        """A new table with these routes, by ingress; waits until every relay that runs has it."""
        self.serial += 1
        for node in self.nodes:
            self._signers[node].push(self._shard(node, routes, zones))
        for node in self.nodes:
            if self.processes[node].poll() is None:
                self.wait(node, lambda status: status["table"]["serial"] == self.serial)

    def wait_until_paths_answer(self) -> None:
        """Until every path of every route is up: before that, media goes straight."""
        for node in self.nodes:
            self.wait(node, _all_paths_are_up)

    def ask(self, node: str, command: str) -> dict[str, Any]:
        """The answer of a relay's control socket."""
        return control.ask(self.base(node) / "run/control.sock", {"cmd": command})

    def wait(self, node: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The relay's status once `is_so` of it. Raises AssertionError when it does not come to that."""
        last: object = None
        end = time.monotonic() + _WAITS_S
        while time.monotonic() < end and self.processes[node].poll() is None:
            try:
                last = self.ask(node, "status")
                if is_so(last):
                    return last
            except OSError as error:
                last = error
            time.sleep(_STEP_S)
        said = (self.base(node) / "log").read_text()[-2000:]
        raise AssertionError(f"{node}: {last} (exit code {self.processes[node].poll()})\n{said}")

    def client(self, place: str, node: str) -> TurnClient:
        """A TURN client in the namespace of `place`, with an allocation on the relay of `node`."""
        return TurnClient(self.wan.udp(place), self.server(node), USER, PASSWORD)

    # Files

    def _write(self, node: str) -> None:
        base, address = self.base(node), self.wan.nodes[node]
        (base / "etc").mkdir(parents=True)
        self._signers[node] = Signer(base)
        config = {
            "schema": 1, "node": node, "base": str(base), "address": address, "realm": "lab", "turn_port": TURN,
            "relay_ports": list(RELAY_PORTS), "overlay_port": OVERLAY, "stamp_port": STAMP,
            **self._settings,
        }  # fmt: skip
        peers = {
            other: {
                "address": self.wan.nodes[other], "overlay_port": OVERLAY, "stamp_port": STAMP,
                "keys": [_key(node, other)],
            }
            for other in self.nodes if other != node
        }  # fmt: skip
        (base / "etc/relay.json").write_text(json.dumps(config))
        (base / "etc/peers.json").write_text(json.dumps({"schema": 1, "peers": peers}))
        (base / "etc/turn.secret").write_text(f"{SECRET}\n")
        (base / "etc/turn.users").write_text(f"{USER}:{PASSWORD}\n")

    def _shard(self, node: str, routes: Mapping[str, Routes], zones: Sequence[object]) -> dict[str, Any]:
        nodes = {
            other: {
                "address": self.wan.nodes[other], "overlay_port": OVERLAY, "relay_ports": list(RELAY_PORTS),
                "country": "xx", "markets": ["xx"],
            }
            for other in self.nodes
        }  # fmt: skip
        rows = {
            egress: {label: paths.get(label) for label in ("primary", "backup", "last_resort")}
            for egress, paths in routes.get(node, {}).items()
        }
        paths = {tuple(path) for row in routes.values() for found in row.values() for path in found.values()}
        carries = sorted(" ".join(path) for path in paths if node in path[1:])
        now = time.time()
        created, expires = (
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix)) for unix in (now, now + 3600)
        )
        return shard(
            self.serial, node, nodes=nodes, routes=rows, carries=carries, created=created, expires=expires,
            zones=list(zones),
        )  # fmt: skip

    def _end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(20)


def both_ways(*paths: Sequence[str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Routes between the ends of `paths` in both directions; the first path is primary, then backup, last resort."""
    labels = ("primary", "backup", "last_resort")
    one, other = paths[0][0], paths[0][-1]
    there = dict(zip(labels, map(list, paths), strict=False))
    back = {label: path[::-1] for label, path in there.items()}
    return {one: {other: there}, other: {one: back}}


def _key(one: str, other: str) -> str:
    return hashlib.blake2s("\0".join(sorted((one, other))).encode(), digest_size=32).hexdigest()


def _all_paths_are_up(status: dict[str, Any]) -> bool:
    rows = status["overlay"]["paths"].values()
    return all(path["state"] == "up" for row in rows for path in row["candidates"].values())
