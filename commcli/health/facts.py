"""What is known of a node, gathered over SSH in one exchange. A node out of reach is a value like any other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.outcome import OnEvent, Outcome
    from commcli.remote.ssh import Pool

# A node is looked at in a second or two even from the far side of the world.
NODE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The node's clock minus ours, surely within `offset_s` ± `uncertainty_s`."""

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True, slots=True)
class Disk:
    """Room in the file system of the relay's folder. `free_inodes` is None where they are made as needed."""

    free_bytes: int
    total_bytes: int
    free_inodes: int | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Mean length of the run queue over a minute, and the CPUs that serve it."""

    one_minute: float
    cpus: int


@dataclass(frozen=True, slots=True)
class Relay:
    """The relay's own word. `serial` is None without a table; a peer's RTT is None while it does not answer.

    `tls`: it is told to serve TLS; `tls_until_unix`, its certificate's end, is None if it has none that it can use.
    `tls_refused`, `reload_refused`: what is wrong with files that it was to take up, and goes on without.
    `upgrade_failed`: why the program that was to take its place did not.
    `ways`: by other edge the path in use (primary, backup, last_resort, straight), or dead. `loss`: 0..1 towards
    each neighbour that reports any. `send_keys`: by neighbour the id of the pair key in use. `carries`: does
    the table name the paths that it may carry packets along?
    """

    version: str
    uptime_s: float
    drain: bool = False
    allocations: int = 0
    serial: int | None = None
    expires_unix: float | None = None
    refused: str | None = None
    lag_p99_ms: float | None = None
    peers_rtt_ms: Mapping[str, float | None] = field(default_factory=dict)
    tls: bool = False
    tls_until_unix: float | None = None
    tls_refused: str | None = None
    reload_refused: str | None = None
    upgrade_failed: str | None = None
    ways: Mapping[str, str] = field(default_factory=dict)
    loss: Mapping[str, float] = field(default_factory=dict)
    send_keys: Mapping[str, str] = field(default_factory=dict)
    carries: bool | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One node as it was at `unix` (our clock). What could not be learned is None, and why stands in `errors`.

    `state`, `reason` and `code` are those of the exchange (remote.outcome); unless `state` is done, nothing else
    is known. `log` is the last line of the relay's log, `sessions` the capacity that the inventory states.
    """

    node: str
    state: str = "done"
    reason: str = ""
    code: int = 0
    unix: float = 0.0
    seconds: float = 0.0
    python: tuple[int, int] | None = None
    python_text: str = ""
    clock: Clock | None = None
    disk: Disk | None = None
    load: Load | None = None
    relay: Relay | None = None
    log: str = ""
    sessions: int | None = None
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """The node's clock as it read `node_unix`, and ours before the question and after the answer."""

    sent_unix: float
    node_unix: float
    received_unix: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node said of itself by `unix` (our clock), and its clock; None if it did not tell the time."""

    body: Mapping[str, Any]
    unix: float
    reading: Reading | None


def clock(reading: Reading) -> Clock:
    """Bounds on the offset: the node read its clock after we asked and before we heard of it.

    Half the round trip is the honest error: how the way there and back share it, nobody knows (RFC 5905 section 8).
    """
    highest = reading.node_unix - reading.sent_unix
    lowest = reading.node_unix - reading.received_unix
    return Clock((highest + lowest) / 2, max(0.0, (highest - lowest) / 2))


def read(node: Node, outcome: Outcome[Answer]) -> Facts:
    """The facts in one node's outcome. Raises nothing: what is missing in the answer is unknown, with a reason."""
    known: dict[str, Any] = {
        "node": node.id,
        "state": outcome.state,
        "reason": outcome.reason,
        "code": outcome.code,
        "seconds": outcome.seconds,
        "sessions": node.capacity.sessions,
    }
    if outcome.value is None:
        return Facts(**known)
    body = outcome.value.body
    values = {name: told["value"] for name, told in body.items() if isinstance(told, dict)}
    errors = {name: told["error"] for name, told in body.items() if isinstance(told, dict) and told["error"]}
    version = str(values.get("python") or "")
    return Facts(
        **known,
        unix=outcome.value.unix,
        python=_version(version),
        python_text=version,
        clock=None if outcome.value.reading is None else clock(outcome.value.reading),
        disk=Disk(**values["disk"]) if values.get("disk") else None,
        load=Load(**values["load"]) if values.get("load") else None,
        relay=_relay(values["relay"], values.get("keys") or {}) if values.get("relay") else None,
        log=values.get("log") or "",
        errors=errors,
    )


