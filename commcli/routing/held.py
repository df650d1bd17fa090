"""What each relay says that it holds: its table's serial, and the very files, by one streamed program a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commcli.fleet.model import Fleet, Node
from commcli.relay.table.shard import SHARED
from commcli.remote.outcome import Event, Failed, Lost, OnEvent, Outcome, each
from commcli.routing.table import Encoded, sha256

if TYPE_CHECKING:
    from commcli.remote.ssh import Connection, Pool

NODE_TIMEOUT_S = 60.0
MOST_SERIAL = 2**63


@dataclass(frozen=True, slots=True)
class Held:
    """One relay's word. `serial` None: it has no table; `refused` is what it said of the last one that it did not take.

    `manifest`, `shard` and `shared` (b"": schema 1) are what it has in force, None where there is none or it is not to
    be found (`missing`).
    """

    node: str
    serial: int | None
    refused: str | None = None
    manifest: bytes | None = None
    shard: bytes | None = None
    missing: str = ""
    shared: bytes = b""


async def gather(
    fleet: Fleet,
    nodes: Sequence[Node],
    pool: Pool,
    expected: Encoded | None,
    *,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
) -> list[Outcome[Held]]:
    """Ask every relay, one round trip a node; outcomes in the order of `nodes`. Of the files of the `expected` table,
    which we have ourselves, only the digests come back.
    """
    from commcli.remote.bundle import bundle_of

    program = bundle_of("commcli.routing.onnode_held")

    async def one(node: Node) -> Held:
        if on_event is not None:
            on_event(Event(node.id, "asking for its table"))
        return await ask(await pool.connect(node), node, program, _known(expected, node.id))

    return await each(
        nodes,
        one,
        parallel=fleet.ssh.parallel,
        deadline_s=deadline_s,
        node_timeout_s=NODE_TIMEOUT_S,
        on_event=on_event,
    )


def _known(expected: Encoded | None, node: str) -> dict[str, bytes]:
    if expected is None:
        return {}
    files = (expected.manifest, expected.shards.get(SHARED), expected.shards.get(node))
    return {sha256(data): data for data in files if data is not None}


async def ask(connection: Connection, node: Node, program: bytes, known: Mapping[str, bytes]) -> Held:
    """One node's answer; `program` is the bundle, `known` files ({sha256: content}) that need not be sent.

    Raises Failed (no relay there, no python), Unreachable, Lost or TimedOut.
    """
    from commcli.remote.program import Program

    argument = {"base": node.base, "known": sorted(known)}
    entry = "commcli.routing.onnode_held:main"
    async with await Program.start(connection, node.ssh.python, program, entry, argument) as running:
        answer = await running.receive()
    if answer is None:
        raise Lost("the node ended without an answer")
    return read(node.id, answer, known)


def read(node: str, answer: Mapping[str, Any], known: Mapping[str, bytes]) -> Held:
    """An answer of routing/onnode_held.py. Raises Failed where no relay answers, or in another shape."""
    if answer.get("state") == "down":
        raise Failed(str(answer.get("reason")))
    try:
        return _held(node, answer, known)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Failed(f"node {node}: its word on its table is of another shape") from None


def _held(node: str, answer: Mapping[str, Any], known: Mapping[str, bytes]) -> Held:
    """Raises KeyError, TypeError, ValueError or AttributeError for another shape."""
    serial, refused, files = answer["serial"], answer["refused"], answer["files"]
    if serial is not None and (type(serial) is not int or not 0 < serial < MOST_SERIAL):
        raise ValueError(serial)
    said = None if refused is None else str(refused)
    if files is None:
        return Held(node, serial, said, missing=str(answer["reason"]))
    found = {
        name: known[row["sha256"]] if row["text"] is None else row["text"].encode()
        for name, row in files.items()
    }
    manifest, shard, shared = found["manifest.json"], found["shard.json"], found.get("shared.json", b"")
    return Held(node, serial, said, manifest, shard, shared=shared)
