"""Before a push: which relays answer, and which table each of them says it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from commcli.fleet.model import Fleet, Node
from commcli.remote.outcome import OnEvent, Outcome
from commcli.remote.survey import ask_all
from commcli.routing.decision import Decision
from commcli.routing.table import Table

if TYPE_CHECKING:
    from commcli.remote.ssh import Pool


@dataclass(frozen=True, slots=True)
class Preflight:
    """`serials` of the relays that answered (None: no table yet), `absent` the outcomes of the other nodes,
    `draining` the relays that were told to drain, `sessions` how many allocations each has.
    """

    serials: Mapping[str, int | None]
    absent: tuple[Outcome[int], ...] = ()
    draining: frozenset[str] = frozenset()
    sessions: Mapping[str, int] = field(default_factory=dict)

    @property
    def highest(self) -> int:
        """The highest serial that any relay has; a new table must be above it, whoever published that one."""
        return max((serial for serial in self.serials.values() if serial is not None), default=0)

    def present(self, fleet: Fleet) -> list[Node]:
        """The nodes to push to, in the inventory's order."""
        return [node for node in fleet.nodes.values() if node.id in self.serials]

    def behind(self, table: Table | None) -> list[str]:
        """The nodes that answered and do not have `table` in force."""
        wanted = table.serial if table else None
        return sorted(node for node, serial in self.serials.items() if serial != wanted)


async def look(
    fleet: Fleet, pool: Pool, *, deadline_s: float | None = None, on_event: OnEvent | None = None
) -> Preflight:
    """Ask every relay for its status, one round trip a node."""
    nodes = list(fleet.nodes.values())
    outcomes = await ask_all(fleet, nodes, "status", pool=pool, deadline_s=deadline_s, on_event=on_event)
    serials = {o.node: o.value["table"]["serial"] for o in outcomes if o.value is not None}
    absent: list[Outcome[int]] = [
        Outcome(o.node, o.state, None, o.reason, o.seconds, o.code) for o in outcomes if o.value is None
    ]
    draining = frozenset(o.node for o in outcomes if o.value is not None and o.value["drain"])
    sessions = {o.node: int(o.value["allocations"]) for o in outcomes if o.value is not None}
    return Preflight(serials, tuple(absent), draining, sessions)


def why_publish(decision: Decision, found: Preflight, *, now_unix: float) -> list[str]:
    """The reasons to publish, empty when every relay that answers does already what the plan says."""
    reasons = []
    table = decision.in_force
    if table is None:
        return ["there is no table in force"]
    if decision.changed:
        reasons.append("routes, nodes or zones change")
    behind = found.behind(table)
    if behind:
        reasons.append(f"not on serial {table.serial}: {', '.join(behind)}")
    if is_due(table, now_unix):
        reasons.append(f"the table in force expires in {(table.expires - now_unix) / 86400:.1f} days")
    return reasons


def is_due(table: Table, now_unix: float) -> bool:
    """Whether a table is to be renewed: half of its life is over, which leaves the other half for what goes wrong."""
    return table.expires - now_unix < (table.expires - table.created) / 2
