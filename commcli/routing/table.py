"""The table: a plan's routes as a manifest and one shard a node, in bytes that depend on their content alone.
Pure.

Canonical JSON (sorted keys, no spaces, UTF-8): the same routes give the same bytes, so a hash is a
comparison. The manifest is what is signed; it holds the hash of each shard. The format is the contract with
`relay/table/shard.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from commcli.errors import BadInput, Refused
from commcli.relay.table import shard as shard_rule
from commcli.relay.table.document import decode_at_once, undisturbed
from commcli.relay.table.shard import SHARED
from commcli.routing.planner import Incumbent, Plan, Routes, incumbent
from commcli.routing.policy import NodeRow, Policy, ZoneRow
from commcli.routing.rows import ROLES, Rows, Spelling
from commcli.routing.rows import Pair as Pair
from commcli.routing.rows import Path as Path
from commcli.routing.rows import Route as Route

SCHEMA = 2
NAMESPACE = "commcli-table"
# Fail static for long is safe: a table eight rounds old still keeps three quarters of the gain.
LIFETIME_S = 7 * 86400


@dataclass(frozen=True, slots=True)
class Table:
    """All routes under one serial. `created` and `expires` are Unix seconds; `inputs` names what it was made
    from by digest ("measurements", "policy"); `prefixes` are client networks and the edges nearest to them;
    `probe_kbit_s` is what each relay may carry of probes along paths that are in nobody's row.
    """

    fleet: str
    serial: int
    created: int
    expires: int
    inputs: Mapping[str, str]
    nodes: Mapping[str, NodeRow]
    zones: tuple[ZoneRow, ...]
    routes: Mapping[Pair, Route]
    blocked: frozenset[Pair]
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    probe_kbit_s: int = 0

    def incumbents(self, ids: tuple[str, ...]) -> Routes:
        """Its routes as the planner's arrays over `ids`."""
        if isinstance(self.routes, Rows) and self.routes.ids == ids:
            return self.routes.routes
        return Routes(
            primary=incumbent(ids, {pair: route.primary for pair, route in self.routes.items()}),
            backup=incumbent(ids, {pair: route.backup for pair, route in self.routes.items()}),
            last_resort=incumbent(ids, {pair: route.last_resort for pair, route in self.routes.items()}),
        )

    def same_routing(self, other: Table) -> bool:
        """Whether a relay would do the same with either, whatever their serials and dates."""
        mine = (self.routes, self.blocked, self.prefixes, self.probe_kbit_s)
        theirs = (other.routes, other.blocked, other.prefixes, other.probe_kbit_s)
        return (
            mine == theirs
            and _plain(self.nodes) == _plain(other.nodes)
            and _plain(self.zones) == _plain(other.zones)
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A table as it is signed, stored and pushed."""

    manifest: bytes
    shards: Mapping[str, bytes]


def from_plan(
    plan: Plan,
    policy: Policy,
    *,
    fleet: str,
    serial: int,
    created: int,
    measurements: str,
    rules: str,
    lifetime_s: int = LIFETIME_S,
) -> Table:
    """The table that a plan asks for. `measurements` and `rules` are the digests of what the plan was made
    from.
    """
    lawful = plan.primary.exists & ~plan.blocked
    np.fill_diagonal(lawful, False)
    roles = (
        Incumbent(paths.first, paths.second, paths.exists & lawful)
        for paths in (plan.primary, plan.backup, plan.last_resort)
    )
    walls = zip(*np.nonzero(plan.blocked & ~np.eye(len(plan.ids), dtype=bool)), strict=True)
    return Table(
        fleet=fleet,
        serial=serial,
        created=created,
        expires=created + lifetime_s,
        inputs={"measurements": measurements, "policy": rules},
        nodes=policy.nodes,
        zones=policy.zone_rows,
        routes=Rows(plan.ids, Routes(*roles)),
        blocked=frozenset((plan.ids[source], plan.ids[target]) for source, target in walls),
        prefixes=policy.prefixes,
        probe_kbit_s=policy.probe_kbit_s,
    )


def under_serial(table: Table, serial: int, created: int, *, lifetime_s: int = LIFETIME_S) -> Table:
    """The same routes as a newer table: how a rollback goes forward."""
    return replace(table, serial=serial, created=created, expires=created + lifetime_s)


def under_policy(table: Table, policy: Policy) -> Table:
    """The same routes with today's nodes, zones and client networks in place of those of its time.

    Paths through nodes that no longer exist, or that may not be transit today, fall away, and what is left of a
    route moves up. Whether the rest is lawful is for `unlawful` to say.
    """
    known = set(policy.ids)

    def stands(path: Path) -> bool:
        return set(path) <= known and all(policy.not_transit(relay) is None for relay in path[1:-1])

    blocked = frozenset(pair for pair in table.blocked if set(pair) <= known)
    kept = _only(table, stands)
    return replace(
        kept,
        nodes=policy.nodes,
        zones=policy.zone_rows,
        prefixes=policy.prefixes,
        blocked=blocked,
        probe_kbit_s=policy.probe_kbit_s,
    )


def unlawful(table: Table, policy: Policy) -> list[tuple[Pair, str, Path, str]]:
    """(pair, role, path, zone id) of every path in the table that breaks a zone of `policy`."""
    found = []
    for pair, route in sorted(table.routes.items()):
        for role, path in route.paths():
            zone = policy.violated(path)
            if zone is not None:
                found.append((pair, role, path, zone))
    return found


def lawful_part(table: Table, policy: Policy) -> Table:
    """The table without the paths that break a zone of `policy`; what is left of a route moves up."""
    blocked = {pair for pair in table.routes if policy.violated(pair) is not None}
    kept = _only(table, lambda path: policy.violated(path) is None)
    return replace(kept, blocked=table.blocked | blocked)


def _only(table: Table, wanted: Callable[[Path], bool]) -> Table:
    routes = {}
    for pair, route in table.routes.items():
        kept = [path for _, path in route.paths() if wanted(path)]
        if kept:
            routes[pair] = Route(*kept)
    return replace(table, routes=routes)


def encode(table: Table) -> Encoded:
    """Manifest and shards in canonical bytes. Raises Refused for a path that no shard can hold."""
    ids = tuple(sorted(table.nodes))
    place = {node: at for at, node in enumerate(ids)}
    if not isinstance(table.routes, Rows):
        _must_be_paths(table)
    spelling = Spelling(table.incumbents(ids))
    walls: dict[str, list[int]] = {node: [] for node in ids}
    for source, target in sorted(table.blocked):
        walls[source].append(place[target])
    shared: dict[str, Any] = {
        "schema": SCHEMA,
        "nodes": {node: dict(row) for node, row in table.nodes.items()},
        "zones": [dict(zone) for zone in table.zones],
    }
    if table.prefixes:
        shared["prefixes"] = dict(table.prefixes)
    if table.probe_kbit_s:
        shared["probe_kbit_s"] = table.probe_kbit_s
    shards = {SHARED: canonical(shared)}
    for at, node in enumerate(ids):
        parts = {
            "schema": SCHEMA,
            "serial": table.serial,
            "node": node,
            "blocked": walls[node],
            "routes": _spliced({role: spelling.rows(role, at) for role in ROLES}),
            "carries": spelling.carries(at),
        }
        shards[node] = _spliced(parts) + b"\n"
    manifest = {
        "schema": SCHEMA,
        "fleet": table.fleet,
        "serial": table.serial,
        "created": iso(table.created),
        "expires": iso(table.expires),
        "inputs": dict(table.inputs),
        "shards": {node: sha256(data) for node, data in shards.items()},
    }
    return Encoded(canonical(manifest), shards)


def _spliced(parts: Mapping[str, object]) -> bytes:
    """As `canonical` without the newline; a value in bytes is spelled so already."""
    return b"{%b}" % b",".join(
        b'"%b":%b' % (key.encode(), value if isinstance(value, bytes) else _spelled(value).encode())
        for key, value in sorted(parts.items())
    )


def _must_be_paths(table: Table) -> None:
    for (source, target), route in table.routes.items():
        for role, path in route.paths():
            fault = shard_rule.path_fault(source, table.nodes, target, path)
            if fault is not None:
                raise Refused(f"table refused before signing: path: {role} to {target}: {fault}")


def decode(manifest: bytes, shards: Mapping[str, bytes]) -> Table:
    """The table back from its bytes. Raises BadInput when a shard is missing, altered or not of this table."""
    head = _object(manifest, "manifest")
    try:
        for node, digest in head["shards"].items():
            if node not in shards or sha256(shards[node]) != digest:
                raise BadInput(
                    f"table {head['serial']}: shard {node}: missing or not the one that was signed"
                )
        with undisturbed():
            return _decoded(head, {node: _object(shards[node], f"shard {node}") for node in head["shards"]})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"table: not in the shape of one: {error!r}") from None


def _decoded(head: Mapping[str, Any], parts: dict[str, dict[str, Any]]) -> Table:
    shared = parts.pop(SHARED, None)
    if shared is None:  # schema 1: every shard has it all, and says it by names
        nobody: dict[str, Any] = {"nodes": {}, "zones": []}
        shared = next(iter(parts.values()), nobody)
        routes = {
            (node, target): _route(row)
            for node, part in parts.items()
            for target, row in part["routes"].items()
        }
        blocked = frozenset((node, target) for node, part in parts.items() for target in part["blocked"])
    else:
        ids = sorted(shared["nodes"])
        routes = {
            (node, ids[numbers["primary"][-1]]): _route(
                {role: [ids[at] for at in path] for role, path in numbers.items()}
            )
            for node, part in parts.items()
            for numbers in _by_target(part["routes"])
        }
        blocked = frozenset((node, ids[target]) for node, part in parts.items() for target in part["blocked"])
    return Table(
        fleet=head["fleet"],
        serial=head["serial"],
        created=unix(head["created"]),
        expires=unix(head["expires"]),
        inputs=head["inputs"],
        nodes=shared["nodes"],
        zones=tuple(shared["zones"]),
        routes=routes,
        blocked=blocked,
        prefixes={text: tuple(row) for text, row in shared.get("prefixes", {}).items()},
        probe_kbit_s=shared.get("probe_kbit_s", 0),
    )


def _route(row: Mapping[str, Sequence[str] | None]) -> Route:
    primary, backup, last = (row.get(role) for role in ROLES)
    assert primary is not None
    return Route(
        tuple(primary), None if backup is None else tuple(backup), None if last is None else tuple(last)
    )


def _by_target(rows: Mapping[str, list[list[int]]]) -> Iterable[Mapping[str, list[int]]]:
    """The paths of each role put together by where they end."""
    found: dict[int, dict[str, list[int]]] = {path[-1]: {"primary": path} for path in rows["primary"]}
    for role in ROLES[1:]:
        for path in rows[role]:
            found[path[-1]][role] = path
    return found.values()


def check(encoded: Encoded, *, now_unix: float, highest_serial: int) -> None:
    """Put every shard before the relay's own judge. Raises Refused with the words a node would use."""
    node = SHARED
    try:
        with undisturbed():
            shared = shard_rule.load_shared(encoded.shards[SHARED], decode_at_once)
            for node, data in encoded.shards.items():
                if node != SHARED:
                    shard_rule.load(
                        encoded.manifest,
                        data,
                        node=node,
                        unix=now_unix,
                        highest_serial=highest_serial,
                        shared=shared,
                        read_json=decode_at_once,
                    )
    except shard_rule.ShardRefused as refusal:
        raise Refused(f"table refused before signing: shard {node}: {refusal}") from None


def networks_changed(before: Table | None, after: Table) -> list[str]:
    """The client networks that get other edges, or are new or gone."""
    old = {} if before is None else before.prefixes
    return sorted(text for text in {*old, *after.prefixes} if old.get(text) != after.prefixes.get(text))


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document: sorted keys, no spaces, UTF-8, a newline at the end."""
    return _spelled(document).encode() + b"\n"


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def iso(unix_s: float) -> str:
    """2026-01-02T03:04:05Z"""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str) -> int:
    """Unix seconds of an `iso` time. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        raise BadInput(f"table: {what} is not JSON") from None
    if not isinstance(document, dict):
        raise BadInput(f"table: {what} is not a JSON object")
    return document


def _plain(rows: object) -> object:
    """Rows that came from memory and rows that came from JSON, alike."""
    return json.loads(json.dumps(rows, default=dict, sort_keys=True))
