"""SSH connections: strict host keys, agent, jump hosts, deadlines. The door to asyncssh (with sshsig.py).

Foreign errors become ours here and nowhere else. The trap behind this file: asyncssh calls a command whose
connection dropped a success with `exit_status=None`; here None is said out loud and `Lost` is raised for it.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from commcli.errors import BadInput, CommcliError
from commcli.fleet.model import Fleet, Node, SshDefaults, SshTarget
from commcli.remote.outcome import HostKeyRefused, LoginRefused, Lost, TimedOut, Unreachable, bounded

# A silent connection is called dead after this many seconds times three.
KEEPALIVE_S = 10.0
READ_SIZE = 1 << 16


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

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], place: str) -> None:
        self._process = process
        self._place = place

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

    def close(self) -> None:
        """Close the channel: the command sees end of file, or a broken pipe."""
        self._process.close()


class Connection:
    """A logged-in connection to one node, shared by all who work on that node."""

    def __init__(self, node_id: str, connection: asyncssh.SSHClientConnection) -> None:
        self.node_id = node_id
        self._connection = connection

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        """Run one command to its end. Output is kept whole: for small answers only.

        Raises TimedOut (the channel is closed then), Unreachable (not begun). A connection that drops on the
        way is `exit_status=None`, for the caller to judge.
        """
        process = await self.start(shlex.join(argv), timeout_s=timeout_s)
        try:
            async with bounded(timeout_s, f"{argv[0]}: no end after {timeout_s:g} s"):
                return await _finish(process, stdin)
        finally:
            process.close()

    async def start(self, command: str, *, timeout_s: float = 30.0) -> Process:
        """Start one command line of the node's login shell. Raises Unreachable or TimedOut."""
        async with bounded(timeout_s, f"no channel after {timeout_s:g} s"):
            with _mapped(self.node_id, begun=False):
                process = await self._connection.create_process(command, encoding=None)
        return Process(process, self.node_id)

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
        stdout, stderr = await out, await err
        return Completed(await process.wait(), stdout, stderr)
    finally:
        out.cancel()
        err.cancel()


async def _read_all(read: Callable[[], Awaitable[bytes]]) -> bytes:
    chunks: list[bytes] = []
    try:
        while chunk := await read():
            chunks.append(chunk)
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

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._on_connected()


