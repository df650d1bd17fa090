"""A changing command at work on the fleet's table: look, then sign, push and record, over one set of
connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from commcli.errors import AnswerBad, OutOfReach, Refused
from commcli.fleet.model import Fleet
from commcli.remote.outcome import Event, OnEvent, exit_code
from commcli.routing import policy, preflight
from commcli.routing import table as tables
from commcli.routing.history import StoreJournal
from commcli.routing.preflight import Preflight
from commcli.routing.publish import Package, Rollout, SshNodes, prepare, publish
from commcli.routing.table import Table

if TYPE_CHECKING:
    from commcli.remote.ssh import Pool
    from commcli.store.sqlite import Store

_NO_ANSWER = {error.exit_code: error for error in (OutOfReach, Refused, AnswerBad)}


class Change:
    """`command` is its name in the audit; the caller holds the lock. `deadline_s` is for the whole of it."""

    def __init__(
        self,
        command: str,
        fleet: Fleet,
        store: Store,
        pool: Pool,
        *,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.command, self.fleet, self.store = command, fleet, store
        self._pool, self._clock = pool, clock
        self._until = None if deadline_s is None else time.monotonic() + deadline_s

    async def look(self, *, on_event: OnEvent) -> Preflight:
        """Ask every relay which table it has. Raises when none answers, for there is nobody to publish to:
        Refused, AnswerBad or OutOfReach, the gravest of the nodes' reasons.
        """
        for node in self.fleet.nodes:
            on_event(Event(node, "status"))
        found = await preflight.look(self.fleet, self._pool, deadline_s=self._left_s(), on_event=on_event)
        if not found.serials:
            worst = exit_code(found.absent)
            first = next(outcome for outcome in found.absent if outcome.code == worst)
            raise _NO_ANSWER.get(worst, AnswerBad)(
                f"none of {len(found.absent)} relays answers; {first.node}: {first.state}: {first.reason}",
                hint="commcli health check",
            )
        return found

    async def publish(
        self,
        table: Table,
        in_force: Table | None,
        found: Preflight,
        *,
        canary: str | None,
        reason: str | None,
        told: Mapping[str, Any],
        on_event: OnEvent,
    ) -> Rollout:
        """Sign, push and record; `told` is what the audit and the history are to remember beside the outcome.

        Raises Refused before anything is sent when the table is not fit to be.
        """
        with self.store.audited(self.command, reason, told) as audit:
            # In a thread: a signature may wait for an agent, or for a finger on a hardware key.
            package = await asyncio.to_thread(self._signed, table, found.highest)
            rollout = await publish(
                package,
                found.present(self.fleet),
                SshNodes(self._pool.connect),
                StoreJournal(self.store),
                back=None if in_force is None else lambda: self._back(in_force, table.serial + 1, found),
                canary=canary,
                absent=found.absent,
                parallel=self.fleet.ssh.parallel,
                deadline_s=self._left_s(),
                on_event=on_event,
                detail={**told, "reason": reason},
            )
            audit.update(result=rollout.state, **rollout.summary())
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
