"""Sign a table, push it canary first and then in waves, believe only what each relay says it has loaded.

Intent is recorded before the first push and the outcome after the last, so that a killed commcli leaves a
table whose rollout can be seen to be unfinished; mixed serials are harmless (every packet carries its whole
path), and the next `apply` finishes it, or goes on to a newer serial (`resume`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from commcli.errors import CommcliError, Refused, RolledBack
from commcli.fleet.model import Fleet, Node
from commcli.relay.table import signature as signatures
from commcli.relay.table.shard import SHARED
from commcli.remote.outcome import Event, Failed, Lost, OnEvent, Outcome, Unreachable, each, exit_code
from commcli.routing import table as tables
from commcli.routing.canary import Facts
from commcli.routing.table import Table
from commcli.routing.watch import Watch

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
        shared = self.shards.get(SHARED)  # one that an older commcli has signed has none
        return {
            "manifest.json": self.manifest.decode(),
            "manifest.json.sig": self.signature,
            **({} if shared is None else {"shared.json": shared.decode()}),
            "shard.json": self.shards[node].decode(),
        }


class NodeSide(Protocol):
    """The far end of a push: SSH in the product, a dictionary in tests."""

    async def stage(self, node: Node, package: Package) -> int:
        """Have the relay hold the package ready, and carry its paths from then on; its serial.

        Raises as `install`. A relay of before there was such a thing is left as it is.
        """
        ...

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
    """How a publication went. `outcomes` in the order of the push; nodes in no list were never asked.
    `absent` are those that the caller had found out of reach or without a relay, and that were not pushed to;
    `unstaged` those that did not take it when it was handed out, before it was in force anywhere.

    `watched` says what was seen of the canary's calls, `stopped` why it was stopped; empty: nothing, and it was not.
    `back` is the serial of the rollback, None if none was needed.
    """

    serial: int
    state: State = "published"
    canary: str | None = None
    outcomes: list[Outcome[int]] = field(default_factory=list)
    absent: list[Outcome[int]] = field(default_factory=list)
    unstaged: list[Outcome[int]] = field(default_factory=list)
    watched: str = ""
    stopped: str = ""
    back: int | None = None
    back_outcomes: list[Outcome[int]] = field(default_factory=list)

    @property
    def all(self) -> list[Outcome[int]]:
        """Every node that there is a word on."""
        return [*self.outcomes, *self.unstaged, *self.absent]

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
            "watched": self.watched,
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
    verify(package, fleet)
    return package


def verify(package: Package, fleet: Fleet) -> None:
    """Verify as a node would: better refused here than on every one. Raises Refused."""
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
    watch: Watch | None = None,
    holding: Collection[str] = (),
    absent: Sequence[Outcome[int]] = (),
    parallel: int = 100,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Rollout:
    """Hand the table to every node, have the canary go by it and `watch` its calls, then the others in waves. So a node
    that goes by it is never alone with it: all others carry its paths already.

    A node that refuses or fails, or a canary whose calls suffer, stops the rollout, and where the table was in force it
    goes back to `back()`, the former routes under a newer serial (None: there is no former table). `holding` are nodes
    that have the table from a rollout that was broken off: they go back too.

    Nodes out of reach are reported and do not stop it. Without `canary` the first node that can be reached is
    it; a named canary that is out of reach ends the rollout before it began (state "unreached").
    """
    rollout = Rollout(package.serial, absent=list(absent))
    intent = dict(detail or {})
    journal.intend(package, intent)
    push = _Push(side, parallel, deadline_s, on_event)
    try:
        ready = await _stage(rollout, package, nodes, push, canary)
        if not rollout.stopped:
            await _canary(rollout, package, ready, push, canary, watch)
        if rollout.canary is not None and not rollout.stopped:
            await _waves(rollout, package, ready, push)
    except BaseException:
        journal.settle(package.serial, "interrupted", {**intent, **rollout.detail()})
        raise
    if rollout.stopped:
        await _go_back(rollout, nodes, push, journal, back, holding)
    elif rollout.canary is None:
        rollout.state = "unreached"
    elif any(outcome.state != "done" for outcome in rollout.all):
        rollout.state = "partial"
    journal.settle(package.serial, rollout.state, {**intent, **rollout.detail()})
    return rollout


async def catch_up(
    package: Package,
    nodes: Sequence[Node],
    side: NodeSide,
    *,
    absent: Sequence[Outcome[int]] = (),
    parallel: int = 100,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
) -> Rollout:
    """Push a table that is in force to the nodes that lack it. A node that does not take it is told, and nothing is
    taken back: everybody else has it.
    """
    push = _Push(side, parallel, deadline_s, on_event)
    rollout = Rollout(package.serial, outcomes=await push.to(nodes, package), absent=list(absent))
    if any(outcome.state != "done" for outcome in rollout.all):
        rollout.state = "partial"
    return rollout


class _Push:
    """One package to some nodes at once, within the run's deadline."""

    def __init__(
        self, side: NodeSide, parallel: int, deadline_s: float | None, on_event: OnEvent | None
    ) -> None:
        self.side, self.parallel, self.on_event = side, parallel, on_event
        self.until = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s

    @property
    def left_s(self) -> float | None:
        """Until the run's deadline; None: there is none."""
        return None if self.until is None else max(0.0, self.until - asyncio.get_running_loop().time())

    async def stage(self, nodes: Sequence[Node], package: Package) -> list[Outcome[int]]:
        """Outcomes in the order of `nodes`."""
        return await self._each(nodes, package, self.side.stage, f"table {package.serial}: hand over")

    async def to(
        self, nodes: Sequence[Node], package: Package, *, urgent: bool = False
    ) -> list[Outcome[int]]:
        """Outcomes in the order of `nodes`. An `urgent` push (a rollback) is not held to the run's deadline."""
        return await self._each(nodes, package, self._install, f"table {package.serial}", urgent=urgent)

    async def _each(
        self,
        nodes: Sequence[Node],
        package: Package,
        do: Callable[[Node, Package], Awaitable[int]],
        words: str,
        *,
        urgent: bool = False,
    ) -> list[Outcome[int]]:
        async def one(node: Node) -> int:
            if self.on_event is not None:
                self.on_event(Event(node.id, words))
            try:
                return await do(node, package)
            except Lost:
                # It may have happened, and is safe to repeat: the second answer settles it.
                return await do(node, package)

        return await each(
            nodes,
            one,
            parallel=self.parallel,
            deadline_s=None if urgent else self.left_s,
            node_timeout_s=NODE_TIMEOUT_S,
            on_event=self.on_event,
        )

    async def _install(self, node: Node, package: Package) -> int:
        serial = await self.side.install(node, package)
        if serial != package.serial:
            raise Failed(f"the relay says serial {serial}, not {package.serial}")
        return serial


