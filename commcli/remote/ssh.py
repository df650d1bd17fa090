"""SSH connections: strict host keys, agent, jump hosts, deadlines. The door to asyncssh (with sshsig.py).

Foreign errors become ours here and nowhere else. The trap behind this file: asyncssh calls a command whose
connection dropped a success with `exit_status=None`; here None is said out loud and `Lost` is raised for it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import asyncssh

from commcli.errors import BadInput, CommcliError
from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import Secret
from commcli.remote import hostkeys, identities, sshconfig
from commcli.remote.handshakes import Handshakes
from commcli.remote.hostkeys import HostKeys
from commcli.remote.lookups import Lookups
from commcli.remote.outcome import (
    Failed,
    HostKeyRefused,
    LoginRefused,
    Lost,
    TimedOut,
    Unreachable,
    bounded,
)
from commcli.remote.quicklogin import begin_with_a_signature, begin_without_leave, without_chaff
from commcli.remote.sshconfig import Login, Stop
from commcli.remote.sudo import Sudo, refusal

# A silent connection is called dead after this many seconds times three.
KEEPALIVE_S = 10.0
READ_SIZE = 1 << 16
# Before the others: asyncssh does them in one call a packet, which makes a login cheaper by a quarter.
QUICK_CIPHERS = "^aes*-gcm@openssh.com"
# Of what is kept whole. The longest answer of a relay, its mesh, is a tenth of it.
MOST_OUTPUT = 16 << 20
# The fleet's secret of this name is what sudo is told where it asks.
PASSWORD = "sudo"
_SUDO_HINT = "The fleet's secret `sudo` is the password; without it sudo must not ask (NOPASSWD)."


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command. `exit_status`: -1 for a signal, None when the connection went away first."""

    exit_status: int | None
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.exit_status == 0


class Process:
    """A running command on a node: bytes in, bytes out. Methods raise Lost when the connection is gone."""

    def __init__(
        self, process: asyncssh.SSHClientProcess[bytes], place: str, *, by_sudo: bool = False
    ) -> None:
        self._process = process
        self._place = place
        self._by_sudo = by_sudo

    def write(self, data: bytes) -> None:
        with _mapped(self._place, begun=True):
            self._process.stdin.write(data)

    async def drain(self) -> None:
        with _mapped(self._place, begun=True):
            await self._process.stdin.drain()

    def write_eof(self) -> None:
        with _mapped(self._place, begun=True):
            self._process.stdin.write_eof()

    async def read(self, size: int = READ_SIZE) -> bytes:
        """Up to `size` bytes of its stdout; b"" at the end."""
        with _mapped(self._place, begun=True):
            return await self._process.stdout.read(size)

    async def read_error(self, size: int = READ_SIZE) -> bytes:
        """Up to `size` bytes of its stderr; b"" at the end."""
        with _mapped(self._place, begun=True):
            return await self._process.stderr.read(size)

    async def wait(self) -> int | None:
        """Its exit status once the channel is closed: -1 for a signal, None if the node never told it."""
        await self._process.wait_closed()
        return self._process.exit_status

    def raise_if_refused(self, status: int | None, said: bytes) -> None:
        """Raises LoginRefused if it ended because sudo did not let it begin."""
        if self._by_sudo and (why := refusal(status, said.decode("utf-8", "replace"))):
            raise LoginRefused(f"sudo refused: {why}", hint=_SUDO_HINT)

    def close(self) -> None:
        """Close the channel: the command sees end of file, or a broken pipe."""
        self._process.close()


class Connection:
    """A logged-in connection to one node, shared by all who work on that node."""

    def __init__(
        self, node_id: str, connection: asyncssh.SSHClientConnection, sudo: Sudo | None = None
    ) -> None:
        """With `sudo` every command runs as root."""
        self.node_id = node_id
        self._connection = connection
        self._sudo = sudo

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        """Run one command to its end. Output is kept whole: for small answers only.

        Raises TimedOut (the channel is closed then), Unreachable (not begun), LoginRefused (by sudo), Failed (it says
        more than MOST_OUTPUT). A connection that drops on the way is `exit_status=None`, for the caller to judge.
        """
        process = await self.start(shlex.join(argv), timeout_s=timeout_s)
        try:
            async with bounded(timeout_s, f"{argv[0]}: no end after {timeout_s:g} s"):
                done = await _finish(process, stdin)
        finally:
            process.close()
        if not done.stdout:
            process.raise_if_refused(done.exit_status, done.stderr)
        return done

    async def start(self, command: str, *, timeout_s: float = 30.0) -> Process:
        """Start one command line of the node's login shell. Raises Unreachable or TimedOut."""
        command, preface = (command, b"") if self._sudo is None else self._sudo.command(command)
        async with bounded(timeout_s, f"no channel after {timeout_s:g} s"):
            with _mapped(self.node_id, begun=False):
                process = await self._connection.create_process(command, encoding=None)
        started = Process(process, self.node_id, by_sudo=self._sudo is not None)
        if preface:
            started.write(preface)
        return started

    def abort(self) -> None:
        self._connection.abort()

    async def close(self) -> None:
        self._connection.close()
        await self._connection.wait_closed()

    def tunnel(self) -> asyncssh.SSHClientConnection:
        """What a further connection goes through (ProxyJump)."""
        return self._connection


