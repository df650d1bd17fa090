"""What the store remembers of tables: which one is in force, which rollout never came to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput
from commcli.routing import table as tables
from commcli.routing.publish import Package
from commcli.routing.table import Table
from commcli.store.sqlite import Row, Store

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
    """Where things stand, by the record. Raises BadInput if the table in force is damaged here."""
    serial, newer = _standing(store)
    return Situation(None if serial is None else kept(store, serial), newer, store.latest_serial())


def serial_in_force(store: Store) -> int | None:
    """The serial alone: the table is not read, and may be damaged."""
    return _standing(store)[0]


def _standing(store: Store) -> tuple[int | None, tuple[int, ...]]:
    newer: list[int] = []
    for row in store.tables(limit=1000):
        if row["status"] in IN_FORCE:
            return row["serial"], tuple(newer)
        if row["status"] in UNFINISHED:
            newer.append(row["serial"])
    return None, tuple(newer)


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


def way_back(store: Store) -> int:
    """The serial of the table that one goes back to: of a rollout that was broken off the one in force, otherwise the
    one before it. Raises BadInput if there is none.

    A table that went back itself stands where the one stood whose routes it has: twice back is not forth again.
    """
    now = situation(store)
    if now.in_force is None:
        raise BadInput(
            "no table is in force by this record: there is none to go back to",
            hint="commcli route apply publishes one.",
        )
    serial = now.in_force.serial
    if now.unfinished:
        return serial
    detail = {row["serial"]: row["detail"] for row in store.tables(limit=1000)}
    while (origin := _origin(store, detail.get(serial, {}))) is not None and origin < serial:
        serial = origin
    return before(store, serial)


def _origin(store: Store, detail: Mapping[str, Any]) -> int | None:
    """The table whose routes one that went back has."""
    if detail.get("routes_of") is not None:
        return int(detail["routes_of"])
    taken_back = detail.get("rollback_of")
    return None if taken_back is None else before(store, taken_back)


def stopped(store: Store) -> Row | None:
    """The row of the last rollout, if that was stopped and is taken back; None if anything was published since."""
    rows = store.tables(limit=2)
    if rows and rows[0]["status"] == "rolled-back":
        return rows[0]
    return next((row for row in rows[1:] if row["serial"] == rows[0]["detail"].get("rollback_of")), None)


def went_back(store: Store) -> Row | None:
    """The row of the last rollout if with that a person went back to an earlier table."""
    return next((row for row in store.tables(limit=1) if row["detail"].get("routes_of") is not None), None)


class StoreJournal:
    """The journal of rollouts in the store. `resumes` is the serial of a kept table whose rollout is taken up again."""

    def __init__(self, store: Store, resumes: int | None = None) -> None:
        self._store, self._resumes = store, resumes

    def intend(self, package: Package, detail: Mapping[str, Any]) -> None:
        """Before the first push."""
        if package.serial == self._resumes:
            self._store.set_table_status(package.serial, "publishing", detail)
            return
        self._store.record_table(
            package.serial, package.manifest, package.signature, package.shards, "publishing", detail
        )

    def settle(self, serial: int, status: str, detail: Mapping[str, Any]) -> None:
        """After the last one."""
        if serial == self._resumes and status == "unreached":
            status = "interrupted"  # some have it since it was broken off
        self._store.set_table_status(serial, status, detail)