async def _stage(
    rollout: Rollout, package: Package, nodes: Sequence[Node], push: _Push, canary: str | None
) -> list[Node]:
    """The nodes that took it, in their order.

    One node alone first, the canary where it is named: were it a table that no relay survives, that is one relay.
    """
    waiting = [node for node in nodes if canary in (None, node.id)]
    ready: list[Node] = []
    while waiting and not ready:
        ready += await _handed(rollout, package, [waiting.pop(0)], push)
        if rollout.stopped:
            return []
    if ready:
        asked = {node.id for node in ready} | {outcome.node for outcome in rollout.unstaged}
        ready += await _handed(rollout, package, [node for node in nodes if node.id not in asked], push)
    return ready


async def _handed(rollout: Rollout, package: Package, nodes: Sequence[Node], push: _Push) -> list[Node]:
    outcomes = await push.stage(nodes, package)
    rollout.unstaged += [outcome for outcome in outcomes if outcome.state != "done"]
    rollout.stopped = _told(outcome for outcome in outcomes if _stops(outcome))
    return [node for node, outcome in zip(nodes, outcomes, strict=True) if outcome.state == "done"]


async def _canary(
    rollout: Rollout,
    package: Package,
    nodes: Sequence[Node],
    push: _Push,
    wanted: str | None,
    watch: Watch | None,
) -> None:
    for node in nodes:
        if wanted is not None and node.id != wanted:
            continue
        before = None if watch is None else await watch.before(node)
        outcome = (await push.to([node], package))[0]
        rollout.outcomes.append(outcome)
        if _stops(outcome):
            rollout.stopped = f"canary {node.id}: {outcome.state}: {outcome.reason}"
            return
        if outcome.state == "done":
            rollout.canary = node.id
            if watch is not None:
                await _watched(rollout, node, watch, before, push)
            return


