"""The lab's fake hosts: one background process with an SSH server a node, each with its own root folder.

What they run is real: `/bin/sh -c COMMAND` as a process group of its own, with the node's root as HOME and
working folder. The group ends with its channel, as on a host whose sshd cleans up; what has daemonised
itself (the relay's supervisor) lives on. Only the operator's public key is let in.

Started by `lab up` as `python -m commcli.lab.hosts FOLDER READY_FD`; it writes "ready", or what is wrong,
to the descriptor. It answers JSON lines on the Unix socket `lab.sock`: {"cmd": "status" | "kill" | "start",
"node": id}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

from commcli.lab import processes
from commcli.lab.folder import USER, LabFolder, Place, Record

log = logging.getLogger("commcli.lab")

_CHUNK = 65536
_TERM_GRACE_S = 5.0
_LOGIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Door(asyncssh.SSHServer):
    """Lets in one user by public key, and keeps count of the connections so that a dead node can drop them."""

    def __init__(self, operator: asyncssh.SSHKey, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._operator = operator
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key.public_data == self._operator.public_data


class Host:
    """One node: its SSH server, its sessions, its death and its boot."""

    def __init__(self, place: Place, folder: LabFolder, ssh_port: int) -> None:
        self.place = place
        self.folder = folder
        self.ssh_port = ssh_port
        self._listener: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._sessions: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        return self._listener is not None

    @property
    def root(self) -> Path:
        return self.folder.root(self.place.node)

    def environment(self) -> dict[str, str]:
        """What a login gets: nothing of our own environment, and the lab's marker."""
        login = {
            "HOME": str(self.root), "USER": USER, "LOGNAME": USER, "SHELL": "/bin/sh", "LANG": "C.UTF-8",
            "PATH": _LOGIN_PATH,
        }  # fmt: skip
        return processes.environment(self.folder.path, self.place.node, login)

    async def listen(self) -> None:
        """Open the SSH port. OSError when it is in use."""
        if self._listener is None:
            operator = asyncssh.read_public_key(str(self.folder.keys / "operator.pub"))
            self._listener = await asyncssh.listen(
                self.place.address, self.ssh_port,
                server_factory=lambda: _Door(operator, self._connections),
                server_host_keys=[str(self.folder.host_key(self.place.node))],
                process_factory=self._begin, encoding=None,
                password_auth=False, kbdint_auth=False, gss_host=None, x11_forwarding=False,
                agent_forwarding=False, allow_pty=False, line_editor=False, login_timeout=20,
            )  # fmt: skip

    async def kill(self) -> int:
        """As if the machine lost its power: no more SSH, every process of the node gone. How many
        processes.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.abort()
        count = len(processes.find(self.folder.path, self.place.node))
        await asyncio.to_thread(processes.end, self.folder.path, self.place.node, grace_s=0)
        return count

    async def start(self) -> str:
        """Power on: SSH again, and what the machine does at boot. Says what it did about the relay."""
        await self.listen()
        return await self._boot()

    async def _boot(self) -> str:
        base = self.folder.base(self.place.node)
        zipapp, config = base / "lib/relay.pyz", base / "etc/relay.json"
        if not (zipapp.exists() and config.exists()):
            return "no relay installed"
        arguments = (sys.executable, "-I", str(zipapp), "supervise", "--config", str(config), "--daemon")
        child = await asyncio.create_subprocess_exec(
            *arguments, cwd=base, env=self.environment(), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(child.communicate(), 20)
        if child.returncode != 0:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit {child.returncode}"]
            return f"relay did not start: {last[0]}"
        return "relay started"

    def _begin(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        # A task of our own: the connection's end must not cancel the killing of the process group.
        task = asyncio.get_running_loop().create_task(self._session(process))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            child = await self._spawn(process.command)
        except OSError as error:
            process.stderr.write(f"the lab's host can not run it: {error}\n".encode())
            process.exit(126)
            return
        streams = asyncio.create_task(_stream(process, child))
        closed = asyncio.create_task(process.wait_closed())
        await asyncio.wait({streams, closed}, return_when=asyncio.FIRST_COMPLETED)
        if streams.done() and not streams.exception():
            _report_exit(process, child.returncode)
        streams.cancel()
        closed.cancel()
        await asyncio.gather(streams, closed, return_exceptions=True)
        process.close()
        await _end_group(child)

    async def _spawn(self, command: str | None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "/bin/sh", *(("-c", command) if command else ()),
            cwd=self.root, env=self.environment(), start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


async def _stream(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    """Carry stdin, stdout and stderr until the outputs end and the child has ended, as sshd does."""
    assert child.stdout is not None and child.stderr is not None
    feeding = asyncio.create_task(_feed(process, child))
    try:
        await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
        await child.wait()
    finally:
        feeding.cancel()


async def _pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()


async def _feed(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    """The client's stdin and signals to the child; goes on reading when the child no longer listens."""
    assert child.stdin is not None
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.SignalReceived as request:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(child.pid, getattr(signal, f"SIG{request.signal}"))
            continue
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
            continue
        except (asyncssh.Error, OSError):
            data = b""
        if not data:
            break
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


