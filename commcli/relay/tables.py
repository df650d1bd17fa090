"""The table files of a node: notices a new one, has it verified, keeps the last good one (fail static).

table/current -> <serial>/   manifest.json  manifest.json.sig  shard.json
state/serial                 the highest serial ever accepted, so that a restart does not forget it
state/good/                  a copy of the last accepted table, used when `current` is refused after a restart
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from pathlib import Path
from typing import Callable, Optional, Tuple

from commcli.relay import shard as shards
from commcli.relay import signature
from commcli.relay.config import RelayConfig
from commcli.relay.shard import Shard

Mark = Tuple[str, int, int]


class TableFiles:
    """Watches `table/current`. The loop calls `poll`; ssh-keygen runs in a thread, never in the loop."""

    def __init__(self, config: RelayConfig, log: Callable[..., None]) -> None:
        self._config, self._log = config, log
        self._seen: Optional[Mark] = None
        self._results: "queue.SimpleQueue[Tuple[Optional[Shard], Optional[str]]]" = queue.SimpleQueue()
        self._busy = False
        self.refused: Optional[str] = None
        self.shard: Optional[Shard] = None

    def start(self, unix: float) -> Optional[Shard]:
        """The table to begin with: `current` if it is good, else the last good one, else None."""
        self._seen = self._mark()
        if self._seen is not None and not self._accept(self._check("table/current", unix)):
            reason = self.refused
            # Accepted once, it stays in force however old it is now: expiry only bars a new table.
            if self._config.path("state/good").is_dir():
                self._accept(self._check("state/good", unix=0.0))
            self.refused = reason
        return self.shard

    def poll(self, unix: float) -> Optional[Shard]:
        """A newly accepted table, else None."""
        accepted = None
        while not self._results.empty():
            self._busy = False
            if self._accept(self._results.get()):
                accepted = self.shard
        mark = self._mark()
        if mark is not None and mark != self._seen and not self._busy:
            self._seen, self._busy = mark, True
            threading.Thread(target=self._verify, args=(unix,), daemon=True).start()
        return accepted

    def look_again(self) -> None:
        """Verify `current` at the next poll even if it looks unchanged."""
        self._seen = None

    def _mark(self) -> Optional[Mark]:
        current = self._config.path("table/current")
        try:
            manifest = (current / "manifest.json").stat()
            signers = self._config.path("etc/allowed_signers").stat()
            return str(current.resolve()), manifest.st_mtime_ns, signers.st_mtime_ns
        except OSError:
            return None

    def _verify(self, unix: float) -> None:
        self._results.put(self._check("table/current", unix))

    def _check(self, where: str, unix: float) -> Tuple[Optional[Shard], Optional[str]]:
        """(shard, None) or (None, reason)."""
        try:
            # One folder for all three reads, also when a push moves the link meanwhile.
            folder = self._config.path(where).resolve(strict=True)
            manifest = signature.verify(
                folder / "manifest.json",
                folder / "manifest.json.sig",
                self._config.path("etc/allowed_signers"),
            )
            loaded = shards.load(
                manifest,
                (folder / "shard.json").read_bytes(),
                node=self._config.node,
                unix=unix,
                highest_serial=self._highest(),
            )
        except (shards.ShardRefused, OSError) as error:
            return None, str(error)
        return loaded, None

    def _highest(self) -> int:
        try:
            return int(self._config.path("state/serial").read_text())
        except (OSError, ValueError):
            return 0

    def _accept(self, checked: Tuple[Optional[Shard], Optional[str]]) -> bool:
        loaded, self.refused = checked
        if loaded is None:
            self._log("table_refused", reason=self.refused)
            return False
        self.shard = loaded
        self._keep(loaded.serial)
        self._log("table_loaded", serial=loaded.serial)
        return True

    def _keep(self, serial: int) -> None:
        state = self._config.path("state")
        state.mkdir(parents=True, exist_ok=True)
        try:
            _write_aside(state / "serial", f"{serial}\n".encode())
            if self._config.path("table/current").is_dir():
                self._copy_good(state, serial)
        except OSError as error:
            # A full disk must not stop calls: the table is in force, its copy for the next start is older.
            self._log("table_not_kept", reason=str(error))

    def _copy_good(self, state: Path, serial: int) -> None:
        source = self._config.path("table/current").resolve()
        aside = state / f"good.{serial}.{time.monotonic_ns()}"
        shutil.copytree(str(source), str(aside))
        link = state / "good.new"
        link.unlink(missing_ok=True)
        link.symlink_to(aside.name)
        link.replace(state / "good")
        for old in state.glob("good.*"):
            if old != aside:
                shutil.rmtree(str(old), ignore_errors=True)


def _write_aside(path: Path, content: bytes) -> None:
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
