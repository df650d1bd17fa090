"""What is known of the machine that commcli runs on, and of the way from it to the fleet. Changes nothing anywhere."""

from __future__ import annotations

import asyncio
import importlib.metadata
import ipaddress
import os
import platform
import re
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from commcli.errors import CommcliError
from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import SecretRef
from commcli.health.facts import Clock
from commcli.remote import identities, sshsig
from commcli.remote.hostkeys import HostKeys
from commcli.remote.outcome import Failed, Outcome, bounded, each
from commcli.remote.ssh import Connection, Pool
from commcli.remote.sshconfig import Stop, way
from commcli.remote.trust import read
from commcli.store.glance import Glance, glance

PACKAGES = ("asyncssh", "cryptography", "jinja2", "numpy", "aiortc")
PROGRAMS = ("ssh", "ssh-keygen")
DNS_S = 2.0
AGENT_S = 2.0
# All of it is to be done in five seconds, logins at the far side of the world too.
REACH_S = 4.0


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine and the folder that commcli writes to. `programs` are None where they are missing."""

    versions: Mapping[str, str]
    programs: Mapping[str, str | None]
    state: Path
    writable: bool
    free_bytes: int
    store: Glance


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key: `mode` is None where there is no file; `locked`: it has a passphrase, or is on a token, and signs
    through the agent only.
    """

    path: Path
    mode: int | None
    locked: bool
    in_agent: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret is; `mode` of its file, `error`: that it can not be read, and why. Commands are not run."""

    name: str
    where: str
    mode: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the inventory asks of this machine. `agent`: how many keys it has, or what is wrong with it.

    `signing`: what signs tables, or in `signing_error` why nothing does. `unknown`: hosts whose keys known_hosts lacks,
    of all `hosts`. `unresolved`: host names without an address, with why.
    """

    agent: int | str
    signing: str
    signing_error: str
    secrets: Sequence[Place]
    keys: Sequence[KeyFile]
    known_hosts: Path
    known_hosts_error: str
    hosts: int
    unknown: Sequence[str]
    unresolved: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Met:
    """A machine we have logged in to: how long that took; its clock beside ours, None where it does not tell."""

    login_s: float
    clock: Clock | None = None


