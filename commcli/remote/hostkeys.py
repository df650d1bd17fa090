"""Host keys: those that known_hosts has for a host, and those that a host shows. Part of the door to asyncssh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from commcli.errors import BadInput
from commcli.remote.sshconfig import SSH_PORT, Login

# One handshake each, as ssh-keyscan has it: a server shows one key, of the first of these types that it has.
TYPES = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)


# What asyncssh asks for the keys, authorities and revoked keys of a host, its address and its port.
Believed = Callable[[str, str, int | None], Sequence[Sequence[asyncssh.SSHKey]]]


class HostKeys:
    """The fleet's known_hosts."""

    def __init__(self, path: Path, known: asyncssh.SSHKnownHosts) -> None:
        self.path, self._known = path, known

    @classmethod
    def none(cls, path: Path) -> HostKeys:
        """Those of a file that is empty or not there."""
        return cls(path, asyncssh.SSHKnownHosts())

    def match(self, login: Login) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
        """The host keys and the certificate authorities that it has for this host."""
        keys, authorities, _ = self._of(login)
        return list(keys), list(authorities)

    def believed(self, login: Login) -> Believed:
        """What asyncssh is to believe of this host. It would believe what is known of its address as well: a name that
        leads to another of our hosts would be taken for it, whatever key the name has here.
        """
        found = self._of(login)
        return lambda host, address, port: found

    def knows_port(self, login: Login) -> bool:
        """Whether something is said of this very port. Else what is said of the host counts (ssh(1) does the same),
        which another machine behind the same address may be.
        """
        if login.port == SSH_PORT:
            return True
        keys, authorities = self._known.match(f"[{login.known_as}]:{login.port}", "", None)[:2]
        return bool(keys or authorities)

    def _of(self, login: Login) -> Sequence[Sequence[asyncssh.SSHKey]]:
        port = None if login.port == SSH_PORT else login.port
        return self._known.match(login.known_as, "", port)[:3]

    def algorithms(self, login: Login) -> list[str]:
        """The known key types first, then all others.

        asyncssh offers the known ones alone, and a server that has another now just hangs up: a changed host key
        would look like a network problem.
        """
        keys, authorities = self.match(login)
        known = [name for key in keys for name in key.sig_algorithms]
        if authorities:
            known = [*get_default_certificate_algs(), *known]
        every = [*known, *get_default_public_key_algs(), *get_default_certificate_algs()]
        return list(dict.fromkeys(name.decode() for name in every))


def read(path: Path) -> HostKeys:
    """The known_hosts file there. Raises BadInput."""
    try:
        return parse(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"known hosts {path}: {error.strerror}", hint="commcli fleet trust all   makes it, key by key"
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"known hosts {path}: is not UTF-8 text") from None


def parse(path: Path, text: str) -> HostKeys:
    """What a known_hosts file with this text believes. Raises BadInput."""
    try:
        return HostKeys(path, asyncssh.import_known_hosts(text))
    except ValueError as error:
        raise BadInput(f"known hosts {path}: {error}") from None


def texts(keys: Sequence[asyncssh.SSHKey]) -> list[str]:
    """Keys as known_hosts has them: `type base64`."""
    return [" ".join(key.export_public_key().decode().split()[:2]) for key in keys]


async def shown_by(login: Login, via: asyncssh.SSHClientConnection | None) -> list[str]:
    """The keys that the server shows (`type base64`), of every type that it has. Raises what asyncssh does."""
    tries = (_shown(login, via, names) for names in TYPES)
    ended = await asyncio.gather(*tries, return_exceptions=True)
    keys = [key for key in ended if isinstance(key, asyncssh.SSHKey)]
    # OpenSSH hangs up where it has no key of that type, some versions before they have said so.
    if not keys and (wrong := [error for error in ended if isinstance(error, BaseException)]):
        raise wrong[0]
    return texts(keys)


async def _shown(
    login: Login, via: asyncssh.SSHClientConnection | None, algorithms: Sequence[str]
) -> asyncssh.SSHKey | None:
    return await asyncssh.get_server_host_key(
        login.host, login.port, tunnel=via, server_host_key_algs=list(algorithms), config=None,
        options=login.options,
    )  # fmt: skip