async def _finish(process: Process, stdin: bytes) -> Completed:
    out, err = (
        asyncio.ensure_future(_read_all(process.read)),
        asyncio.ensure_future(_read_all(process.read_error)),
    )
    try:
        try:
            process.write(stdin)
            await process.drain()
            process.write_eof()
        except Lost:
            pass  # it ended without reading all of its stdin; its status says whether that was well
        stdout, stderr = await asyncio.gather(out, err)
        return Completed(await process.wait(), stdout, stderr)
    finally:
        out.cancel()
        err.cancel()


async def _read_all(read: Callable[[], Awaitable[bytes]]) -> bytes:
    chunks: list[bytes] = []
    room = MOST_OUTPUT
    try:
        while chunk := await read():
            chunks.append(chunk)
            room -= len(chunk)
            if room < 0:
                raise Failed(f"stopped: its output is over {MOST_OUTPUT >> 20} MiB")
    except Lost:
        pass  # told by the missing exit status
    return b"".join(chunks)


@contextmanager
def _mapped(place: str, *, begun: bool) -> Iterator[None]:
    """asyncssh's and the system's errors as ours. Once work has `begun`, a broken connection is Lost."""
    gone = Lost if begun else Unreachable
    try:
        yield
    except CommcliError:
        raise
    except TimeoutError:
        raise
    except asyncssh.ChannelOpenError as error:
        raise Unreachable(f"{place}: no channel: {error.reason}") from None
    except asyncssh.Error as error:
        raise gone(f"connection lost: {error.reason}" if begun else error.reason) from None
    except OSError as error:
        raise gone(f"connection lost: {_plain(error)}" if begun else _plain(error)) from None


def _plain(error: OSError) -> str:
    # asyncio words a refused connection "[Errno 111] Connect call failed (...)".
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error).lower()  # getaddrinfo's


class _Phase(asyncssh.SSHClient):
    """Two deadlines, one connection: connecting ends and login starts when TCP stands."""

    def __init__(self, on_connected: Callable[[], None]) -> None:
        self._on_connected = on_connected
        self._conn: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        without_chaff(conn)
        begin_without_leave(conn)
        self._on_connected()

    def begin_auth(self, username: str) -> None:
        begin_with_a_signature(self._conn)