async def _watched(rollout: Rollout, node: Node, watch: Watch, before: Facts | None, push: _Push) -> None:
    seen = await watch.after(node, rollout.serial, before, most_s=push.left_s, on_event=push.on_event)
    rollout.watched = seen.words
    if seen.is_bad:
        rollout.stopped = f"canary {node.id}: {seen.words}"
    if push.on_event is not None:
        push.on_event(Event(node.id, seen.words, "failed" if seen.is_bad else "done"))


async def _waves(rollout: Rollout, package: Package, nodes: Sequence[Node], push: _Push) -> None:
    asked = {outcome.node for outcome in rollout.outcomes}
    rest = [node for node in nodes if node.id not in asked]
    size = max(1, -(-len(rest) // WAVES))
    for start in range(0, len(rest), size):
        outcomes = await push.to(rest[start : start + size], package)
        rollout.outcomes += outcomes
        rollout.stopped = _told(outcome for outcome in outcomes if _stops(outcome))
        if rollout.stopped:
            return


def _told(outcomes: Iterable[Outcome[int]]) -> str:
    return "; ".join(f"{o.node}: {o.state}: {o.reason}" for o in outcomes)


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
    holding: Collection[str],
) -> None:
    """Bring every node that has, or may have, the new table back to the former routes.

    A node that refused keeps what it had, and one that was unreachable never heard of it.
    """
    rollout.state = "rolled-back"
    doubtful = {o.node for o in rollout.outcomes if o.state not in ("refused", "unreachable")} | set(holding)
    touched = [node for node in nodes if node.id in doubtful]
    if not touched or back is None:
        return
    # In a thread: a signature may wait for an agent, or for a finger on a hardware key.
    try:
        package = await asyncio.to_thread(back)
    except CommcliError as error:
        rollout.stopped += f"; the way back can not be signed: {error}"
        return
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
        self._staged: set[tuple[str, int]] = set()

    async def stage(self, node: Node, package: Package) -> int:
        """See NodeSide."""
        answer = await self._push("stage", node, package, package.files(node.id))
        if answer["state"] == "older":
            return package.serial
        _confirmed(answer)
        self._staged.add((node.id, package.serial))
        return package.serial

    async def install(self, node: Node, package: Package) -> int:
        """See NodeSide. What was staged is not sent once more."""
        files = package.files(node.id)
        if (node.id, package.serial) in self._staged:
            answer = await self._push("install", node, package, None)
            if answer["state"] != "unstaged":
                return _confirmed(answer)
        return _confirmed(await self._push("install", node, package, files))

    async def _push(
        self, do: str, node: Node, package: Package, files: Mapping[str, str] | None
    ) -> Mapping[str, Any]:
        from commcli.remote.bundle import bundle_of
        from commcli.remote.program import Program

        module = "commcli.routing.onnode"
        argument = {
            "base": node.base,
            "do": do,
            "serial": package.serial,
            "files": files,
            "manifest": tables.sha256(package.manifest),
            "wait_s": VERDICT_S,
        }
        connection = await self._connect(node)
        program = await Program.start(
            connection, node.ssh.python, bundle_of(module), f"{module}:main", argument
        )
        async with program:
            answer = await program.receive()
        if answer is None:
            raise Lost("the node ended without a verdict on the table")
        return dict(answer)


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
