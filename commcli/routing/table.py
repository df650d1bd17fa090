"""The table: a plan's routes as a manifest and one shard a node, in bytes that depend on their content alone.
Pure.

Canonical JSON (sorted keys, no spaces, UTF-8): the same routes give the same bytes, so a hash is a
comparison. The manifest is what is signed; it holds the hash of each shard. The format is the contract with
`relay/table/shard.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from commcli.errors import BadInput, Refused
from commcli.relay.table import shard as shard_rule
from commcli.relay.table.prefixes import PrefixMap
from commcli.routing.planner import Plan, Routes, incumbent
from commcli.routing.policy import NodeRow, Policy, ZoneRow

SCHEMA = 1
NAMESPACE = "commcli-table"
# Fail static for long is safe: a table eight rounds old still keeps three quarters of the gain.
LIFETIME_S = 7 * 86400

Path = tuple[str, ...]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """What one edge does towards another: each path lists the nodes from edge to edge."""

    primary: Path
    backup: Path | None = None
    last_resort: Path | None = None

    def paths(self) -> Iterator[tuple[str, Path]]:
        """(role, path) of every path that is there, the preferred one first."""
        for role, path in (
            ("primary", self.primary),
            ("backup", self.backup),
            ("last_resort", self.last_resort),
        ):
            if path is not None:
                yield role, path

    def row(self) -> dict[str, list[str] | None]:
        """As the shard carries it."""
        listed = dict(self.paths())
        return {
            role: list(listed[role]) if role in listed else None
            for role in ("primary", "backup", "last_resort")
        }


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
    routes: dict[Pair, Route] = {}
    blocked: set[Pair] = set()
    for i, source in enumerate(plan.ids):
        for j, target in enumerate(plan.ids):
            if i == j:
                continue
            primary = plan.primary.path(plan.ids, i, j)
            if plan.blocked[i, j]:
                blocked.add((source, target))
            elif primary is not None:
                spare = plan.backup.path(plan.ids, i, j), plan.last_resort.path(plan.ids, i, j)
                routes[source, target] = Route(primary, *spare)
    return Table(
        fleet=fleet,
        serial=serial,
        created=created,
        expires=created + lifetime_s,
        inputs={"measurements": measurements, "policy": rules},
        nodes=policy.nodes,
        zones=policy.zone_rows,
        routes=routes,
        blocked=frozenset(blocked),
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
    """Manifest and shards in canonical bytes."""
    dates = {"created": iso(table.created), "expires": iso(table.expires)}
    rows: dict[str, dict[str, Any]] = {node: {} for node in table.nodes}
    walls: dict[str, list[str]] = {node: [] for node in table.nodes}
    for (source, target), route in table.routes.items():
        rows[source][target] = route.row()
    for source, target in sorted(table.blocked):
        walls[source].append(target)
    carried = carries(table)
    common: dict[str, Any] = {
        "schema": SCHEMA,
        "serial": table.serial,
        **dates,
        "nodes": {node: dict(row) for node, row in table.nodes.items()},
        "zones": [dict(zone) for zone in table.zones],
    }
    if table.prefixes:
        common["prefixes"] = dict(table.prefixes)
    if table.probe_kbit_s:
        common["probe_kbit_s"] = table.probe_kbit_s
    spelled = {key: _spelled(value) for key, value in common.items()}
    shards = {
        node: _joined(
            spelled, {"node": node, "routes": rows[node], "blocked": walls[node], "carries": carried[node]}
        )
        for node in sorted(table.nodes)
    }
    manifest = {
        "schema": SCHEMA,
        "fleet": table.fleet,
        "serial": table.serial,
        **dates,
        "inputs": dict(table.inputs),
        "shards": {node: sha256(data) for node, data in shards.items()},
    }
    return Encoded(canonical(manifest), shards)


def carries(table: Table) -> dict[str, list[str]]:
    """For each node the paths of all other nodes' rows on which it is transit or egress, spelled as a shard does."""
    found: dict[str, set[Path]] = {node: set() for node in table.nodes}
    for route in table.routes.values():
        for _, path in route.paths():
            for node in path[1:]:
                if node in found:  # a table with a node that is not in it goes no further than `check`
                    found[node].add(path)
    return {node: [" ".join(path) for path in sorted(paths)] for node, paths in found.items()}


