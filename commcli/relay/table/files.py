"""The table files of a node: notices a new one, has it verified, keeps the last good one (fail static).

table/current -> <serial>/   manifest.json  manifest.json.sig  shared.json  shard.json
table/staged  -> <serial>/   the table to come: verified in the same way, and held ready
state/serial                 the highest serial ever accepted, so that a restart does not forget it
state/good/                  a copy of the last accepted table, used when `current` is refused after a restart

A restart takes nothing older than either of the two `state` files knows, so that the loss of one opens no way back.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from commcli.relay.config import RelayConfig
from commcli.relay.table import shard as shards
from commcli.relay.table import signature
from commcli.relay.table.document import undisturbed
from commcli.relay.table.shard import Shard

Mark = Tuple[str, int, int]


CURRENT, STAGED = "table/current", "table/staged"


class _Verdict(NamedTuple):
    """A good table and its files' contents by name, or why it is refused. `where` it lies."""

    shard: Optional[Shard] = None
    files: Mapping[str, bytes] = MappingProxyType({})
    reason: Optional[str] = None
    where: str = CURRENT


class TableFiles:
    """Watches `table/current` and `table/staged`. The loop calls `poll`; ssh-keygen and the disk's slow writes are a
    thread's business.

    `shard` is in force, `staged` the newer one that is held ready; `refused` and `staged_refused` say why the last that
    was seen in its place is not.
    """

    def __init__(self, config: RelayConfig, log: Callable[..., None]) -> None:
        self._config, self._log = config, log
        self._seen: Dict[str, Optional[Mark]] = {CURRENT: None, STAGED: None}
        self._verdicts: "queue.SimpleQueue[_Verdict]" = queue.SimpleQueue()
        self._busy = False
        self._kept_serial = 0  # of state/good when we started
        self.refused: Optional[str] = None
        self.staged_refused: Optional[str] = None
        self.shard: Optional[Shard] = None
        self.staged: Optional[Shard] = None
        self.document = b""  # its files, for sister processes: manifest, NUL, shared part, NUL, shard

    def start(self, unix: float) -> Optional[Shard]:
        """The table to begin with: `current` if it is good, else the last good one, else None."""
        kept = _Verdict()
        if self._config.path("state/good").is_dir():
            # Accepted once, it stays in force however old it is now: expiry and serial only bar a new table.
            kept = self._check("state/good", unix=0.0, highest_serial=0)
            self._kept_serial = 0 if kept.shard is None else kept.shard.serial
        self._seen[CURRENT] = self._mark(CURRENT)
        if self._seen[CURRENT] is not None:
            current = self._check(CURRENT, unix, self._highest())
            self._keep(current)
            self._accept(current)
        if self.shard is None and kept.shard is not None:
            reason = self.refused
            self._accept(kept)
            self.refused = reason
        return self.shard

    def poll(self, unix: float) -> Optional[Shard]:
        """A newly accepted table, else None."""
        accepted = None
        while not self._verdicts.empty():
            self._busy = False
            verdict = self._verdicts.get()
            if verdict.where == STAGED:
                self._stage(verdict)
            elif self._accept(verdict):
                accepted = self.shard
        for where in (CURRENT, STAGED):
            self._look(where, unix)
        return accepted

    def look_again(self) -> None:
        """Verify both at the next poll even if they look unchanged."""
        self._seen = {CURRENT: None, STAGED: None}

    def _look(self, where: str, unix: float) -> None:
        mark = self._mark(where)
        if mark is None and where == STAGED:
            self.staged = self.staged_refused = self._seen[STAGED] = None
        if mark is not None and mark != self._seen[where] and not self._busy:
            self._seen[where], self._busy = mark, True
            threading.Thread(target=self._verify, args=(where, unix), daemon=True).start()

    def _mark(self, where: str) -> Optional[Mark]:
        link = self._config.path(where)
        try:
            manifest = (link / "manifest.json").stat()
            signers = self._config.path("etc/allowed_signers").stat()
            return str(link.resolve()), manifest.st_mtime_ns, signers.st_mtime_ns
        except OSError:
            return None

    def _verify(self, where: str, unix: float) -> None:
        verdict = _Verdict(reason="the verification broke off", where=where)
        try:
            with undisturbed():
                verdict = self._check(where, unix, self._highest())._replace(where=where)
            if where == CURRENT:
                self._keep(verdict)
        finally:
            self._verdicts.put(verdict)  # whatever happened: without a verdict no later table is looked at

    def _check(self, where: str, unix: float, highest_serial: int) -> _Verdict:
        try:
            # One folder for all reads, also when a push moves the link meanwhile.
            folder = self._config.path(where).resolve(strict=True)
            _must_be_files(folder)
            manifest, sig = folder / "manifest.json", folder / "manifest.json.sig"
            files = {
                manifest.name: signature.verify(
                    manifest, sig, self._config.path("etc/allowed_signers"), self._config.principal
                )
            }
            # A table of schema 1 has no shared part.
            files.update({path.name: path.read_bytes() for path in (sig, *_parts(folder))})
            loaded = shards.load(
                files["manifest.json"],
                files["shard.json"],
                shared=files.get("shared.json", b""),
                node=self._config.node,
                unix=unix,
                highest_serial=highest_serial,
            )
        except (shards.ShardRefused, OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
            return _Verdict(reason=str(error))
        return _Verdict(loaded, files)

    def _highest(self) -> int:
        """The highest serial that was ever accepted, as far as anything still knows it."""
        in_force = 0 if self.shard is None else self.shard.serial
        try:
            written = int(self._config.path("state/serial").read_text())
        except FileNotFoundError:
            written = 0
        except (OSError, ValueError):
            written = 0
            self._log("serial_unreadable", file="state/serial")
        return max(written, in_force, self._kept_serial)

    def _accept(self, verdict: _Verdict) -> bool:
        self.refused = verdict.reason
        if verdict.shard is None:
            self._log("table_refused", reason=self.refused)
            return False
        self.shard = verdict.shard
        if self._config.workers != 1:
            names = ("manifest.json", "shared.json", "shard.json")
            self.document = b"\0".join(verdict.files.get(name, b"") for name in names)
        self._log("table_loaded", serial=self.shard.serial)
        if self.staged is not None and self.staged.serial <= self.shard.serial:
            self.staged = None
        return True

    def _stage(self, verdict: _Verdict) -> None:
        self.staged, self.staged_refused = None, verdict.reason
        if verdict.shard is None:
            self._log("table_refused", reason=verdict.reason, staged=True)
        elif self.shard is None or verdict.shard.serial > self.shard.serial:
            self.staged = verdict.shard
            self._log("table_staged", serial=self.staged.serial)

    def _keep(self, verdict: _Verdict) -> None:
        if verdict.shard is None:
            return
        state = self._config.path("state")
        try:
            state.mkdir(parents=True, exist_ok=True)
            _write_aside(state / "serial", f"{verdict.shard.serial}\n".encode())
            _keep_good(state, verdict)
        except OSError as error:
            # A full disk must not stop calls: the table is in force, its copy for the next start is older.
            self._log("table_not_kept", reason=str(error))


def _must_be_files(folder: Path) -> None:
    """A pipe among them would keep the reading thread, and so every later table, waiting for ever."""
    for name in ("manifest.json", "manifest.json.sig", "shared.json", "shard.json"):
        path = folder / name
        if path.exists() and not path.is_file():
            raise OSError(f"{name} is not a file")


def _parts(folder: Path) -> List[Path]:
    shared = folder / "shared.json"
    return [*([shared] if shared.exists() else []), folder / "shard.json"]


def _keep_good(state: Path, verdict: _Verdict) -> None:
    """What was verified and nothing else: a push may have put another table in its place since."""
    assert verdict.shard is not None
    aside = state / f"good.{verdict.shard.serial}.{time.monotonic_ns()}"
    try:
        aside.mkdir()
        for name, content in verdict.files.items():
            _write(aside / name, content)
        link = state / "good.new"
        link.unlink(missing_ok=True)
        link.symlink_to(aside.name)
        link.replace(state / "good")
    except OSError:
        shutil.rmtree(str(aside), ignore_errors=True)
        raise
    for old in state.glob("good.*"):
        if old != aside:
            shutil.rmtree(str(old), ignore_errors=True)


def _write_aside(path: Path, content: bytes) -> None:
    aside = path.with_name(path.name + ".new")
    _write(aside, content)
    aside.replace(path)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
