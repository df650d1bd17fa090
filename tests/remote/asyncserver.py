"""A small SSH server in this process (asyncssh): plain shell commands, and bad days on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from tests.remote.sshd import Host, keygen


@dataclass
class Server:
    """A running server. `cut_after` closes the connection after so many bytes of output, `cut_after_lines` after so
    many lines, without an exit status.
    """

    host: Host
    cut_after: int | None = None
    cut_after_lines: int | None = None
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    tasks: list[asyncio.Task[None] | None] = field(default_factory=list)

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run the command as a child, as the lab's hosts do."""
        assert process.command is not None
        self.tasks.append(asyncio.current_task())
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(process.command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        feed = asyncio.create_task(_feed(process, child.stdin))
        await asyncio.gather(self._pump(process, child.stdout), _copy(child.stderr, process.stderr))
        status = await child.wait()
        process.exit(status if status >= 0 else 255)
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)

    async def gone(self) -> None:
        """Until what was begun here has ended."""
        await asyncio.gather(*filter(None, self.tasks), return_exceptions=True)
        self.tasks.clear()

    async def _pump(self, process: asyncssh.SSHServerProcess[bytes], stdout: asyncio.StreamReader) -> None:
        said = b""
        while data := await stdout.read(4096):
            end = self._cut(said + data)
            process.stdout.write(data if end is None else data[: end - len(said)])
            said += data
            if end is not None:
                self.connections[-1].close()
                self.cut_after = self.cut_after_lines = None
                await stdout.read()  # its child ends by itself when it sees the end of its stdin
                return

    def _cut(self, said: bytes) -> int | None:
        """After how many bytes of what was said the connection is to end, None if that is still to come."""
        if self.cut_after is not None and len(said) > self.cut_after:
            return self.cut_after
        lines = said.splitlines(keepends=True)
        if self.cut_after_lines is not None and said.count(b"\n") >= self.cut_after_lines:
            return len(b"".join(lines[: self.cut_after_lines]))
        return None


async def _feed(process: asyncssh.SSHServerProcess[bytes], stdin: asyncio.StreamWriter) -> None:
    try:
        while data := await process.stdin.read(65536):
            stdin.write(data)
            await stdin.drain()
    except (asyncssh.Error, OSError):
        pass  # gone: its child sees the end of its stdin all the same
    stdin.close()


async def _copy(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(4096):
        target.write(data)


def _prepared(folder: Path) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    keygen(folder / "host_key")
    keygen(folder / "id")
    return Server(Host(folder, 0))


@asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[Server]:
    """Serve on loopback until the body ends."""
    server = _prepared(folder)

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            server.connections.append(conn)

    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Login, server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "id.pub"), process_factory=server.handle, encoding=None,
    )  # fmt: skip
    server.host = Host(folder, listener.get_port())
    server.host.known_hosts.write_text(
        f"[127.0.0.1]:{listener.get_port()} {(folder / 'host_key.pub').read_text()}"
    )
    try:
        yield server
    finally:
        listener.close()
        for connection in server.connections:
            connection.abort()
        await asyncio.gather(*filter(None, server.tasks), return_exceptions=True)
        await listener.wait_closed()