class Pool:
    """The connections of one run, at most one a node, and one a jump host however many nodes are behind it.

    A bastion with the default MaxStartups takes 15 of 20 logins at once; one connection carries all 20.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.parallel = fleet.ssh.parallel
        self._known: asyncssh.SSHKnownHosts | None = None
        self._tasks: dict[str, asyncio.Task[Connection]] = {}

    async def __aenter__(self) -> Pool:
        defaults = self._fleet.ssh
        self._known = _known_hosts(defaults)
        _check_identities(defaults)
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
        return await self._shared(node.id, node.ssh)

    async def _shared(self, name: str, target: SshTarget) -> Connection:
        task = self._tasks.get(name)
        if task is None or _is_useless(task):
            task = self._tasks[name] = asyncio.ensure_future(self._open(name, target))
        # Shielded: a node whose deadline passes must not take a shared jump host away from its siblings.
        return await asyncio.shield(task)

    async def _open(self, name: str, target: SshTarget) -> Connection:
        via = None if target.proxy_jump is None else await self._jump(target.proxy_jump)
        return Connection(name, await self._login(target, via))

    async def _jump(self, words: str) -> Connection:
        """The connection to the last of `[user@]host[:port],...`; a fleet node's id stands for that node."""
        if (node := self._fleet.nodes.get(words)) is not None:
            return await self.connect(node)
        before, _, last = words.rpartition(",")
        try:
            return await self._shared(f"jump {words}", _target(last, before or None))
        except (Unreachable, LoginRefused, TimedOut, HostKeyRefused) as error:
            raise type(error)(f"jump host {last}: {error}") from None

    async def _login(self, target: SshTarget, via: Connection | None) -> asyncssh.SSHClientConnection:
        defaults = self._fleet.ssh
        loop = asyncio.get_running_loop()
        phase = f"no TCP connection after {defaults.connect_timeout_s:g} s"
        limit = asyncio.timeout(defaults.connect_timeout_s)

        def connected() -> None:
            nonlocal phase
            phase = f"connected, but no login after {defaults.login_timeout_s:g} s"
            limit.reschedule(loop.time() + defaults.login_timeout_s)

        try:
            with self._explained(target):
                async with limit:
                    options = self._options(target, lambda: _Phase(connected))
                    tunnel = () if via is None else via.tunnel()
                    return await asyncssh.connect(target.host, target.port, tunnel=tunnel, options=options)
        except TimeoutError:
            if limit.expired():
                raise TimedOut(phase) from None
            raise Unreachable("the operating system gave up connecting") from None

    def _options(
        self, target: SshTarget, factory: Callable[[], asyncssh.SSHClient]
    ) -> asyncssh.SSHClientConnectionOptions:
        defaults = self._fleet.ssh
        return asyncssh.SSHClientConnectionOptions(
            host=target.host,
            port=target.port,
            username=target.user,
            client_factory=factory,
            known_hosts=self._known,
            server_host_key_algs=self._host_key_algorithms(target),
            config=[str(defaults.config)] if defaults.config else None,
            client_keys=[str(path) for path in defaults.identities] or (),
            ignore_encrypted=True,
            agent_path=() if defaults.agent else None,
            gss_host=None,
            x509_trusted_certs=None,
            login_timeout=0,  # ours, from the moment that TCP stands
            keepalive_interval=KEEPALIVE_S,
        )

    def _trusted(self, target: SshTarget) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
        """The host keys and the certificate authorities that known_hosts has for this host."""
        assert self._known is not None
        port = None if target.port == 22 else target.port
        keys, authorities, *_ = self._known.match(target.host, "", port)
        return list(keys), list(authorities)

    def _host_key_algorithms(self, target: SshTarget) -> list[str]:
        """The known key types first, then all others.

        asyncssh offers the known ones alone, and a server that has another now just hangs up: a changed host key
        would look like a network problem.
        """
        keys, authorities = self._trusted(target)
        known = [name for key in keys for name in key.sig_algorithms]
        if authorities:
            known = [*get_default_certificate_algs(), *known]
        every = [*known, *get_default_public_key_algs(), *get_default_certificate_algs()]
        return list(dict.fromkeys(name.decode() for name in every))

    @contextmanager
    def _explained(self, target: SshTarget) -> Iterator[None]:
        """Login errors as ours, each with what an operator would do next."""
        where = f"[{target.host}]:{target.port}" if target.port != 22 else target.host
        try:
            with _mapped(where, begun=False):
                try:
                    yield
                except asyncssh.PermissionDenied:
                    raise LoginRefused(f"login refused for {target.user}@{where}") from None
                except asyncssh.HostKeyNotVerifiable as error:
                    raise self._host_key(target, where, error.reason) from None
                except asyncssh.DisconnectError as error:
                    if "too many authentication failures" not in error.reason.lower():
                        raise
                    raise LoginRefused(
                        f"login refused for {target.user}@{where}: too many keys were offered",
                        hint="Name the one key under `ssh: identities:` in fleet.yaml, and set `agent: false`.",
                    ) from None
        except (asyncssh.KeyImportError, asyncssh.ConfigParseError, ValueError) as error:
            raise BadInput(f"ssh settings for {where}: {error}") from None

    def _host_key(self, target: SshTarget, where: str, reason: str) -> HostKeyRefused:
        path = self._fleet.ssh.known_hosts
        if not any(self._trusted(target)):
            return HostKeyRefused(
                f"host key of {where} is not in {path}", hint=f"ssh-keyscan -p {target.port} {target.host}"
            )
        if "revoked" in reason:
            return HostKeyRefused(f"host key of {where} is revoked in {path}")
        return HostKeyRefused(
            f"host key of {where} has changed since it was put into {path}",
            hint="If the host was rebuilt, replace its line there; if not, somebody stands between.",
        )


def _is_useless(task: asyncio.Task[Connection]) -> bool:
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().closed


def _target(words: str, before: str | None) -> SshTarget:
    user, _, place = words.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or host.endswith(":"):
        host, port = place, "22"
    return SshTarget(host=host.strip("[]"), user=user or getpass.getuser(), port=int(port), proxy_jump=before)


def _known_hosts(defaults: SshDefaults) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.read_known_hosts(str(defaults.known_hosts))
    except OSError as error:
        raise BadInput(f"known hosts {defaults.known_hosts}: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"known hosts {defaults.known_hosts}: {error}") from None


def _check_identities(defaults: SshDefaults) -> None:
    """Say at once, for the whole run, what would fail on every node. Raises BadInput with every bad file."""
    problems = []
    for path in defaults.identities:
        try:
            asyncssh.load_keypairs(str(path), ignore_encrypted=defaults.agent)
        except OSError as error:
            problems.append(f"ssh identity {path}: {error.strerror}")
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            problems.append(f"ssh identity {path}: {error}")
    if problems:
        raise BadInput(problems)
