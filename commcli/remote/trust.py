"""Trusting host keys for the first time, or anew: what hosts show beside what known_hosts and the inventory say."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from commcli.errors import BadInput, Refused, gravest
from commcli.fleet.model import Fleet, Node
from commcli.remote import hostkeys, knownhosts
from commcli.remote.hostkeys import HostKeys
from commcli.remote.outcome import OnEvent, Outcome, each
from commcli.remote.ssh import Pool
from commcli.remote.sshconfig import Login, Stop, way

Finding = Literal["known", "new", "changed", "strange"]
State = Literal["known", "trusted", "replaced", "new", "changed", "declined", "refused", "unreachable"]
Document = dict[str, Any]
_CODES: Mapping[str, int] = {"declined": 1, "unreachable": 4, "refused": 5, "changed": 5, "new": 5}


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that keys are wanted of: a node, or a jump host before some.

    `expected` are the fingerprints that the inventory says.
    """

    way: tuple[Stop, ...]
    nodes: tuple[str, ...]
    expected: tuple[str, ...]

    @property
    def login(self) -> Login:
        return self.way[-1].login

    @property
    def name(self) -> str:
        """As a person calls it."""
        return self.way[-1].words

    @property
    def place(self) -> str:
        """As known_hosts calls it."""
        alias = self.login.known_as
        return self.login.place if alias == self.login.host else alias

    def leads_to(self, other: Host) -> bool:
        """Whether `other` is reached by way of this one."""
        return self.way[-1].name in [stop.name for stop in other.way[:-1]]


@dataclass(slots=True)
class Row:
    """What became of one host. Keys are `type base64`: those that it `shows`, and those that known_hosts `had`."""

    host: Host
    state: State
    shows: Sequence[str] = ()
    had: Sequence[str] = ()
    reason: str = ""
    trusted: Sequence[str] = field(default_factory=list)


def hosts(fleet: Fleet, nodes: Iterable[Node]) -> list[Host]:
    """The machines on the way to `nodes`, each once, jump hosts before those behind them. Raises BadInput."""
    ways: dict[str, tuple[Stop, ...]] = {}
    asked_for: dict[str, list[str]] = {}
    for node in nodes:
        whole = way(fleet, node)
        for upto in range(1, len(whole) + 1):
            name = whole[upto - 1].name
            ways.setdefault(name, whole[:upto])
            asked_for.setdefault(name, []).append(node.id)
    expected = {name: fleet.nodes[name].ssh.host_keys if name in fleet.nodes else () for name in ways}
    return [Host(ways[name], tuple(asked_for[name]), expected[name]) for name in ways]


def compared(shows: Sequence[str], had: Sequence[str], expected: Sequence[str]) -> Finding:
    """What the keys of a host are, beside those that were trusted before and the fingerprints that are expected."""
    if expected and not any(knownhosts.fingerprint(key) in expected for key in shows):
        return "strange"
    if not had:
        return "new"
    types = {key.split()[0] for key in had}
    conflict = any(key.split()[0] in types and key not in had for key in shows)
    return "changed" if conflict or not set(shows) & set(had) else "known"


def to_trust(row: Row) -> list[str]:
    """Of the keys that a host shows those to write down: where some are expected, no others."""
    expected = row.host.expected
    return [key for key in row.shows if not expected or knownhosts.fingerprint(key) in expected]


async def look(
    fleet: Fleet, wanted: Sequence[Host], pool: Pool, keys: HostKeys, on_event: OnEvent
) -> list[Row]:
    """What these hosts show now; nothing is written."""
    by_name = {host.name: host for host in wanted}
    # Outcomes are of nodes; a jump host is none, and has its name all the same.
    standing_in = [_named(fleet, host) for host in wanted]

    async def one(node: Node) -> list[str]:
        host = by_name[node.id]
        had, authorities = keys.match(host.login)
        if authorities and not had:
            return []
        return await pool.host_keys(host.way)

    outcomes = await each(standing_in, one, parallel=pool.parallel, on_event=on_event)
    return [_row(by_name[outcome.node], outcome, keys) for outcome in outcomes]


def _named(fleet: Fleet, host: Host) -> Node:
    return replace(fleet.nodes[host.nodes[0]], id=host.name)


def _row(host: Host, outcome: Outcome[list[str]], keys: HostKeys) -> Row:
    known, authorities = keys.match(host.login)
    had = hostkeys.texts(known)
    if outcome.value is None:
        state: State = "refused" if outcome.state == "refused" else "unreachable"
        return Row(host, state, had=had, reason=outcome.reason)
    if authorities and not had:
        return Row(host, "known", reason="by a certificate authority")
    if not outcome.value:
        return Row(host, "unreachable", had=had, reason="shows no key of a type that is known here")
    found = compared(outcome.value, had, host.expected)
    if found == "changed" and not keys.knows_port(host.login):
        # Another machine's, behind the same address.
        return Row(host, "new", outcome.value)
    if found == "strange":
        return Row(host, "refused", outcome.value, had, "shows none of the keys that the inventory expects")
    return Row(host, found, outcome.value, had)


def write(path: Path, row: Row) -> None:
    """Put the keys into known_hosts, in the place of those it had. Whole at every moment. Raises BadInput, Refused."""
    place, wanted = row.host.place, to_trust(row)
    try:
        text = _text(path)
        bare = knownhosts.without(text, place) if row.had else text
        new = knownhosts.added(bare, place, wanted, salt=partial(os.urandom, 20))
        left, _ = hostkeys.parse(path, new).match(row.host.login)
        if set(hostkeys.texts(left)) - set(wanted):
            raise Refused(f"{path}: a pattern there believes another key of {place}: take it out by hand")
        _replace(path.resolve(), new)
    except OSError as error:
        raise BadInput(f"known hosts {path}: {error.strerror}") from None
    row.state, row.trusted = "replaced" if row.had else "trusted", wanted


def read(path: Path) -> HostKeys:
    """What known_hosts has now; one that is not there has nothing. Raises BadInput."""
    return hostkeys.read(path) if path.exists() else HostKeys.none(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _replace(path: Path, text: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def document(fleet: Fleet, rows: Sequence[Row], *, code: int | None = None) -> Document:
    """`fleet trust`: a row a host. JSON-able. `code` stands in for what the rows would say."""
    exit_code = gravest(_CODES.get(row.state, 0) for row in rows) if code is None else code
    return {
        "schema": 1,
        "kind": "fleet.trust",
        "fleet": fleet.name,
        "known_hosts": str(fleet.ssh.known_hosts),
        "exit_code": exit_code,
        "hosts": [
            {
                "host": row.host.name,
                "place": row.host.place,
                "nodes": list(row.host.nodes),
                "state": row.state,
                "reason": row.reason,
                "shows": told(row.shows),
                "had": told(row.had),
                "trusted": told(row.trusted),
            }
            for row in rows
        ],
    }


def told(keys: Iterable[str]) -> list[Document]:
    """Keys as people compare them."""
    return [{"type": key.split()[0], "fingerprint": knownhosts.fingerprint(key)} for key in keys]
