"""Programs on this machine instead of over SSH: what `Program.start` needs of a connection, with a local shell."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

from commcli.remote.ssh import Connection, Process


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
    """Looks like ssh.Connection. `end` makes sure that nothing it started is left."""

    def __init__(self) -> None:
        self.started: list[LocalProcess] = []

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
            if local.process.returncode is None:
                os.killpg(local.process.pid, signal.SIGKILL)
            await local.process.communicate()

    def as_connection(self) -> Connection:
        return cast(Connection, self)