def machine(state: Path, database: Path) -> Machine:
    """This machine."""
    place = next(path for path in (state, *state.parents) if path.exists())
    return Machine(
        {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        {name: shutil.which(name) for name in PROGRAMS},
        state,
        os.access(place, os.W_OK | os.X_OK),
        shutil.disk_usage(place).free,
        glance(database),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


async def look(fleet: Fleet) -> Desk:
    """What the inventory of `fleet` asks of this machine. Raises BadInput where its ssh_config is wrong."""
    stops = _stops(fleet, fleet.nodes.values())
    agent: int | str = "not used"
    public: frozenset[bytes] = frozenset()
    if fleet.ssh.agent or fleet.signing.agent:
        try:
            async with bounded(AGENT_S, f"the SSH agent does not answer in {AGENT_S:g} s"):
                public = await identities.of_agent()
            agent = len(public)
        except CommcliError as error:
            agent = str(error)
    signing, signing_error = _signing(fleet, public)
    known_hosts_error, unknown = "", []
    try:
        keys = read(fleet.ssh.known_hosts)
        unknown = [stop.words for stop in stops if not _is_known(keys, stop)]
    except CommcliError as error:
        known_hosts_error = str(error)
    return Desk(
        agent, signing, signing_error,
        [_place(name, ref) for name, ref in fleet.secrets.items()],
        [_key_file(path, public) for path in fleet.ssh.identities],
        fleet.ssh.known_hosts, known_hosts_error, len(stops), unknown, await _unresolved(stops),
    )  # fmt: skip


def _stops(fleet: Fleet, nodes: Iterable[Node]) -> list[Stop]:
    """Every machine on the way to these nodes, once."""
    return list({stop.name: stop for node in nodes for stop in way(fleet, node)}.values())


def _is_known(keys: HostKeys, stop: Stop) -> bool:
    return any(keys.match(stop.login))


def _signing(fleet: Fleet, agent: frozenset[bytes]) -> tuple[str, str]:
    """What can sign tables, and why nothing can."""
    key = fleet.signing.key
    try:
        signers = sshsig.believed(fleet.signing.signers)
        wanted = set(identities.public_blobs(key)) if key else signers
        if fleet.signing.agent:
            there, what = wanted & agent, f"{key or 'a key'} in the agent"
        elif key is None:
            return "", "neither a key nor the agent is configured"
        elif identities.is_locked(key):
            return (
                "",
                f"{key} has a passphrase or is on a token: it signs through the agent only (agent: true)",
            )
        else:
            there, what = wanted, str(key)
    except CommcliError as error:
        return "", str(error)
    if not there:
        return "", f"the agent does not have {key or 'any key of the allowed signers'}"
    if not there & signers:
        return "", f"{what} is not among the allowed signers in {fleet.signing.signers}"
    return what, ""


def _key_file(path: Path, agent: frozenset[bytes]) -> KeyFile:
    in_agent = bool(agent & set(identities.public_blobs(path)))
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return KeyFile(path, None, False, in_agent, "" if in_agent else str(error.strerror))
    try:
        return KeyFile(path, mode, identities.is_locked(path), in_agent)
    except CommcliError as error:
        return KeyFile(path, mode, False, in_agent, "" if in_agent else str(error))


def _place(name: str, ref: SecretRef) -> Place:
    if ref.command:
        # Not run: it may want a finger on a token.
        return Place(
            name,
            str(ref),
            error="" if shutil.which(ref.command[0]) else f"secret {name}: {ref}: no such program",
        )
    try:
        ref.read()
    except CommcliError as error:
        return Place(name, str(ref), error=str(error))
    return Place(name, str(ref), stat.S_IMODE(ref.file.stat().st_mode) if ref.file else None)


async def _unresolved(stops: Sequence[Stop]) -> dict[str, str]:
    # Behind a jump host that one resolves the name.
    names = {
        stop.login.host for stop in stops if stop.login.jump is None and not _is_address(stop.login.host)
    }
    answers = await asyncio.gather(*(_resolved(name) for name in sorted(names)))
    return {name: reason for name, reason in zip(sorted(names), answers, strict=True) if reason}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolved(name: str) -> str:
    """Why this name has no address; "" if it has one."""
    try:
        async with asyncio.timeout(DNS_S):
            await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"no answer in {DNS_S:g} s"
    except OSError as error:
        return str(error.strerror or error)
    return ""


def sample(fleet: Fleet, *, every: bool) -> list[Node]:
    """The nodes to look at: one a region, the first that is not drained; or all."""
    nodes = list(fleet.nodes.values())
    if every:
        return nodes
    ordered = sorted(nodes, key=lambda node: node.state == "drain")
    return list({node.region: node for node in reversed(ordered)}.values())


Reached = tuple[dict[str, Outcome[Met]], dict[str, Outcome[Met]]]


async def reach(fleet: Fleet, nodes: Sequence[Node]) -> Reached:
    """One login to each jump host of the fleet, and to each of `nodes`, all at once: (jump hosts, nodes).

    Raises BadInput where no login can be tried at all.
    """
    ways = {node.id: way(fleet, node) for node in nodes}
    jumps = _jumps(fleet)
    async with Pool(fleet) as pool:

        async def met_jump(node: Node) -> Met:
            began = time.monotonic()
            await pool.reach(jumps[node.id])
            return Met(time.monotonic() - began)

        async def met(node: Node) -> Met:
            began = time.monotonic()
            connection = await pool.reach(ways[node.id])
            return Met(time.monotonic() - began, await _clock(connection))

        # Outcomes are of nodes; a jump host need not be one, and has its name all the same.
        standing_in = [replace(next(iter(fleet.nodes.values())), id=name) for name in jumps]
        at_jumps, at_nodes = await asyncio.gather(
            each(
                standing_in,
                met_jump,
                parallel=pool.parallel,
                node_timeout_s=REACH_S,
                deadline_s=REACH_S + 0.3,
            ),
            each(nodes, met, parallel=pool.parallel, node_timeout_s=REACH_S, deadline_s=REACH_S + 0.3),
        )
    return {outcome.node: outcome for outcome in at_jumps}, {outcome.node: outcome for outcome in at_nodes}


def _jumps(fleet: Fleet) -> dict[str, tuple[Stop, ...]]:
    """The way to each jump host, by its name."""
    found: dict[str, tuple[Stop, ...]] = {}
    for node in fleet.nodes.values():
        stops = way(fleet, node)
        for upto in range(1, len(stops)):
            found.setdefault(stops[upto - 1].words, stops[:upto])
    return found


async def _clock(connection: Connection) -> Clock:
    """The node's clock beside ours: it tells the time once we ask, so that nothing but one round trip is unsure.

    Raises Failed, Lost, LoginRefused (by sudo).
    """
    process = await connection.start(shlex.join(["sh", "-c", _TELL]))
    try:
        asked = time.time()
        process.write(b"\n")
        said = b""
        # What a login shell's rc file prints may come before it.
        while b"\n" not in said.partition(_MARK)[2] and (more := await process.read()):
            said += more
        heard = time.time()
        if not said:
            process.raise_if_refused(await process.wait(), await process.read_error())
    finally:
        process.close()
    return clock_of(said, asked, heard)


_MARK = b"commcli-clock "
_TELL = "read x; echo commcli-clock $(date +%s.%N)"


def clock_of(said: bytes, asked: float, heard: float) -> Clock:
    """What a node's `date +%s.%N` said between these times of ours. Raises Failed. (Some know no %N.)"""
    found = re.search(_MARK + rb"(\d+)(\.\d+)?", said)
    if found is None:
        raise Failed("does not tell the time")
    rough_s = 0.0 if found[2] else 0.5
    there = float(found[1] + (found[2] or b"")) + rough_s
    return Clock(there - (asked + heard) / 2, (heard - asked) / 2 + rough_s)
