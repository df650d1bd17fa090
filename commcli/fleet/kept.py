"""A large inventory that was read and found good, kept beside the state: the same files are not parsed again.

What is kept is good for exactly these files, this program and this user; of programs' answers, for as long as they
say. Anything odd about it, and it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commcli.errors import BadInput
from commcli.fleet import packed
from commcli.fleet.model import Fleet
from commcli.settings import from_environment

# Smaller ones are read as fast as what is kept of them.
WORTH_BYTES = 48 << 10


@dataclass(frozen=True, slots=True)
class Origins:
    """What an inventory is made of: files to read, and programs to run; `names` is all that is in its folder."""

    place: Path
    files: Sequence[Path]
    programs: Sequence[Path]
    names: Sequence[str] = ()

    def digest(self) -> str | None:
        """Of everything that the fleet depends on; None where it is not worth the trouble, or can not be told."""
        home = os.path.expanduser("~")  # noqa: PTH111  (as fleet.yaml's paths are read)
        digest = hashlib.sha256(
            repr((packed.shape(), str(self.place), str(Path.cwd()), home, self.names)).encode()
        )
        size = 0
        try:
            for path in self.files:
                data = path.read_bytes()
                size += len(data)
                digest.update(f"\0{path}\0{len(data)}\0".encode() + data)
            for path in self.programs:
                told = path.stat()
                digest.update(f"\0{path}\0{told.st_mtime_ns} {told.st_size} {told.st_ino}".encode())
        except OSError:
            return None
        return digest.hexdigest() if self.programs or size >= WORTH_BYTES else None


def file_of(place: Path) -> Path:
    """Where the fleet of this inventory is kept."""
    name = hashlib.sha256(str(place.absolute()).encode()).hexdigest()[:16]
    return from_environment(place).state / "cache" / f"inventory-{name}.json"


def find(origins: Origins, digest: str, now_unix: float) -> Fleet | None:
    """The fleet, if it is kept and still good."""
    try:
        path = file_of(origins.place)
        told = path.stat()
        if told.st_uid != os.getuid() or told.st_mode & 0o077:
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        mark = json.loads(head)
        if mark["of"] != digest or not _holds(mark["until_unix"], now_unix):
            return None
        if mark["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        fleet = packed.unpack(json.loads(body))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return fleet if isinstance(fleet, Fleet) else None


def _holds(until_unix: float | None, now_unix: float) -> bool:
    return until_unix is None or now_unix < until_unix


def keep(origins: Origins, digest: str, fleet: Fleet, until_unix: float | None) -> None:
    """Keep it if that can be done; nobody depends on it."""
    if isinstance(fleet.probing, BadInput) or origins.digest() != digest:
        return  # told every time; or a file changed while it was read
    with contextlib.suppress(OSError, packed.Unpackable):
        body = json.dumps(packed.pack(fleet), separators=(",", ":")).encode()
        mark = {"of": digest, "until_unix": until_unix, "sha256": hashlib.sha256(body).hexdigest()}
        path = file_of(origins.place)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(json.dumps(mark).encode() + b"\n" + body)
        aside.replace(path)


def now_unix() -> float:
    """The clock by which programs' answers grow old."""
    return time.time()
