"""The one folder that holds a lab, and the record (lab.json) that makes it recognisable as one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commcli.errors import BadInput, LockHeld

#: Everything that a lab writes. `lab down` removes these and nothing else.
ENTRIES = (
    "inventory", "keys", "secrets", "nodes", "state", "hosts.log", "lab.sock", "zones.before",
    "lab.json",
)  # fmt: skip

#: The login on every node.
USER = "commcli"


@dataclass(frozen=True, slots=True)
class Place:
    """One node of the lab: its id, its city and its loopback address."""

    node: str
    city: str
    address: str


@dataclass(frozen=True, slots=True)
class Record:
    """What lab.json says: written first by `up`, removed last by `down`."""

    network: str
    ssh_port: int
    places: tuple[Place, ...]

    @property
    def addresses(self) -> dict[str, str]:
        return {place.node: place.address for place in self.places}

    @property
    def cities(self) -> dict[str, str]:
        return {place.node: place.city for place in self.places}

    def as_dict(self) -> dict[str, Any]:
        nodes = {place.node: {"city": place.city, "address": place.address} for place in self.places}
        return {"schema": 1, "network": self.network, "ssh_port": self.ssh_port, "nodes": nodes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        places = (Place(node, body["city"], body["address"]) for node, body in data["nodes"].items())
        return cls(data["network"], data["ssh_port"], tuple(places))


@dataclass(frozen=True, slots=True)
class LabFolder:
    """Paths below one lab's folder."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "lab.json"

    @property
    def inventory(self) -> Path:
        return self.path / "inventory"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def tls_ca(self) -> Path:
        """The CA's certificate, by which the edges' are believed."""
        return self.keys / "tls/ca.pem"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def socket(self) -> str:
        """Its name in the folder: the whole path may be longer than the 108 bytes of a Unix socket's
        address.
        """
        return "lab.sock"

    @property
    def log(self) -> Path:
        return self.path / "hosts.log"

    def host_key(self, node: str) -> Path:
        return self.keys / "hosts" / node

    def root(self, node: str) -> Path:
        """The node's own root and HOME."""
        return self.path / "nodes" / node

    def base(self, node: str) -> Path:
        """Where commcli's files lie on the node (`base` in its inventory)."""
        return self.root(node) / "opt/commcli"

    def faults(self, node: str) -> Path:
        return self.base(node) / "etc/faults.json"

    def read(self) -> Record | None:
        """The record, or None where there is no lab."""
        try:
            return Record.from_dict(json.loads(self.record.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self.record}:1: not a lab's record ({error})"
            raise BadInput(message, hint="commcli lab down clears it") from None

    def remove(self) -> list[str]:
        """Remove everything that a lab writes, the folder too if it is then empty; names what is left."""
        for name in ENTRIES:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if not self.path.exists():
            return []
        left = sorted(entry.name for entry in self.path.iterdir())
        if not left:
            self.path.rmdir()
        return left


def locate(state: Path, folder: Path | None) -> LabFolder:
    """The lab that a command means: `--folder`, or the lab whose own state folder is in use, or state/lab."""
    if folder is None:
        inside = state.name == "state" and (state.parent / "lab.json").exists()
        folder = state.parent if inside else state / "lab"
    return LabFolder(folder.resolve())


def write_atomic(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` by one rename: a reader sees the old text or the new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def alone(folder: LabFolder) -> Iterator[None]:
    """Hold the lab for one changing command. The folder itself is locked, so no lock file stays behind."""
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"another lab command is at work on {folder.path}") from None
        yield
    finally:
        os.close(descriptor)
