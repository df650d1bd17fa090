"""Sign a table, push it canary first and then in waves, believe only what each relay says it has loaded.

Intent is recorded before the first push and the outcome after the last, so that a killed commcli leaves a
table whose rollout can be seen to be unfinished; mixed serials are harmless (every packet carries its whole
path), and the next `apply` simply goes on to a newer serial.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from commcli.errors import Refused, RolledBack
from commcli.fleet.model import Fleet, Node
from commcli.relay.table import signature as signatures
from commcli.remote.outcome import Event, Failed, Lost, OnEvent, Outcome, Unreachable, each, exit_code
from commcli.routing import table as tables
from commcli.routing.table import Table

if TYPE_CHECKING:
    from commcli.remote.ssh import Connection

State = Literal["published", "partial", "rolled-back", "unreached"]
Sign = Callable[[bytes], str]

# The relay verifies with a child process; on a loaded node that takes its time.
VERDICT_S = 10.0
NODE_TIMEOUT_S = 60.0
# The second wave is a third of the fleet, so that whatever the canary did not show stops early.
WAVES = 3


@dataclass(frozen=True, slots=True)
class Package:
    """A signed table, ready for its nodes."""

    serial: int
    manifest: bytes
    signature: str
    shards: Mapping[str, bytes]

    def files(self, node: str) -> dict[str, str]:
        """What lies in `table/<serial>/` on a node. Raises KeyError for a node that the table does not know."""
        return {
            "manifest.json": self.manifest.decode(),
            "manifest.json.sig": self.signature,
            "shard.json": self.shards[node].decode(),
        }


class NodeSide(Protocol):
    """The far end of a push: SSH in the product, a dictionary in tests."""

    async def install(self, node: Node, package: Package) -> int:
        """Put the package in force; the serial that the relay says it has loaded.

        Raises Refused (the relay said no and keeps its table), Failed (the node could not), Unreachable
        (nothing happened), Lost or TimedOut (it may have happened).
        """
        ...


class Journal(Protocol):
    """Where intent and outcome are kept; they must be on the disk when a method returns."""

    def intend(self, package: Package, detail: Mapping[str, Any]) -> None: ...

    def settle(self, serial: int, status: str, detail: Mapping[str, Any]) -> None: ...


@dataclass(slots=True)
class Rollout:
    """How a publication went. `outcomes` in the order of the push; nodes in neither list were never asked.
    `absent` are those that the caller had found out of reach or without a relay, and that were not pushed to.

    `stopped` says why it was, empty if it was not. `back` is the serial of the rollback, None if none was
    needed.
    """

    serial: int
    state: State = "published"
    canary: str | None = None
    outcomes: list[Outcome[int]] = field(default_factory=list)
    absent: list[Outcome[int]] = field(default_factory=list)
    stopped: str = ""
    back: int | None = None
    back_outcomes: list[Outcome[int]] = field(default_factory=list)

    @property
    def all(self) -> list[Outcome[int]]:
        """Every node that there is a word on."""
        return [*self.outcomes, *self.absent]

    @property
    def exit_code(self) -> int:
        """DESIGN's: 6 when it was rolled back, otherwise the gravest of the nodes'."""
        return RolledBack.exit_code if self.state == "rolled-back" else exit_code(self.all)

    def summary(self) -> dict[str, Any]:
        """For the audit: how many confirmed, and what became of those that did not."""
        trouble = {o.node: f"{o.state}: {o.reason}" for o in self.all if o.state != "done"}
        return {
            "confirmed": len(self.all) - len(trouble),
            "canary": self.canary,
            "trouble": trouble,
            "rollback_serial": self.back,
        }

    def detail(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {
            "canary": self.canary,
            "stopped": self.stopped,
            "rollback_serial": self.back,
            "nodes": {o.node: {"state": o.state, "serial": o.value, "reason": o.reason} for o in self.all},
        }


def prepare(table: Table, fleet: Fleet, sign: Sign, *, now_unix: float, highest_serial: int) -> Package:
    """Encode, put every shard before the relay's own judge, sign, and verify as a node would.

    Raises Refused: a zone, a loop, a serial that does not grow, or a key that is not among the allowed
    signers.
    """
    if table.serial <= highest_serial:
        raise Refused(f"table serial {table.serial} is not above {highest_serial}")
    encoded = tables.encode(table)
    tables.check(encoded, now_unix=now_unix, highest_serial=highest_serial)
    package = Package(table.serial, encoded.manifest, sign(encoded.manifest), encoded.shards)
    _verify(package, fleet)
    return package


def _verify(package: Package, fleet: Fleet) -> None:
    """Better refused here than on every node."""
    with tempfile.TemporaryDirectory(prefix="commcli-") as folder:
        manifest, signature = Path(folder) / "manifest.json", Path(folder) / "manifest.json.sig"
        manifest.write_bytes(package.manifest)
        signature.write_text(package.signature)
        try:
            signatures.verify(manifest, signature, fleet.signing.signers, fleet.signing.principal)
        except signatures.SignatureRefused as refusal:
            raise Refused(
                f"table {package.serial} refused before any push: {refusal}",
                hint=f"Is the signing key in {fleet.signing.signers}?",
            ) from None


async def publish(
    package: Package,
    nodes: Sequence[Node],
    side: NodeSide,
    journal: Journal,
    *,
    back: Callable[[], Package] | None,
    canary: str | None = None,
    absent: Sequence[Outcome[int]] = (),
    parallel: int = 100,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Rollout:
    """Push to the canary, then in waves. A node that refuses or fails stops the rollout, and what was touched
    goes back to `back()`, the former routes under a newer serial (None: there is no former table).

    Nodes out of reach are reported and do not stop it. Without `canary` the first node that can be reached is
    it; a named canary that is out of reach ends the rollout before it began (state "unreached").
    """
    rollout = Rollout(package.serial, absent=list(absent))
    intent = dict(detail or {})
    journal.intend(package, intent)
    push = _Push(side, parallel, deadline_s, on_event)
    try:
        await _canary(rollout, package, nodes, push, canary)
        if rollout.canary is not None and not rollout.stopped:
            await _waves(rollout, package, nodes, push)
    except BaseException:
        journal.settle(package.serial, "interrupted", {**intent, **rollout.detail()})
        raise
    if rollout.stopped:
        await _go_back(rollout, nodes, push, journal, back)
    elif rollout.canary is None:
        rollout.state = "unreached"
    elif any(outcome.state != "done" for outcome in rollout.all):
        rollout.state = "partial"
    journal.settle(package.serial, rollout.state, {**intent, **rollout.detail()})
    return rollout


class _Push:
    """One package to some nodes at once, within the run's deadline."""

    def __init__(
        self, side: NodeSide, parallel: int, deadline_s: float | None, on_event: OnEvent | None
    ) -> None:
        self.side, self.parallel, self.on_event = side, parallel, on_event
        self.until = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s

    async def to(
        self, nodes: Sequence[Node], package: Package, *, urgent: bool = False
    ) -> list[Outcome[int]]:
        """Outcomes in the order of `nodes`. An `urgent` push (a rollback) is not held to the run's deadline."""
        left_s = None
        if self.until is not None and not urgent:
            left_s = max(0.0, self.until - asyncio.get_running_loop().time())
        return await each(
            nodes,
            lambda node: self._one(node, package),
            parallel=self.parallel,
            deadline_s=left_s,
            node_timeout_s=NODE_TIMEOUT_S,
            on_event=self.on_event,
        )

    async def _one(self, node: Node, package: Package) -> int:
        if self.on_event is not None:
            self.on_event(Event(node.id, f"table {package.serial}"))
        try:
            serial = await self.side.install(node, package)
        except Lost:
            # It may have happened, and is safe to repeat: the second answer settles it.
            serial = await self.side.install(node, package)
        if serial != package.serial:
            raise Failed(f"the relay says serial {serial}, not {package.serial}")
        return serial


