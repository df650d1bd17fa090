"""A changing command at work on the fleet's table: look, then sign, push and record, over one set of
connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from commcli.errors import AnswerBad, OutOfReach, Refused
from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import Event, OnEvent, exit_code
from commcli.routing import policy, preflight
from commcli.routing import table as tables
from commcli.routing.canary import Facts, facts_of
from commcli.routing.history import StoreJournal
from commcli.routing.preflight import Preflight
from commcli.routing.publish import NodeSide, Package, Rollout, SshNodes, catch_up, prepare, publish
from commcli.routing.resume import Resumable
from commcli.routing.table import Table
from commcli.routing.watch import Call, Watch

if TYPE_CHECKING:
    from commcli.remote.ssh import Pool
    from commcli.store.sqlite import Store

_NO_ANSWER = {error.exit_code: error for error in (OutOfReach, Refused, AnswerBad)}


@dataclass(frozen=True, slots=True)
class How:
    """How a table is to be published: to which `canary` first (None: the first that answers), and how that one is
    watched (None: not at all). `reason` and `told` are what the audit and the history remember beside the outcome.
    """

    canary: str | None = None
    watch: Watch | None = None
    reason: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


class Change:
    """`command` is its name in the audit; the caller holds the lock. `deadline_s` is for the whole of it; `side` is
    the far end of pushes, by default SSH over `pool`.
    """

    def __init__(
        self,
        command: str,
        fleet: Fleet,
        store: Store,
        pool: Pool,
        *,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.time,
        side: NodeSide | None = None,
    ) -> None:
        self.command, self.fleet, self.store = command, fleet, store
        self.pool, self._clock = pool, clock
        self._side = SshNodes(pool.connect) if side is None else side
        self._until = None if deadline_s is None else time.monotonic() + deadline_s

    async def look(self, *, on_event: OnEvent) -> Preflight:
        """Ask every relay which table it has. Raises when none answers, for there is nobody to publish to:
        Refused, AnswerBad or OutOfReach, the gravest of the nodes' reasons.
        """
        for node in self.fleet.nodes:
            on_event(Event(node, "status"))
        found = await preflight.look(self.fleet, self.pool, deadline_s=self._left_s(), on_event=on_event)
        if not found.serials:
            worst = exit_code(found.absent)
            first = next(outcome for outcome in found.absent if outcome.code == worst)
            raise _NO_ANSWER.get(worst, AnswerBad)(
                f"none of {len(found.absent)} relays answers; {first.node}: {first.state}: {first.reason}",
                hint="commcli health check",
            )
        return found

    def watch(self, seconds: float, call: Call | None) -> Watch:
        """Watches a canary by what its relay says over this change's connections."""

        async def facts(node: Node) -> Facts:
            return facts_of(await control.ask(await self.pool.connect(node), node, "status"))

        return Watch(facts, seconds=seconds, call=call)

    async def publish(
        self,
        table: Table,
        in_force: Table | None,
        found: Preflight,
        how: How,
        *,
        on_event: OnEvent,
    ) -> Rollout:
        """Sign, push and record.

        Raises Refused before anything is sent when the table is not fit to be.
        """
        with self.store.audited(self.command, how.reason, how.told) as audit:
            # In a thread: a signature may wait for an agent, or for a finger on a hardware key.
            package = await asyncio.to_thread(self._signed, table, found.highest)
            rollout = await self._roll_out(
                package,
                found.present(self.fleet),
                in_force,
                found,
                StoreJournal(self.store),
                how,
                on_event,
            )
            audit.update(result=rollout.state, **rollout.summary())
        return rollout

    async def resume(
        self,
        resumable: Resumable,
        in_force: Table | None,
        found: Preflight,
        how: How,
        *,
        on_event: OnEvent,
    ) -> Rollout:
        """Bring a table that is signed already to the nodes that lack it, and record it; as `publish`."""
        package, lacking = resumable.package, set(resumable.lacking)
        with self.store.audited(self.command, how.reason, how.told) as audit:
            if resumable.is_broken_off:
                # A node that has it already is the canary: it is only asked once more.
                nodes = sorted(found.present(self.fleet), key=lambda node: node.id in lacking)
                rollout = await self._roll_out(
                    package,
                    nodes,
                    in_force,
                    found,
                    StoreJournal(self.store, resumes=package.serial),
                    how,
                    on_event,
                )
            else:
                rollout = await self._catch_up(resumable, found, on_event)
            audit.update(result=rollout.state, **rollout.summary())
        return rollout

    async def _roll_out(
        self,
        package: Package,
        nodes: Sequence[Node],
        in_force: Table | None,
        found: Preflight,
        journal: StoreJournal,
        how: How,
        on_event: OnEvent,
    ) -> Rollout:
        return await publish(
            package,
            nodes,
            self._side,
            journal,
            back=None if in_force is None else lambda: self._back(in_force, package.serial + 1, found),
            canary=how.canary,
            watch=how.watch,
            holding=[node for node, serial in found.serials.items() if serial == package.serial],
            absent=found.absent,
            parallel=self.fleet.ssh.parallel,
            deadline_s=self._left_s(),
            on_event=on_event,
            detail={**how.told, "reason": how.reason},
        )

    async def _catch_up(self, resumable: Resumable, found: Preflight, on_event: OnEvent) -> Rollout:
        package = resumable.package
        rollout = await catch_up(
            package,
            [node for node in found.present(self.fleet) if node.id in resumable.lacking],
            self._side,
            absent=found.absent,
            parallel=self.fleet.ssh.parallel,
            deadline_s=self._left_s(),
            on_event=on_event,
        )
        nodes = {**resumable.detail.get("nodes", {}), **rollout.detail()["nodes"]}
        StoreJournal(self.store).settle(package.serial, rollout.state, {**resumable.detail, "nodes": nodes})
        return rollout

    def _back(self, former: Table, serial: int, found: Preflight) -> Package:
        """The former routes under a newer serial, as far as today's zones and drains still allow them."""
        rules = policy.of(self.fleet, draining=found.draining)
        lawful = tables.lawful_part(tables.under_policy(former, rules), rules)
        return self._signed(tables.under_serial(lawful, serial, int(self._clock())), serial - 1)

    def _signed(self, table: Table, highest_serial: int) -> Package:
        return prepare(table, self.fleet, self._sign, now_unix=self._clock(), highest_serial=highest_serial)

    def _sign(self, manifest: bytes) -> str:
        from commcli.remote.sshsig import sign

        signing = self.fleet.signing
        return sign(manifest, signing.key, signing.agent, tables.NAMESPACE, signers=signing.signers)

    def _left_s(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())