def _report_exit(process: asyncssh.SSHServerProcess[bytes], returncode: int | None) -> None:
    if returncode is None or returncode >= 0:
        process.exit(returncode or 0)
    else:
        process.exit_with_signal(signal.Signals(-returncode).name.removeprefix("SIG"))


async def _end_group(child: asyncio.subprocess.Process) -> None:
    """TERM the session's process group, then KILL it: the channel is closed, nobody reads its answer."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.wait(), _TERM_GRACE_S)
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


class Hosts:
    """All nodes of the lab and its control socket."""

    def __init__(self, folder: LabFolder, record: Record) -> None:
        self.folder = folder
        self.hosts = {place.node: Host(place, folder, record.ssh_port) for place in record.places}

    async def listen(self) -> None:
        for host in self.hosts.values():
            await host.listen()
        await asyncio.start_unix_server(self._client, sock=self._bind())

    def _bind(self) -> socket.socket:
        """Bind under a short name: the whole path may not fit into a Unix socket's address."""
        stale = self.folder.path / self.folder.socket
        stale.unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self.folder.path, os.O_RDONLY | os.O_DIRECTORY)
        before = os.umask(0o177)
        try:
            door.bind(f"/proc/self/fd/{directory}/{self.folder.socket}")
        finally:
            os.umask(before)
            os.close(directory)
        return door

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request: Mapping[str, Any] = json.loads(line)
            command = request["cmd"]
            if command == "status":
                return {"ok": True, "pid": os.getpid(), "nodes": {n: h.up for n, h in self.hosts.items()}}
            host = self.hosts[request["node"]]
            if command == "kill":
                return {"ok": True, "killed": await host.kill()}
            if command == "start":
                return {"ok": True, "did": await host.start()}
            return {"ok": False, "error": f"unknown command {command!r}"}
        except (ValueError, KeyError, TypeError) as error:
            return {"ok": False, "error": f"bad request: {error!r}"}
        except (TimeoutError, OSError) as error:
            return {"ok": False, "error": str(error) or type(error).__name__}


async def serve(folder: LabFolder, ready: int) -> None:
    """Open every port, say so on `ready`, and stay until TERM."""
    record = folder.read()
    if record is None:
        raise OSError(f"{folder.record} is missing")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await Hosts(folder, record).listen()
    os.write(ready, b"ready\n")
    os.close(ready)
    await stopping.wait()


def main(arguments: list[str]) -> int:
    """FOLDER READY_FD"""
    folder, ready = LabFolder(Path(arguments[0])), int(arguments[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    try:
        asyncio.run(serve(folder, ready))
    except OSError as error:
        log.error("%s", error)
        os.write(ready, f"{error.strerror or error}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
