"""Where this run finds its inventory and keeps its state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths of one run. `inventory` is read only; everything that commcli writes lies under `state`."""

    inventory: Path
    state: Path

    @property
    def database(self) -> Path:
        return self.state / "commcli.sqlite3"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def runs(self) -> Path:
        return self.state / "runs"

    @property
    def lab(self) -> Path:
        return self.state / "lab"


def resolve(inventory: Path | None, state: Path | None, environ: Mapping[str, str]) -> Settings:
    """Option, then COMMCLI_* variable, then the default: `./inventory` and the XDG state folder.

    Cron has no HOME: the state folder is then `.commcli-state` beside the inventory.
    """
    folder = inventory or Path(environ.get("COMMCLI_INVENTORY") or "inventory")
    return Settings(inventory=folder.absolute(), state=(state or _state(environ, folder)).absolute())


def _state(environ: Mapping[str, str], inventory: Path) -> Path:
    if named := environ.get("COMMCLI_STATE"):
        return Path(named)
    if xdg := environ.get("XDG_STATE_HOME"):
        return Path(xdg) / "commcli"
    if home := environ.get("HOME"):
        return Path(home) / ".local/state/commcli"
    return inventory.absolute().parent / ".commcli-state"


def from_environment(inventory: Path | None = None, state: Path | None = None) -> Settings:
    """`resolve` on this process's environment."""
    return resolve(inventory, state, os.environ)
