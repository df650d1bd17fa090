"""Programs on this machine instead of over SSH: what `Program.start` needs of a connection, with a local shell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import cast

from commcli.fleet.model import Node
from commcli.remote.outcome import Unreachable
from commcli.remote.ssh import Completed, Connection, Pool, Process


class LocalProcess:
    """Looks like ssh.Process; `close` hangs up, as a lost connection would."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def drain(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.drain()

    def write_eof(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def read(self, size: int = 65536) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.read(size)

    async def read_error(self, size: int = 65536) -> bytes:
        assert self.process.stderr is not None
        return await self.process.stderr.read(size)

    async def wait(self) -> int | None:
        return await self.process.wait()

    def close(self) -> None:
        self.write_eof()


class LocalConnection:
    """Looks like ssh.Connection. `end` checks that nothing it started is left."""

    def __init__(self, answers: Mapping[str, object] | None = None) -> None:
        self.started: list[LocalProcess] = []
        self.asked: list[str] = []
        self._answers = {"flows": {"flows": []}} if answers is None else answers

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        """The relay's control socket: the answer to whichever word is among the arguments."""
        word = next(word for word in argv if word in ("flows", "mesh", "status", "paths"))
        self.asked.append(argv[argv.index(word) + 1])
        return Completed(
            0, json.dumps({"ok": True, **cast(dict[str, object], self._answers[word])}).encode(), b""
        )

    async def start(self, command: str, *, timeout_s: float = 30.0) -> Process:
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(LocalProcess(process))
        return cast(Process, self.started[-1])

    async def end(self) -> None:
        for local in self.started:
            local.close()
            try:
                await asyncio.wait_for(local.process.communicate(), 10)
            except TimeoutError:
                local.process.kill()
                raise AssertionError("a program outlived the end of its stdin") from None

    def as_connection(self) -> Connection:
        return cast(Connection, self)


class LocalPool:
    """Looks like ssh.Pool: every node is this machine.

    `answers` is what each node's relay says (node -> command -> answer); None is a node out of reach.
    """

    def __init__(self, answers: Mapping[str, Mapping[str, object] | None] | None = None) -> None:
        self.connections: dict[str, LocalConnection] = {}
        self._answers = answers or {}

    async def connect(self, node: Node) -> Connection:
        if node.id not in self.connections:
            answers = self._answers.get(node.id, {"flows": {"flows": []}})
            if answers is None:
                raise Unreachable("connection refused")
            self.connections[node.id] = LocalConnection(answers)
        return self.connections[node.id].as_connection()

    def as_pool(self) -> Pool:
        return cast(Pool, self)

    async def end(self) -> None:
        for connection in self.connections.values():
            await connection.end()
