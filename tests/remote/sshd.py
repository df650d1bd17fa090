"""A real OpenSSH server on loopback, with its own keys and folder, and a fleet of nodes that lie behind it."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from commcli.fleet.model import Fleet, Node, Region, Signing, SshDefaults, SshTarget
from commcli.fleet.secrets import SecretRef

SSHD = Path("/usr/sbin/sshd")

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
MaxSessions 100
MaxStartups 100
MaxAuthTries 3
Subsystem sftp internal-sftp
LogLevel INFO
SetEnv HOME={folder}/home
"""


def why_not() -> str | None:
    """Why no sshd can run here, or None if it can."""
    return None if SSHD.exists() else f"no OpenSSH server here: {SSHD} is missing"


def keygen(path: Path, comment: str = "test") -> None:
    """A new ed25519 key pair without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Host:
    """A running server: `key` logs in, `known_hosts` knows its host key, nodes keep their files under `folder`."""

    folder: Path
    port: int

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def node(
        self,
        name: str = "sg-1",
        *,
        python: str | None = sys.executable,
        proxy_jump: str | None = None,
        address: str = "127.0.0.1",
    ) -> Node:
        """A node behind this server, its base a folder of its own."""
        target = SshTarget("127.0.0.1", getpass.getuser(), self.port, proxy_jump, python)
        variables = {"faults": True, "systemd": False, "allow_peers": ["127.0.0.0/8"]}
        base = str(self.folder / "nodes" / name)
        return Node(name, "sgp", "sg", address, target, base=base, variables=variables)

    def fleet(self, *nodes: Node, ssh: SshDefaults | None = None) -> Fleet:
        """The fleet of `nodes` (`sg-1` alone if none is named)."""
        named: Mapping[str, Node] = {node.id: node for node in nodes or (self.node(),)}
        secrets = {name: SecretRef(name, file=self.folder / name) for name in ("turn", "overlay")}
        region = {"sgp": Region("sgp", "Singapore", "sg", "asia")}
        return Fleet("test", False, "test.example", region, named, {}, (), secrets, Signing(self.folder / "signers"),
                     ssh or self.defaults())  # fmt: skip

    def defaults(self) -> SshDefaults:
        return SshDefaults(
            self.known_hosts, (self.key,), agent=False, connect_timeout_s=5, login_timeout_s=10
        )

    def impatient(self) -> SshDefaults:
        """Deadlines for tests that run into them."""
        return replace(self.defaults(), connect_timeout_s=0.5, login_timeout_s=0.5)


@asynccontextmanager
async def serve(folder: Path, first: str = "") -> AsyncIterator[Host]:
    """Run sshd until the body ends. Its children end with their connections. What `first` says of its config counts."""
    host = _prepared(folder, first)
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(*command, stderr=log, stdin=asyncio.subprocess.DEVNULL)
        try:
            await _answers(host.port, server)
            yield host
        finally:
            if server.returncode is None:
                server.terminate()
            await server.wait()


def _prepared(folder: Path, first: str = "") -> Host:
    # Empty: the rc files of whoever runs the tests are not the node's, and may take their time.
    (folder / "home").mkdir(parents=True, exist_ok=True)
    host = Host(folder, free_port())
    keygen(folder / "host_key", "host")
    keygen(host.key)
    (folder / "authorized_keys").write_bytes((folder / "id.pub").read_bytes())
    public = (folder / "host_key.pub").read_text()
    host.known_hosts.write_text(f"[127.0.0.1]:{host.port} {public}")
    (folder / "sshd_config").write_text(first + _CONFIG.format(port=host.port, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    return host


async def _answers(port: int, server: asyncio.subprocess.Process) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert server.returncode is None, "sshd did not start"
            await asyncio.sleep(0.02)
            continue
        writer.close()
        await writer.wait_closed()
        return
