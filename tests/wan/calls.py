"""Probe calls between nodes of a WAN: commcli's own endpoints and judge, with namespaces where SSH would be."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from commcli.fleet.model import Node
from commcli.probe import call as probe_call
from commcli.remote.ssh import Completed, Connection, Pool, Process
from tests.probe import fleets
from tests.probe.local import LocalConnection, LocalProcess
from tests.wan.relays import TURN, Relays


class _Connection(LocalConnection):
    """Programs in a node's namespace; questions go to the node's relay itself."""

    def __init__(self, relays: Relays, node: str) -> None:
        super().__init__()
        self._relays, self._node = relays, node

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        word = next(word for word in argv if word in ("flows", "mesh", "status", "paths"))
        answer = await asyncio.to_thread(self._relays.ask, self._node, word)
        return Completed(0, json.dumps(answer).encode(), b"")

    async def start(self, command: str, *, timeout_s: float = 30.0) -> Process:
        pipe = asyncio.subprocess.PIPE
        argv = self._relays.wan.argv(self._node, ["sh", "-c", command])
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self.started.append(LocalProcess(process))
        return cast(Process, self.started[-1])


class _Pool:
    def __init__(self, relays: Relays) -> None:
        self.connections: dict[str, _Connection] = {}
        self._relays = relays

    async def connect(self, node: Node) -> Connection:
        if node.id not in self.connections:
            self.connections[node.id] = _Connection(self._relays, node.id)
        return self.connections[node.id].as_connection()

    async def end(self) -> None:
        for connection in self.connections.values():
            await connection.end()


async def call(relays: Relays, ask: probe_call.Ask, secret: Path) -> dict[str, Any]:
    """The document of `commcli probe call` between two of the relays' nodes; the endpoints run beside their relays.

    secret: a file with the relays' shared secret.
    """
    nodes = [
        fleets.node(node, address=relays.wan.nodes[node], port=TURN, python=sys.executable)
        for node in relays.nodes
    ]
    pool = _Pool(relays)
    try:
        return await probe_call.call(fleets.fleet(*nodes, secret=secret), cast(Pool, pool), ask)
    finally:
        await pool.end()
