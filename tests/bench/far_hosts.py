"""Hosts that are far away: OpenSSH servers on loopback, each host behind a proxy that delays and counts.

All hosts are this machine and share its cores; a host is a port of a proxy and a folder of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.remote import distance, sshd


@dataclass(frozen=True)
class FarHost:
    """One host: where a controller connects, its folder, and what travelled (None: straight, not counted)."""

    name: str
    port: int
    root: Path
    way: distance.Way | None = None


@dataclass
class FarHosts:
    """The hosts, the key that logs in to all of them, and a folder for the controllers' files."""

    folder: Path
    key: Path
    known_hosts: Path
    hosts: list[FarHost] = field(default_factory=list)

    def empty(self) -> None:
        """No play has ever run here."""
        for host in self.hosts:
            shutil.rmtree(host.root, ignore_errors=True)
            host.root.mkdir(parents=True)

    def contents(self) -> str:
        """What the plays made on the hosts, as one digest of names, contents and modes: the same by every tool."""
        return _digest(self.hosts, times=False)

    def as_they_are(self) -> str:
        """A digest that any change gives away, one that is put back too."""
        return _digest(self.hosts, times=True)


def _digest(hosts: Sequence[FarHost], *, times: bool) -> str:
    digest = hashlib.sha256()
    for host in hosts:
        for path in sorted(host.root.glob("set-*/**/*")):
            told = path.lstat()
            what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            when = (told.st_mtime_ns, told.st_ino) if times else ()
            digest.update(repr((path.relative_to(host.root), oct(told.st_mode), what, when)).encode())
    return digest.hexdigest()


@asynccontextmanager
async def far_hosts(
    folder: Path, count: int, rtt_s: float | None, servers: int = 1
) -> AsyncIterator[FarHosts]:
    """So many hosts behind so many OpenSSH servers until the body ends; `rtt_s` None: without proxies."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(sshd.serve(folder / f"sshd-{n}")) for n in range(servers)]
        far = FarHosts(folder, running[0].key, folder / "known_hosts")
        known: dict[str, None] = {}
        for number in range(count):
            server = running[number % servers]
            # One key for all: that of the first server.
            (server.folder / "authorized_keys").write_bytes((running[0].folder / "id.pub").read_bytes())
            way = (
                None
                if rtt_s is None
                else await stack.enter_async_context(distance.distant(server.port, rtt_s))
            )
            port = server.port if way is None else way.port
            known[f"[127.0.0.1]:{port} {(server.folder / 'host_key.pub').read_text()}"] = None
            name = f"h{number:03}"
            far.hosts.append(FarHost(name, port, folder / "roots" / name, way))
        far.known_hosts.write_text("".join(known))
        far.empty()
        yield far


@asynccontextmanager
async def silent(banner: bytes = b"") -> AsyncIterator[int]:
    """A port of 127.0.0.1 where somebody takes connections, says at most `banner`, and nothing more."""
    held: set[asyncio.StreamWriter] = set()

    def begin(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        writer.write(banner)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.close()