async def _canary(
    rollout: Rollout, package: Package, nodes: Sequence[Node], push: _Push, wanted: str | None
) -> None:
    for node in nodes:
        if wanted is not None and node.id != wanted:
            continue
        outcome = (await push.to([node], package))[0]
        rollout.outcomes.append(outcome)
        if outcome.state == "done":
            rollout.canary = node.id
            return
        if _stops(outcome):
            rollout.stopped = f"canary {node.id}: {outcome.state}: {outcome.reason}"
            return


async def _waves(rollout: Rollout, package: Package, nodes: Sequence[Node], push: _Push) -> None:
    asked = {outcome.node for outcome in rollout.outcomes}
    rest = [node for node in nodes if node.id not in asked]
    size = max(1, -(-len(rest) // WAVES))
    for start in range(0, len(rest), size):
        outcomes = await push.to(rest[start : start + size], package)
        rollout.outcomes += outcomes
        bad = [outcome for outcome in outcomes if _stops(outcome)]
        if bad:
            rollout.stopped = "; ".join(f"{o.node}: {o.state}: {o.reason}" for o in bad)
            return


def _stops(outcome: Outcome[int]) -> bool:
    """Out of reach is a fact about the network; a node that answers and does not load the table is about the
    table.
    """
    return outcome.state in ("refused", "failed")


async def _go_back(
    rollout: Rollout,
    nodes: Sequence[Node],
    push: _Push,
    journal: Journal,
    back: Callable[[], Package] | None,
) -> None:
    """Bring every node that has, or may have, the new table back to the former routes.

    A node that refused keeps what it had, and one that was unreachable never heard of it.
    """
    rollout.state = "rolled-back"
    doubtful = {o.node for o in rollout.outcomes if o.state not in ("refused", "unreachable")}
    touched = [node for node in nodes if node.id in doubtful]
    if not touched or back is None:
        return
    # In a thread: a signature may wait for an agent, or for a finger on a hardware key.
    package = await asyncio.to_thread(back)
    journal.intend(package, {"rollback_of": rollout.serial})
    rollout.back = package.serial
    rollout.back_outcomes = await push.to(touched, package, urgent=True)
    whole = all(outcome.state == "done" for outcome in rollout.back_outcomes)
    state = {o.node: {"state": o.state, "serial": o.value, "reason": o.reason} for o in rollout.back_outcomes}
    status = "published" if whole else "partial"
    journal.settle(package.serial, status, {"rollback_of": rollout.serial, "nodes": state})


class SshNodes:
    """The node side over SSH: one streamed program a node writes, switches, reloads and reads the verdict."""

    def __init__(self, connect: Callable[[Node], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._bundle: bytes | None = None

    async def install(self, node: Node, package: Package) -> int:
        """See NodeSide."""
        from commcli.remote.program import Program, bundle, source_of

        if self._bundle is None:
            names = ("commcli.routing.onnode", "commcli.relay.process.control", "commcli.relay.loop")
            self._bundle = bundle({name: source_of(name) for name in names})
        argument = {
            "base": node.base,
            "serial": package.serial,
            "files": package.files(node.id),
            "wait_s": VERDICT_S,
        }
        connection = await self._connect(node)
        program = await Program.start(
            connection, node.ssh.python, self._bundle, "commcli.routing.onnode:main", argument
        )
        async with program:
            answer = await program.receive()
        if answer is None:
            raise Lost("the node ended without a verdict on the table")
        return _confirmed(answer)


def _confirmed(answer: Mapping[str, Any]) -> int:
    """The serial in an answer of routing/onnode.py, or what it stands for as an error."""
    if answer["state"] == "confirmed":
        return int(answer["serial"])
    reason = str(answer["reason"])
    if answer["state"] == "refused":
        raise Refused(f"relay refused the table: {reason}")
    if answer["state"] == "down":
        raise Unreachable(reason)
    raise Failed(reason)
