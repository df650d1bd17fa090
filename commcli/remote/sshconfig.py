"""A login with every word resolved: the inventory's words, else the ssh_config's, else the defaults.

Part of the door to asyncssh, whose reading of ssh_config this is. The `Host` blocks of a node are those for the host
that the inventory says; where it says none, those for the node's id and then those for its address.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import asyncssh

from commcli.errors import BadInput
from commcli.fleet.model import Fleet, Node, SshDefaults, SshTarget

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Login:
    """Where a login goes, and as whom. `jump` is `[user@]host[:port],...`; `known_as` is what known_hosts calls it.

    `options` hold all that asyncssh takes from the ssh_config besides.
    """

    host: str
    port: int
    user: str
    jump: str | None
    known_as: str
    options: asyncssh.SSHClientConnectionOptions

    @property
    def place(self) -> str:
        """As known_hosts writes it: `host`, or `[host]:port` for another port than 22."""
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"

    @property
    def names_ciphers(self) -> bool:
        """Whether the ssh_config says which (Ciphers)."""
        return bool(self.options.config.get("Ciphers", ()))


class Stop(NamedTuple):
    """A login on the way to a node: of the node itself, or of a jump host. `words` are how its place is written."""

    name: str
    words: str
    login: Login


def way(fleet: Fleet, node: Node) -> tuple[Stop, ...]:
    """The logins that lead to `node`, its own last. Raises BadInput: the ssh_config, jump hosts in a circle."""
    stops = [Stop(node.id, node.id, resolve(fleet.ssh, node.id, node.ssh))]
    while (jump := stops[0].login.jump) is not None:
        stop = _jump(fleet, jump)
        names = [stop.name, *(known.name for known in stops)]
        if stop.name in names[1:]:
            raise BadInput(f"ssh: jump hosts in a circle: {' > '.join(names)}")
        stops.insert(0, stop)
    return tuple(stops)


def _jump(fleet: Fleet, words: str) -> Stop:
    """The last of `[user@]host[:port],...`; a fleet node's id stands for that node."""
    last = words.rpartition(",")[2]
    if (node := fleet.nodes.get(words)) is not None:
        return Stop(node.id, node.id, resolve(fleet.ssh, node.id, node.ssh))
    target = _jump_target(words)
    login = resolve(fleet.ssh, "", target)
    if "proxy_jump" in target.unsaid and login.jump is not None and _is_same(login, login.jump):
        # `Host *` with a ProxyJump names the jump host too; OpenSSH goes straight to it as well.
        login = replace(login, jump=None)
    by = f" by {login.jump}" if login.jump else ""
    return Stop(f"jump {login.user}@{login.place}{by}", last, login)


def resolve(defaults: SshDefaults, name: str, target: SshTarget) -> Login:
    """The login to `target`, which the inventory calls `name`. Raises BadInput for an ssh_config that is wrong."""
    if defaults.config is None:
        user = getpass.getuser() if "user" in target.unsaid else target.user
        port = SSH_PORT if "port" in target.unsaid else target.port
        jump = None if "proxy_jump" in target.unsaid else target.proxy_jump
        return Login(target.host, port, user, jump or None, target.host, _nothing_said())
    names = (name, target.host) if "host" in target.unsaid and name else (target.host,)
    try:
        options = _options(defaults, target, names)
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, ValueError) as error:
        raise BadInput(f"ssh config {defaults.config}: {error}") from None
    except OSError as error:
        raise BadInput(f"ssh config: {error.filename}: {error.strerror}") from None
    host, via = options.host, options.tunnel if "proxy_jump" in target.unsaid else target.proxy_jump
    known_as = options.host_key_alias or host
    return Login(host, options.port, options.username, str(via) if via else None, known_as, options)


@lru_cache(maxsize=1)
def _nothing_said() -> asyncssh.SSHClientConnectionOptions:
    """What an ssh_config that is not there says, for all logins: to make it takes longer than all the rest of one."""
    return asyncssh.SSHClientConnectionOptions(
        config=None, client_keys=None, agent_path=None, gss_host=None, x509_trusted_certs=None
    )


def _options(
    defaults: SshDefaults, target: SshTarget, names: Sequence[str]
) -> asyncssh.SSHClientConnectionOptions:
    said = {
        "port": () if "port" in target.unsaid else target.port,
        "username": () if "user" in target.unsaid else target.user,
    }
    options: asyncssh.SSHClientConnectionOptions | None = None
    for name in names:
        # What an earlier name has settled stays: the first value that is found for a word is the one that counts.
        options = asyncssh.SSHClientConnectionOptions(
            options, host=name, config=[str(defaults.config)], client_keys=None, agent_path=None, gss_host=None,
            x509_trusted_certs=None, **said,
        )  # fmt: skip
    assert options is not None
    return options


def _jump_target(words: str) -> SshTarget:
    """The last of `[user@]host[:port],...`, reached by way of those before it."""
    before, _, last = words.rpartition(",")
    user, _, place = last.removeprefix("ssh://").rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
        host, port = place, ""
    unsaid = [word for word, said in (("user", user), ("port", port), ("proxy_jump", before)) if not said]
    return SshTarget(
        host=host.strip("[]"),
        user=user or getpass.getuser(),
        port=int(port or SSH_PORT),
        proxy_jump=before or None,
        unsaid=tuple(unsaid),
    )


def _is_same(login: Login, words: str) -> bool:
    """Whether `words` name the machine that this login goes to already, by whatever name."""
    last = _jump_target(words)
    return last.host in (login.host, login.options.orig_host) and (
        "port" in last.unsaid or last.port == login.port
    )
