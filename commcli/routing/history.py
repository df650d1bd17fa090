"""What the store remembers of tables: which one is in force, which rollout never came to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput
from commcli.routing import table as tables
from commcli.routing.publish import Package
from commcli.routing.table import Table
from commcli.store.sqlite import Store

# A table that at least one node has confirmed and nobody took back.
IN_FORCE = ("published", "partial")
UNFINISHED = ("publishing", "interrupted")


@dataclass(frozen=True, slots=True)
class Situation:
    """The table in force (None: none yet) and the serials of newer rollouts that were broken off."""

    in_force: Table | None
    unfinished: tuple[int, ...]
    latest_serial: int


def situation(store: Store) -> Situation:
    """Where things stand, by the record."""
    newer: list[int] = []
    for row in store.tables(limit=1000):
        if row["status"] in IN_FORCE:
            return Situation(kept(store, row["serial"]), tuple(newer), store.latest_serial())
        if row["status"] in UNFINISHED:
            newer.append(row["serial"])
    return Situation(None, tuple(newer), store.latest_serial())


def kept(store: Store, serial: int) -> Table:
    """A table that the store keeps. Raises BadInput if it has none of that serial, or a damaged one."""
    found = store.table(serial)
    if found is None:
        raise BadInput(f"no table of serial {serial} is kept", hint="commcli route history lists them.")
    return tables.decode(found.manifest, found.shards)


def before(store: Store, serial: int) -> int:
    """The serial of the last table that was in force before `serial`. Raises BadInput if there is none."""
    for row in store.tables(limit=1000):
        if row["serial"] < serial and row["status"] in IN_FORCE:
            return int(row["serial"])
    raise BadInput(f"no table before serial {serial} is kept", hint="commcli route history lists them.")


class StoreJournal:
    """The journal of rollouts in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intend(self, package: Package, detail: Mapping[str, Any]) -> None:
        """Before the first push."""
        self._store.record_table(
            package.serial, package.manifest, package.signature, package.shards, "publishing", detail
        )

    def settle(self, serial: int, status: str, detail: Mapping[str, Any]) -> None:
        """After the last one."""
        self._store.set_table_status(serial, status, detail)
