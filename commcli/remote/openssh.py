"""The same login by the system's own ssh client: as strict, by the same way, with the same keys. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from commcli.fleet.model import Fleet, Node, SshDefaults
from commcli.remote.sshconfig import Stop, way

CLIENT = "ssh"


def arguments(fleet: Fleet, node: Node, line: str | None = None, *, verbose: bool = False) -> list[str]:
    """The argument vector of ssh for a login to `node`, or for this command line there. Raises BadInput.

    What the inventory says comes before the ssh_config's words there too; without one, none is read.
    """
    stops = way(fleet, node)
    name = node.id if "host" in node.ssh.unsaid else node.ssh.host
    told = ["-v"] if verbose else []
    return [*_client(fleet.ssh, stops), *told, "--", name, *([] if line is None else [line])]


def _client(defaults: SshDefaults, stops: Sequence[Stop]) -> list[str]:
    options = [word for key, value in _options(defaults, stops) for word in ("-o", f"{key}={value}")]
    return [CLIENT, "-F", str(defaults.config) if defaults.config else "none", *options]


def _options(defaults: SshDefaults, stops: Sequence[Stop]) -> Iterator[tuple[str, str]]:
    *before, last = stops
    login = last.login
    yield "HostName", login.host
    yield "Port", str(login.port)
    yield "User", login.user
    yield "StrictHostKeyChecking", "yes"
    yield "UserKnownHostsFile", _file(defaults.known_hosts)
    yield "GlobalKnownHostsFile", "none"
    yield "UpdateHostKeys", "no"
    if login.known_as != login.host:
        yield "HostKeyAlias", login.known_as
    for path in defaults.identities:
        yield "IdentityFile", _file(path)
    if defaults.identities:
        yield "IdentitiesOnly", "yes"
    if not defaults.agent:
        yield "IdentityAgent", "none"
    yield "ConnectTimeout", str(math.ceil(defaults.connect_timeout_s + defaults.login_timeout_s))
    # ssh would go by way of a ProxyJump without these options: with the operator's known_hosts, not the fleet's.
    yield ("ProxyCommand", _jump(defaults, before, last)) if before else ("ProxyJump", "none")


def _jump(defaults: SshDefaults, before: Sequence[Stop], last: Stop) -> str:
    """A shell line, as ssh wants it: it brings to `last` by way of the others."""
    there = ["-W", f"[{last.login.host}]:{last.login.port}", "--", before[-1].login.host]
    return shlex.join([*_client(defaults, before), *there]).replace("%", "%%")


def _file(path: Path) -> str:
    """A file name as an option of ssh: blanks would separate two, and % begins a token."""
    return '"' + str(path).replace("%", "%%") + '"'
