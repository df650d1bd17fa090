"""`lab down`: end every process of the lab, remove its files, and verify that nothing is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput
from commcli.lab import ports, processes
from commcli.lab.folder import LabFolder, Record, alone


@dataclass(frozen=True, slots=True)
class Remains:
    """What `down` did and what it could not do. Everything empty but `ended` = the lab is gone."""

    ended: int
    processes: tuple[processes.Found, ...]
    ports: tuple[ports.Port, ...]
    files: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not (self.processes or self.ports or self.files)

    def as_dict(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "ended": self.ended,
            "left": {
                "processes": [{"pid": found.pid, "command": found.command} for found in self.processes],
                "ports": [str(port) for port in self.ports],
                "files": list(self.files),
            },
        }


def down(folder: LabFolder) -> Remains:
    """Take the lab down. Works from the marker alone: after a SIGKILL, an interrupted `up`, a lost record."""
    if not folder.path.exists():
        return take_down(folder)
    with alone(folder):
        return take_down(folder)


def take_down(folder: LabFolder, *, grace_s: float = 2.0) -> Remains:
    """`down` for one who already holds the lab. Processes end first, files go last: it can be run again."""
    record = _record(folder)
    ended = len(processes.find(folder.path))
    survivors = processes.end(folder.path, grace_s=grace_s)
    # A process that was between fork and exec shows no environment for a moment: look again.
    survivors = survivors or processes.end(folder.path, grace_s=0)
    left_ports = ports.in_use(record.addresses.values()) if record else []
    left_files = folder.remove() if folder.path.exists() else []
    return Remains(ended, tuple(survivors), tuple(left_ports), tuple(left_files))


def _record(folder: LabFolder) -> Record | None:
    try:
        return folder.read()
    except BadInput:
        return None  # half written or damaged: the marker is enough
