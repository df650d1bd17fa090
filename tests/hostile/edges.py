"""Two nodes of a fleet as real processes, each with a signed table that names both: `edge-1` as an operator runs it,
`edge-2` as a lab does, with its private peers opened, and in two processes."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commcli.relay.process import control
from commcli.relay.turn.stun import Addr
from tests.relay.tables_on_disk import Signer, shard

TURN, OVERLAY, STAMP, TLS, METRICS = 3478, 3479, 3480, 5349, 9478
RELAY_PORTS = (40000, 40063)
USERS = "alice:wonder\nbob:builder\nmallory:evil-one\n"
SECRET = "the-shared-secret"


class Edge:
    """One node: its folder, its process, its sockets."""

    def __init__(
        self, folder: Path, node: str, *allow_peers: str, turn_port: int = TURN, **more: object
    ) -> None:
        """`more` are further keys of its relay.json."""
        self.node, self.base = node, folder / node
        # Runs side by side must not meet.
        self.address = f"127.{130 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{node[-1]}"
        self.allow_peers, self.turn_port, self.more = allow_peers, turn_port, more
        self.most_descriptors: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        (self.base / "etc").mkdir(parents=True)

    def server(self, transport: str = "udp") -> Addr:
        """Where clients of this transport go."""
        return self.address, TLS if transport == "tls" else self.turn_port

    def write(self, *others: Edge) -> None:
        """All files of the node, its table among them if there are others."""
        config = {
            "schema": 1, "node": self.node, "base": str(self.base), "address": self.address, "realm": "lab",
            "turn_port": self.turn_port, "relay_ports": RELAY_PORTS, "overlay_port": OVERLAY, "stamp_port": STAMP,
            "metrics_port": METRICS, "allow_peers": self.allow_peers, "tls_port": TLS,
            **self.more,
        }  # fmt: skip
        peers = {
            other.node: {
                "address": other.address, "overlay_port": OVERLAY, "stamp_port": STAMP,
                "keys": [hashlib.blake2s(b"the pair").hexdigest()],
            } for other in others
        }  # fmt: skip
        certify(self.base / "etc/tls", self.address)
        for name, text in (
            ("relay.json", json.dumps(config)),
            ("peers.json", json.dumps({"schema": 1, "peers": peers})),
            ("turn.secret", SECRET + "\n"),
            ("turn.users", USERS),
        ):
            (self.base / "etc" / name).write_text(text)
        if others:
            Signer(self.base).push(self._table(self, *others))

    def _table(self, *edges: Edge) -> dict[str, Any]:
        nodes = {
            edge.node: {
                "address": edge.address, "overlay_port": OVERLAY, "relay_ports": RELAY_PORTS, "country": "sg",
                "markets": ["sg"],
            } for edge in edges
        }  # fmt: skip
        routes = {
            edge.node: {
                "primary": [self.node, edge.node],
                "backup": None,
                "last_resort": [self.node, edge.node],
            }
            for edge in edges
            if edge is not self
        }
        times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ahead)) for ahead in (0, 3600)]
        return shard(1, self.node, nodes=nodes, routes=routes, created=times[0], expires=times[1])

    def start(self) -> None:
        command = [
            sys.executable, "-m", "commcli.relay", "serve", "--config", str(self.base / "etc/relay.json")
        ]  # fmt: skip
        if self.most_descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {self.most_descriptors} && exec "$@"', "sh", *command]
        with (self.base / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def log(self) -> str:
        """What it has said on stderr."""
        return (self.base / "log").read_text()

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        return control.ask(self.base / "run/control.sock", {"cmd": command, **arguments})

    def drops(self) -> dict[str, int]:
        """What it has dropped so far, by reason."""
        drops: dict[str, int] = self.ask("status")["drops"]
        return drops

    def descriptors(self) -> int:
        """How many its process has open."""
        assert self.process is not None
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def wait(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its status once `true` holds of it: another process's progress is the event waited for."""
        last: object = None
        for _ in range(300):
            try:
                last = self.ask("status")
                if true(last):
                    return last
            except (OSError, ValueError) as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{self.node}: {last}\n{self.log()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)


class Edges:
    """Both, running."""

    def __init__(self, folder: Path) -> None:
        self.one = Edge(folder, "edge-1")
        self.two = Edge(folder, "edge-2", "127.0.0.0/8", workers=2)
        for edge, other in ((self.one, self.two), (self.two, self.one)):
            edge.write(other)

    def start(self) -> None:
        for edge in (self.one, self.two):
            edge.start()
        for edge in (self.one, self.two):
            edge.wait(lambda status: status["table"]["serial"] == 1)

    def stop(self) -> None:
        for edge in (self.one, self.two):
            edge.stop()


@contextlib.contextmanager
def running(edge: Edge) -> Iterator[Edge]:
    """A node alone, until the body ends."""
    edge.write()
    try:
        edge.start()
        edge.wait(lambda status: bool(status["ok"]))
        yield edge
    finally:
        edge.stop()


def certify(folder: Path, address: str) -> tuple[Path, Path]:
    """A throw-away certificate of this address and its key, where a node looks for them."""
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.invalid")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "fullchain.pem", folder / "privkey.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private
