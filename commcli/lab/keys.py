"""The lab's SSH keys, made by stock ssh-keygen: an operator, a table signer, and a host key for every node.

Host keys are real and pinned in `known_hosts`, so that the lab exercises strict checking and not a way around it.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from commcli.errors import CommcliError
from commcli.lab import processes
from commcli.lab.folder import LabFolder, Record, write_atomic

PRINCIPAL = "commcli-table"
NAMESPACE = "commcli-table"


class Missing(CommcliError):
    """A program that the lab needs is not installed."""

    exit_code = 3
    kind = "missing"


def require_tools() -> str:
    """The path of ssh-keygen; Missing says in one line what to install."""
    if not Path("/proc/self/environ").exists():
        raise Missing("the lab needs Linux: /proc is how it finds its processes again")
    found = shutil.which("ssh-keygen")
    if found is None:
        raise Missing(
            "ssh-keygen is missing", hint="install openssh-client (Debian, Ubuntu) or openssh (others)"
        )
    return found


def make(folder: LabFolder, record: Record, secret_names: Iterable[str]) -> None:
    """Make every key and secret that is not there yet, and the files that name them."""
    tool = require_tools()
    for private in (folder.keys / "hosts", folder.secrets):
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("operator", "signer"):
        _make_key(tool, folder, folder.keys / name, f"lab {name}")
    for node in record.addresses:
        _make_key(tool, folder, folder.host_key(node), node)
    signer = f'{PRINCIPAL} namespaces="{NAMESPACE}" {_public(folder.keys / "signer")}\n'
    write_atomic(folder.keys / "allowed_signers", signer)
    hosts = [
        f"[{address}]:{record.ssh_port} {_public(folder.host_key(node))}\n"
        for node, address in record.addresses.items()
    ]
    write_atomic(folder.keys / "known_hosts", "".join(hosts))
    for name in secret_names:
        _make_secret(folder.secrets / name)


def _make_key(tool: str, folder: LabFolder, path: Path, comment: str) -> None:
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return
    # Half a pair is what an interrupted run leaves behind, and ssh-keygen asks before it overwrites.
    path.unlink(missing_ok=True)
    command = [tool, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    environ = processes.environment(folder.path, None, {"PATH": "/usr/bin:/bin"})
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ)
    if done.returncode != 0:
        raise CommcliError(f"ssh-keygen failed for {path.name}: {done.stderr.strip()}")


def _public(path: Path) -> str:
    kind, key = path.with_name(f"{path.name}.pub").read_text().split()[:2]
    return f"{kind} {key}"


def _make_secret(path: Path) -> None:
    if not path.exists():
        write_atomic(path, secrets.token_hex(32) + "\n", mode=0o600)