class Pool:
    """The connections of one run, at most one a node, and one a jump host however many nodes are behind it.

    A bastion with the default MaxStartups takes 15 of 20 logins at once; one connection carries all 20.
    """

    def __init__(self, fleet: Fleet, *, keys: HostKeys | None = None) -> None:
        """`keys` stand in for those of the known_hosts file."""
        self._fleet = fleet
        self.parallel = fleet.ssh.parallel
        self._tasks: dict[str, asyncio.Task[Connection]] = {}
        self._ways: dict[str, tuple[Stop, ...]] = {}
        self._keys = keys or HostKeys.none(fleet.ssh.known_hosts)
        self._read = keys is None
        self._identities: identities.Offered | None = None
        self._password: Secret | None = None
        self._handshakes = Handshakes()

    async def __aenter__(self) -> Pool:
        asyncio.get_running_loop().set_default_executor(Lookups(at_once=asyncssh.SSHClientConnectionOptions))
        if self._read:
            self._keys = hostkeys.read(self._fleet.ssh.known_hosts)
        self._identities = identities.check(self._fleet.ssh)
        if PASSWORD in self._fleet.secrets and any(node.ssh.sudo for node in self._fleet.nodes.values()):
            self._password = self._fleet.secrets[PASSWORD].read()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Connection):
                # Not close(): saying goodbye would wait for each node's answer.
                done.abort()

    async def connect(self, node: Node) -> Connection:
        """The connection to `node`, made when first asked for, or anew when it has dropped since.

        Raises Unreachable, LoginRefused, TimedOut, HostKeyRefused.
        """
        return await self.reach(self.way(node))

    def way(self, node: Node) -> tuple[Stop, ...]:
        """The logins on the way to `node`, its own last. Raises BadInput: the ssh_config, jump hosts in a circle."""
        if node.id not in self._ways:
            # An ssh_config is read anew for each: milliseconds, which are not to be paid for each question.
            self._ways[node.id] = sshconfig.way(self._fleet, node)
        return self._ways[node.id]

    async def host_keys(self, way: tuple[Stop, ...]) -> list[str]:
        """The keys that the last of `way` shows, as known_hosts has them (`type base64`); nobody is logged in there.

        Raises as `connect`.
        """
        *before, last = way
        via = await self._jump(tuple(before)) if before else None
        patience_s = self._fleet.ssh.connect_timeout_s + self._fleet.ssh.login_timeout_s
        async with bounded(patience_s, f"no host key after {patience_s:g} s"):
            with self._explained(last.login):
                return await hostkeys.shown_by(last.login, None if via is None else via.tunnel())

    async def reach(self, way: tuple[Stop, ...]) -> Connection:
        """The connection to the last of `way`, shared by all who ask for it. Raises as `connect`."""
        name = way[-1].name
        task = self._tasks.get(name)
        if task is None or _is_useless(task):
            task = self._tasks[name] = asyncio.ensure_future(self._open(way))
        # Shielded: a node whose deadline passes must not take a shared jump host away from its siblings.
        return await asyncio.shield(task)

    async def _open(self, way: tuple[Stop, ...]) -> Connection:
        *before, last = way
        via = await self._jump(tuple(before)) if before else None
        async with self._handshakes.one():
            return Connection(last.name, await self._login(last.login, via), self._sudo(last.name))

    def _sudo(self, name: str) -> Sudo | None:
        node = self._fleet.nodes.get(name)
        return None if node is None or not node.ssh.sudo else Sudo(self._password)

    async def _jump(self, way: tuple[Stop, ...]) -> Connection:
        try:
            return await self.reach(way)
        except (Unreachable, LoginRefused, TimedOut, HostKeyRefused) as error:
            if str(error).startswith("jump host "):
                raise  # it says already which
            raise type(error)(f"jump host {way[-1].words}: {error}", hint=error.hint) from None

    async def _login(self, login: Login, via: Connection | None) -> asyncssh.SSHClientConnection:
        defaults = self._fleet.ssh
        loop = asyncio.get_running_loop()
        phase = f"no TCP connection after {defaults.connect_timeout_s:g} s"
        limit = asyncio.timeout(defaults.connect_timeout_s)

        def connected() -> None:
            nonlocal phase
            phase = f"connected, but no login after {defaults.login_timeout_s:g} s"
            limit.reschedule(loop.time() + defaults.login_timeout_s)

        try:
            with self._explained(login):
                async with limit:
                    # Words, and not options made of them: asyncssh makes its own once more, a millisecond each.
                    words = self._words(login, lambda: _Phase(connected))
                    tunnel = None if via is None else via.tunnel()
                    return await asyncssh.connect(
                        login.host, login.port, tunnel=tunnel, options=login.options, **words
                    )
        except TimeoutError:
            if limit.expired():
                raise TimedOut(phase) from None
            raise Unreachable("the operating system gave up connecting") from None

    def _words(self, login: Login, factory: Callable[[], asyncssh.SSHClient]) -> dict[str, Any]:
        defaults = self._fleet.ssh
        offered = self._identities or identities.of_login(login)
        return {
            # asyncssh would read ~/.ssh/config otherwise, whatever the options say.
            "config": None,
            "username": login.user,
            "client_factory": factory,
            "known_hosts": self._keys.believed(login),
            "server_host_key_algs": self._keys.algorithms(login),
            "encryption_algs": () if login.names_ciphers else QUICK_CIPHERS,
            # Copies: a login notes in them which signature its server takes.
            "client_keys": [copy(pair) for pair in offered.pairs],
            "ignore_encrypted": True,
            # No agent where none of its keys is wanted: asyncssh takes an empty list for all of them.
            "agent_path": () if defaults.agent and offered.agent != () else None,
            "agent_identities": None if offered.agent is None else list(offered.agent),
            "gss_host": None,
            "x509_trusted_certs": None,
            "login_timeout": 0,  # ours, from the moment that TCP stands
            "keepalive_interval": KEEPALIVE_S,
        }

    @contextmanager
    def _explained(self, login: Login) -> Iterator[None]:
        """Login errors as ours, each with what an operator would do next."""
        where = login.place
        try:
            with _mapped(where, begun=False):
                try:
                    yield
                except asyncssh.PermissionDenied:
                    raise LoginRefused(f"login refused for {login.user}@{where}") from None
                except asyncssh.HostKeyNotVerifiable as error:
                    raise self._host_key(login, error.reason) from None
                except asyncssh.DisconnectError as error:
                    if "too many authentication failures" not in error.reason.lower():
                        raise
                    raise LoginRefused(
                        f"login refused for {login.user}@{where}: too many keys were offered",
                        hint="Name the one key under `ssh: identities:` in fleet.yaml.",
                    ) from None
        except (asyncssh.KeyImportError, asyncssh.ConfigParseError, ValueError) as error:
            raise BadInput(f"ssh settings for {where}: {error}") from None

    def _host_key(self, login: Login, reason: str) -> HostKeyRefused:
        path, where = self._keys.path, login.place
        if not any(self._keys.match(login)) or not self._keys.knows_port(login):
            return HostKeyRefused(f"host key of {where} is not in {path}", hint="commcli fleet trust NODE")
        if "revoked" in reason:
            return HostKeyRefused(f"host key of {where} is revoked in {path}")
        return HostKeyRefused(
            f"host key of {where} has changed since it was put into {path}",
            hint="If the host was rebuilt: commcli fleet trust NODE --replace. If not, somebody stands between.",
        )


def _is_useless(task: asyncio.Task[Connection]) -> bool:
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().closed