def _version(text: str) -> tuple[int, int] | None:
    words = text.split(".")
    return (
        (int(words[0]), int(words[1]))
        if len(words) > 1 and words[0].isdigit() and words[1].isdigit()
        else None
    )


def _relay(status: Mapping[str, Any], send_keys: Mapping[str, str]) -> Relay:
    table, tls = status["table"], status.get("tls")
    return Relay(
        version=status["version"],
        uptime_s=status["uptime_s"],
        drain=status["drain"],
        allocations=status["allocations"],
        serial=table["serial"],
        expires_unix=None
        if table["expires"] is None
        else datetime.fromisoformat(table["expires"]).timestamp(),
        refused=table["refused"],
        lag_p99_ms=status["loop_lag_ms"]["p99"],
        peers_rtt_ms={peer: told["rtt_ms"] for peer, told in status["peers"].items()},
        tls=tls is not None,
        tls_until_unix=None if tls is None else tls.get("not_after_unix"),
        tls_refused=None if tls is None else tls.get("refused"),
        reload_refused=(status.get("reload") or {}).get("error"),
        upgrade_failed=((status.get("upgrade") or {}).get("last_failed") or {}).get("reason"),
        send_keys=send_keys,
        **_overlay(status.get("overlay") or {}),
    )


def _overlay(told: Mapping[str, Any]) -> dict[str, Any]:
    losses = {peer: (row.get("out") or {}).get("loss") for peer, row in (told.get("segments") or {}).items()}
    return {
        "ways": {egress: _way(row) for egress, row in (told.get("paths") or {}).items()},
        "loss": {peer: loss for peer, loss in losses.items() if loss is not None},
        "carries": told.get("carries"),
    }


def _way(row: Mapping[str, Any]) -> str:
    if row["straight"]:
        return "straight"
    return str(row["state"] if row["state"] == "dead" else row["active"])


async def gather(
    fleet: Fleet,
    nodes: Sequence[Node],
    pool: Pool,
    *,
    node_timeout_s: float = NODE_TIMEOUT_S,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
) -> list[Facts]:
    """Look at every node, in the order of `nodes`; those out of reach are among the answers."""
    from commcli.remote.bundle import bundle_of
    from commcli.remote.outcome import each

    streamed = bundle_of("commcli.health.onnode")

    async def one(node: Node) -> Answer:
        return await _ask(node, pool, streamed)

    outcomes = await each(
        nodes,
        one,
        parallel=fleet.ssh.parallel,
        deadline_s=deadline_s,
        node_timeout_s=node_timeout_s,
        on_event=on_event,
    )
    return [read(node, outcome) for node, outcome in zip(nodes, outcomes, strict=True)]


async def _ask(node: Node, pool: Pool, streamed: bytes) -> Answer:
    from commcli.remote.outcome import Failed
    from commcli.remote.program import Program

    connection = await pool.connect(node)
    async with await Program.start(
        connection, node.ssh.python, streamed, "commcli.health.onnode:main", {"base": node.base}
    ) as program:
        body = await program.receive()
        if not isinstance(body, dict):
            raise Failed("the node looked at itself and said nothing")
        received_unix = sent_unix = time.time()
        await program.send("clock")
        told = await program.receive()
    reading = None if told is None else Reading(sent_unix, float(told["unix"]), time.time())
    return Answer(body, received_unix, reading)
