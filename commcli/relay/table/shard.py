"""One node's rows of the routing table, and every reason to refuse them.

The signature over the manifest is checked before (`signature.verify`); the manifest holds the shard's hash.
So whatever is parsed here was signed by an operator. It is checked all the same: the relay is the last one
that can keep a mistake in a planner from becoming a packet in the wrong country. Unknown keys are refused,
since a rule that is not understood cannot be obeyed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from commcli.relay.overlay.wire import MAX_HOPS, MIN_HOPS, node_number
from commcli.relay.table import carries, zones
from commcli.relay.table.carries import Path
from commcli.relay.table.document import decode
from commcli.relay.table.prefixes import PrefixMap

SCHEMA = 1
MAX_BYTES = 16 << 20
MAX_PROBE_KBIT_S = 1_000_000
LABELS = ("primary", "backup", "last_resort")


class ShardRefused(Exception):
    """A table that must not be used. `reason` is one word, `detail` the rest of the line.

    reason: signature, hash, serial, expired, node, shape, path, zone.
    """

    def __init__(self, reason: str, detail: str) -> None:
        # It quotes the file, and goes to logs and terminals.
        self.detail = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in detail[:400])
        super().__init__("%s: %s" % (reason, self.detail))
        self.reason = reason


@dataclass(frozen=True)
class ShardNode:
    """What a relay needs to know of any node on its paths. relay_ports: lowest and highest.

    turn_port (UDP and TCP) stands only with nodes that take new clients; tls_port and domain (what its certificate
    names) with those of them that have one. address6: its IPv6 address beside an IPv4 one. transit: may a probe pass it
    between two edges?
    """

    address: str
    overlay_port: int
    relay_ports: Tuple[int, int]
    country: Optional[str]
    markets: FrozenSet[str]
    address6: Optional[str] = None
    turn_port: Optional[int] = None
    tls_port: Optional[int] = None
    domain: Optional[str] = None
    transit: bool = True

    @property
    def addresses(self) -> Tuple[str, ...]:
        """Where its relayed addresses are: one a family."""
        return (self.address,) if self.address6 is None else (self.address, self.address6)


@dataclass(frozen=True)
class Route:
    """The paths from this node to one egress, both ends included, in order of preference."""

    primary: Path
    backup: Optional[Path]
    last_resort: Optional[Path]

    def paths(self) -> List[Tuple[str, Path]]:
        """(label, path) of those that exist."""
        named = zip(LABELS, (self.primary, self.backup, self.last_resort))
        return [(label, path) for label, path in named if path is not None]


@dataclass(frozen=True)
class Shard:
    """A checked shard. created, expires: as written; expires_unix: seconds; prefixes: client networks -> edges.

    carries: the paths of other nodes' rows on which this one is transit or egress, all others being refused; None
    in a table of a controller that did not write them yet. probe_kbit_s: but so much of probes over any one relay may
    pass here together; 0: nothing.
    """

    serial: int
    node: str
    created: str
    expires: str
    expires_unix: float
    nodes: Mapping[str, ShardNode]
    zones: Tuple[zones.Zone, ...]
    routes: Mapping[str, Route]
    blocked: FrozenSet[str]
    prefixes: PrefixMap = field(default_factory=lambda: PrefixMap({}))
    carries: Optional[FrozenSet[Path]] = None
    probe_kbit_s: int = 0


ReadPrefixes = Callable[[Mapping[str, Sequence[str]]], PrefixMap]


def load(
    manifest: bytes,
    shard: bytes,
    *,
    node: str,
    unix: float,
    highest_serial: int,
    read_prefixes: ReadPrefixes = PrefixMap,
) -> Shard:
    """The shard of `node`, checked against its (already verified) manifest and against policy.

    highest_serial: the highest this node ever took, 0 if none; an equal one is fine (a restart reads it).
    read_prefixes: for who judges many shards of one table, and need not read their common map each time.
    Raises ShardRefused.
    """
    front = _document(manifest, "manifest", _MANIFEST_KEYS)
    serial = _serial(front, "manifest")
    if serial < highest_serial:
        raise ShardRefused("serial", "%d is older than %d, seen by this node" % (serial, highest_serial))
    expires_unix = _instant(front, "expires", "manifest")
    _instant(front, "created", "manifest")
    if unix >= expires_unix:
        raise ShardRefused("expired", "manifest %d expired at %s" % (serial, front["expires"]))
    digests = _mapping(front, "shards", "manifest")
    if node not in digests:
        raise ShardRefused("node", "manifest %d has no shard for %s" % (serial, node))
    if hashlib.sha256(shard).hexdigest() != digests[node]:
        raise ShardRefused("hash", "the shard is not the one that manifest %d names" % serial)
    body = _document(shard, "shard", _SHARD_KEYS)
    return _body(body, serial, node, unix, expires_unix, read_prefixes)


def _body(
    body: Mapping[str, Any],
    serial: int,
    node: str,
    unix: float,
    manifest_expires_unix: float,
    read_prefixes: ReadPrefixes,
) -> Shard:
    if _text(body, "node", "shard") != node:
        raise ShardRefused("node", "the shard is for %s" % body["node"])
    if _serial(body, "shard") != serial:
        raise ShardRefused("serial", "the shard says %d, its manifest %d" % (body["serial"], serial))
    _instant(body, "created", "shard")
    expires_unix = min(manifest_expires_unix, _instant(body, "expires", "shard"))
    if unix >= expires_unix:
        raise ShardRefused("expired", "shard %d expired at %s" % (serial, body["expires"]))
    nodes = {name: _node(name, row) for name, row in _mapping(body, "nodes", "shard").items()}
    if node not in nodes:
        raise ShardRefused("node", "the shard does not know %s itself" % node)
    _distinct_numbers(nodes)
    loaded = Shard(
        serial=serial,
        node=node,
        created=body["created"],
        expires=body["expires"],
        expires_unix=expires_unix,
        nodes=nodes,
        zones=_unique_zones(body),
        routes={egress: _route(egress, row) for egress, row in _mapping(body, "routes", "shard").items()},
        blocked=_texts(body, "blocked", "shard"),
        prefixes=_prefixes(body, nodes, read_prefixes),
        probe_kbit_s=_whole(body.get("probe_kbit_s", 0), 0, MAX_PROBE_KBIT_S, "shard.probe_kbit_s"),
    )
    _check_policy(loaded)
    return replace(loaded, carries=_carries(body, loaded))


def _check_policy(shard: Shard) -> None:
    for egress, route in shard.routes.items():
        for label, path in route.paths():
            fault = path_fault(shard, egress, path)
            if fault is not None:
                raise ShardRefused("path", "%s to %s: %s" % (label, egress, fault))
            zone = zones.violated(shard.zones, shard.nodes, path)
            if zone is not None:
                raise ShardRefused("zone", "%s to %s breaks %s: %s" % (label, egress, zone, " > ".join(path)))


def path_fault(shard: Shard, egress: str, path: Sequence[str]) -> Optional[str]:
    """Why the path cannot be a route from this node to the egress, None if it can."""
    if not MIN_HOPS <= len(path) <= MAX_HOPS:
        return "%d nodes; at least %d, at most %d" % (len(path), MIN_HOPS, MAX_HOPS)
    if path[0] != shard.node:
        return "it starts at %s, not here" % path[0]
    if path[-1] != egress:
        return "it ends at %s" % path[-1]
    if len(set(path)) != len(path):
        return "a loop: %s" % " > ".join(path)
    unknown = [hop for hop in path if hop not in shard.nodes]
    return "unknown hop %s" % unknown[0] if unknown else None


def _distinct_numbers(nodes: Mapping[str, ShardNode]) -> None:
    # Two ids with one number would make a header ambiguous: one fleet of 1000 in ~9000 has such a pair.
    seen: Dict[int, str] = {}
    for name in nodes:
        twin = seen.setdefault(node_number(name), name)
        if twin != name:
            raise ShardRefused("shape", "nodes %s and %s have the same number; rename one" % (twin, name))


# What the JSON must look like. Every function raises ShardRefused("shape", ...) and names the place.

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")  # the inventory's
_MANIFEST_KEYS = ("schema", "fleet", "serial", "created", "expires", "inputs", "shards")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\Z"
)
_SHARD_KEYS = (
    *("schema", "serial", "node", "created", "expires", "nodes", "zones", "routes", "blocked"),
    *("prefixes", "carries", "probe_kbit_s"),
)
_NODE_KEYS = (
    *("address", "overlay_port", "relay_ports", "country", "markets"),
    *("address6", "turn_port", "tls_port", "domain", "transit"),
)
_ZONE_KEYS = ("id", "between", "forbid", "allow")


def _shape(where: str, what: str) -> ShardRefused:
    return ShardRefused("shape", "%s: %s" % (where, what))


def _document(data: bytes, where: str, keys: Sequence[str]) -> Dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise _shape(where, "longer than %d bytes" % MAX_BYTES)
    try:
        parsed = decode(data.decode())
    except RecursionError:
        raise _shape(where, "nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, a key twice
        raise _shape(where, str(error)) from None
    document = _object(parsed, where, keys)
    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        raise _shape(where, "schema is not %d" % SCHEMA)
    return document


def _object(value: Any, where: str, keys: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise _shape(where, "not an object")
    unknown = sorted(set(value) - set(keys)) if keys is not None else []
    if unknown:
        raise _shape(where, "unknown key %s" % unknown[0])
    return value


def _mapping(parent: Mapping[str, Any], key: str, where: str) -> Dict[str, Any]:
    return _object(parent.get(key), "%s.%s" % (where, key))


def _list(parent: Mapping[str, Any], key: str, where: str) -> List[Any]:
    value = parent.get(key)
    if not isinstance(value, list):
        raise _shape("%s.%s" % (where, key), "not a list")
    return value


def _texts(parent: Mapping[str, Any], key: str, where: str) -> FrozenSet[str]:
    return frozenset(_strings(_list(parent, key, where), "%s.%s" % (where, key)))


def _strings(values: List[Any], where: str) -> Tuple[str, ...]:
    if not all(isinstance(value, str) and value for value in values):
        raise _shape(where, "not all of it is text")
    return tuple(values)


def _text(parent: Mapping[str, Any], key: str, where: str) -> str:
    value = parent.get(key)
    if not isinstance(value, str) or not value:
        raise _shape("%s.%s" % (where, key), "not text")
    return value


def _whole(value: Any, low: int, high: int, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _shape(where, "not a whole number from %d to %d" % (low, high))
    return value


def _flag(row: Mapping[str, Any], key: str, where: str) -> bool:
    value = row.get(key, True)
    if not isinstance(value, bool):
        raise _shape("%s.%s" % (where, key), "neither true nor false")
    return value


def _serial(parent: Mapping[str, Any], where: str) -> int:
    return _whole(parent.get("serial"), 1, 0xFFFFFFFF, "%s.serial" % where)  # 32 bits in the overlay header


def _instant(parent: Mapping[str, Any], key: str, where: str) -> float:
    text = _text(parent, key, where)
    try:
        if not text.endswith("Z"):
            raise ValueError
        moment = datetime.fromisoformat(text[:-1])  # Python 3.9 does not read the Z
        if moment.tzinfo is not None:
            raise ValueError
    except ValueError:
        raise _shape("%s.%s" % (where, key), "not an ISO time ending in Z") from None
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _node(name: str, row: Any) -> ShardNode:
    if not _ID.match(name):
        raise _shape("shard.nodes", "%s is not a node id" % ascii(name[:80]))
    where = "shard.nodes.%s" % name
    row = _object(row, where, _NODE_KEYS)
    ports = _list(row, "relay_ports", where)
    if len(ports) != 2:
        raise _shape(where + ".relay_ports", "not [lowest, highest]")
    low = _whole(ports[0], 1, 65535, where + ".relay_ports")
    high = _whole(ports[1], low, 65535, where + ".relay_ports")
    return ShardNode(
        address=_address(row, "address", where),
        overlay_port=_whole(row.get("overlay_port"), 1, 65535, where + ".overlay_port"),
        relay_ports=(low, high),
        country=_text(row, "country", where) if row.get("country") is not None else None,
        markets=_texts(row, "markets", where),
        transit=_flag(row, "transit", where),
        **_front_door(row, where),
    )


def _front_door(row: Mapping[str, Any], where: str) -> Dict[str, Any]:
    """What a client needs in order to come here: all of it may be missing."""
    found: Dict[str, Any] = {}
    if "address6" in row:
        found["address6"] = _address(row, "address6", where)
        if ":" not in found["address6"] or ":" in _address(row, "address", where):
            raise _shape(where + ".address6", "not an IPv6 address beside an IPv4 one")
    for key in ("turn_port", "tls_port"):
        if key in row:
            found[key] = _whole(row[key], 1, 65535, "%s.%s" % (where, key))
    if "domain" in row:
        found["domain"] = _text(row, "domain", where)
        if not _DOMAIN.match(found["domain"]):
            raise _shape(where + ".domain", "not a domain name")
    if "turn_port" not in found and ("tls_port" in found or "domain" in found):
        raise _shape(where, "no turn_port, but tls_port or domain")
    if "tls_port" in found and found["tls_port"] == found["turn_port"]:
        raise _shape(where + ".tls_port", "the same as turn_port")
    return found


def _address(row: Mapping[str, Any], key: str, where: str) -> str:
    try:
        return str(ipaddress.ip_address(_text(row, key, where)))
    except ValueError:
        raise _shape("%s.%s" % (where, key), "not an IP address") from None


def _prefixes(body: Mapping[str, Any], nodes: Mapping[str, ShardNode], read: ReadPrefixes) -> PrefixMap:
    if "prefixes" not in body:
        return PrefixMap({})
    rows = _mapping(body, "prefixes", "shard")
    for text, row in rows.items():
        if not isinstance(row, list) or not all(isinstance(edge, str) for edge in row):
            raise _shape("shard.prefixes.%s" % ascii(text[:80]), "not a list of node ids")
    try:
        prefixes = read(rows)
    except ValueError as error:
        raise _shape("shard.prefixes", str(error)) from None
    unknown = sorted(prefixes.edges - set(nodes))
    if unknown:
        raise _shape("shard.prefixes", "unknown edge %s" % unknown[0])
    return prefixes


def _carries(body: Mapping[str, Any], shard: Shard) -> Optional[FrozenSet[Path]]:
    if "carries" not in body:
        return None
    try:
        return carries.parse(body["carries"], shard.node, shard.nodes, shard.zones)
    except carries.NotCarried as error:
        raise ShardRefused(error.reason, "shard.carries: %s" % error.detail) from None


def _unique_zones(body: Mapping[str, Any]) -> Tuple[zones.Zone, ...]:
    rules = tuple(_zone(place, row) for place, row in enumerate(_list(body, "zones", "shard")))
    if len({zone.id for zone in rules}) != len(rules):
        raise _shape("shard.zones", "two zones with one id")
    return rules


def _zone(place: int, row: Any) -> zones.Zone:
    where = "shard.zones[%d]" % place
    row = _object(row, where, _ZONE_KEYS)
    between = _list(row, "between", where)
    if len(between) != 2 or not all(isinstance(side, list) and side for side in between):
        raise _shape(where + ".between", "not two lists of markets")
    one, other = (frozenset(_strings(side, where + ".between")) for side in between)
    allow = _texts(row, "allow", where) if row.get("allow") is not None else None
    return zones.Zone(_text(row, "id", where), (one, other), _texts(row, "forbid", where), allow)


def _route(egress: str, row: Any) -> Route:
    where = "shard.routes.%s" % egress
    row = _object(row, where, LABELS)
    primary, backup, last_resort = (_path(row, label, where) for label in LABELS)
    if primary is None:
        raise _shape(where, "no primary path")
    return Route(primary, backup, last_resort)


def _path(row: Mapping[str, Any], label: str, where: str) -> Optional[Path]:
    return _strings(_list(row, label, where), where) if row.get(label) is not None else None