def decode(manifest: bytes, shards: Mapping[str, bytes]) -> Table:
    """The table back from its bytes. Raises BadInput when a shard is missing, altered or not of this table."""
    head = _object(manifest, "manifest")
    try:
        for node, digest in head["shards"].items():
            if node not in shards or sha256(shards[node]) != digest:
                raise BadInput(
                    f"table {head['serial']}: shard {node}: missing or not the one that was signed"
                )
        parts = {node: _object(shards[node], f"shard {node}") for node in sorted(head["shards"])}
        nobody: dict[str, Any] = {"nodes": {}, "zones": []}
        any_part = next(iter(parts.values()), nobody)
        return Table(
            fleet=head["fleet"],
            serial=head["serial"],
            created=unix(head["created"]),
            expires=unix(head["expires"]),
            inputs=head["inputs"],
            nodes=any_part["nodes"],
            zones=tuple(any_part["zones"]),
            routes={
                (node, target): _route(row)
                for node, part in parts.items()
                for target, row in part["routes"].items()
            },
            blocked=frozenset((node, target) for node, part in parts.items() for target in part["blocked"]),
            prefixes={text: tuple(row) for text, row in any_part.get("prefixes", {}).items()},
            probe_kbit_s=any_part.get("probe_kbit_s", 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"table: not in the shape of schema {SCHEMA}: {error!r}") from None


def check(encoded: Encoded, *, now_unix: float, highest_serial: int) -> None:
    """Put every shard before the relay's own judge. Raises Refused with the words a node would use."""
    read_prefixes = _read_once()
    for node, data in encoded.shards.items():
        try:
            shard_rule.load(
                encoded.manifest,
                data,
                node=node,
                unix=now_unix,
                highest_serial=highest_serial,
                read_prefixes=read_prefixes,
            )
        except shard_rule.ShardRefused as refusal:
            raise Refused(f"table refused before signing: shard {node}: {refusal}") from None


def _read_once() -> shard_rule.ReadPrefixes:
    """Reads a prefix map, but not the same one again: a fleet's shards all carry it."""
    known: list[tuple[Mapping[str, Sequence[str]], PrefixMap]] = []

    def read(rows: Mapping[str, Sequence[str]]) -> PrefixMap:
        if not known or known[0][0] != rows:
            known[:] = [(rows, PrefixMap(rows))]
        return known[0][1]

    return read


@dataclass(frozen=True, slots=True)
class Difference:
    """One pair whose route is not the same in two tables. `role` is the most important path that differs."""

    pair: Pair
    role: str
    before: Path | None
    after: Path | None
    blocked_before: bool
    blocked_after: bool


def diff(before: Table | None, after: Table) -> list[Difference]:
    """What `after` does differently, pair by pair, in order."""
    old = before.routes if before else {}
    walls = before.blocked if before else frozenset()
    found = []
    for pair in sorted({*old, *after.routes, *walls, *after.blocked}):
        was, now = old.get(pair), after.routes.get(pair)
        fences = pair in walls, pair in after.blocked
        for role in ("primary", "backup", "last_resort"):
            one, other = getattr(was, role, None), getattr(now, role, None)
            if one != other or (role == "primary" and fences[0] != fences[1]):
                found.append(Difference(pair, role, one, other, *fences))
                break
    return found


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document: sorted keys, no spaces, UTF-8, a newline at the end."""
    return _spelled(document).encode() + b"\n"


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _joined(spelled: Mapping[str, str], rest: Mapping[str, object]) -> bytes:
    """`canonical` of both together, when one is spelled already: what N shards share is not written N times over."""
    whole = {**spelled, **{key: _spelled(value) for key, value in rest.items()}}
    return ("{" + ",".join(f"{_spelled(key)}:{whole[key]}" for key in sorted(whole)) + "}\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def iso(unix_s: float) -> str:
    """2026-01-02T03:04:05Z"""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str) -> int:
    """Unix seconds of an `iso` time. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def _route(row: Mapping[str, Any]) -> Route:
    spare = [None if row[role] is None else tuple(row[role]) for role in ("backup", "last_resort")]
    return Route(tuple(row["primary"]), *spare)


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
