"""A rollout that was broken off, or that did not reach every node: may the very table that was signed finish it?

It may while it is the newest there is, says what would be planned today, and would pass today's checks. Then it
goes to the nodes that lack it under its own serial, and nobody signs anything. Otherwise a newer table takes its
place, which is as safe: mixed serials are harmless, since every packet carries its whole path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commcli.errors import CommcliError, Refused
from commcli.fleet.model import Fleet
from commcli.routing import table as tables
from commcli.routing.decision import Decision
from commcli.routing.history import IN_FORCE, UNFINISHED, kept
from commcli.routing.preflight import Preflight, is_due
from commcli.routing.publish import Package, verify
from commcli.routing.table import Encoded, Table
from commcli.store.sqlite import Row, Store

# What the record has of a table that went back to an earlier one's routes (`history.way_back`).
BACK = ("rollback_of", "routes_of")


@dataclass(frozen=True, slots=True)
class Resumable:
    """A signed table that is not everywhere yet. `lacking` are the nodes that answer and do not have it; `detail` is
    what the record has of its rollout. `is_broken_off`: that never came to its end, so its canary may not have been
    judged, or it ended with most nodes out of reach, so most would meet the table all at once.
    """

    package: Package
    lacking: tuple[str, ...]
    detail: Row
    is_broken_off: bool

    @property
    def table(self) -> Table:
        """What it says."""
        return tables.decode(self.package.manifest, self.package.shards)

    @property
    def marks(self) -> dict[str, Any]:
        """What the record has to say of it also when it is finished: that it went back, and where to."""
        return {mark: self.detail[mark] for mark in BACK if self.detail.get(mark) is not None}

    def leaves_behind(self, found: Preflight) -> bool:
        """Whether it goes back, and a relay has still what it leaves: one that never took that has the former table."""
        if "routes_of" in self.marks:
            return bool(self.lacking)
        return "rollback_of" in self.marks and self.marks["rollback_of"] in found.serials.values()

    @property
    def why(self) -> str:
        """Why it is taken up again."""
        serial, lacking = self.package.serial, ", ".join(self.lacking)
        if not self.is_broken_off:
            return f"table {serial} is not yet on {lacking}"
        where = f"it is not yet on {lacking}" if lacking else "every relay that answers has it"
        return f"the rollout of table {serial} was broken off: {where}"


def find(
    store: Store,
    decision: Decision,
    found: Preflight,
    fleet: Fleet,
    *,
    now_unix: float,
    by_itself: bool = False,
) -> tuple[Resumable | None, str]:
    """The table to go on with; or None, and why one whose rollout is not complete is not gone on with (empty: there
    is none). `by_itself`, without a person, a way back is gone on with whatever the plan says: what that says was left.
    """
    newest = store.tables(limit=1)
    if not newest or newest[0]["status"] not in (*IN_FORCE, *UNFINISHED):
        return None, ""
    stored = store.table(newest[0]["serial"])
    assert stored is not None
    package = Package(stored.serial, stored.manifest, stored.signature, stored.shards)
    lacking = tuple(sorted(node for node, serial in found.serials.items() if serial != package.serial))
    is_broken_off = stored.status in UNFINISHED or len(lacking) > len(found.serials) / 2
    resumable = Resumable(package, lacking, stored.detail, is_broken_off)
    goes_back = by_itself and resumable.leaves_behind(found)
    try:
        obstacle = _obstacle(package, decision, found, now_unix, goes_back=goes_back)
        if obstacle is None:
            verify(package, fleet)
    except CommcliError as error:
        obstacle = str(error)
    if obstacle is None:
        return resumable, ""
    if stored.status == "published":
        return None, ""
    ended = "was broken off" if resumable.is_broken_off else "did not reach every node"
    return None, f"the rollout of table {package.serial} {ended}, and a newer one replaces it: {obstacle}"


def former(store: Store, resumable: Resumable) -> Table | None:
    """The table in force before that one, to go back to; None: there was none. Raises BadInput for a damaged one."""
    earlier = (row["serial"] for row in store.tables(limit=1000) if row["status"] in IN_FORCE)
    serial = next((serial for serial in earlier if serial < resumable.package.serial), None)
    return None if serial is None else kept(store, serial)


def disowned(store: Store, decision: Decision, fleet: Fleet) -> str | None:
    """Why the table in force is to be signed anew though it says what is planned: nodes would not believe it today, and
    one that restarts would be left without.
    """
    stored = None if decision.in_force is None else store.table(decision.in_force.serial)
    if stored is None:
        return None
    try:
        verify(Package(stored.serial, stored.manifest, stored.signature, stored.shards), fleet)
    except Refused:
        return f"table {stored.serial} is signed by a key that is not among the signers any more"
    return None


def _obstacle(
    package: Package, decision: Decision, found: Preflight, now_unix: float, *, goes_back: bool
) -> str | None:
    if found.highest > package.serial:
        return f"a relay has table {found.highest}"
    table = tables.decode(package.manifest, package.shards)
    if goes_back:
        if not found.serials.keys() <= package.shards.keys():
            return "there are nodes that it does not know"
        if broken := tables.unlawful(table, decision.policy):
            return f"it breaks zone {broken[0][-1]} of today"
    elif not decision.table.same_routing(table):
        return "the plan is another one now"
    if is_due(table, now_unix):
        return "more than half of its life is over"
    encoded = Encoded(package.manifest, package.shards)
    tables.check(encoded, now_unix=now_unix, highest_serial=package.serial - 1)
    return None
