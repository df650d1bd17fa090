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
from itertools import chain
from typing import (
    Any,
    Callable,
    Container,
    Dict,
    FrozenSet,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from commcli.relay.overlay.wire import MAX_HOPS, MIN_HOPS, node_number
from commcli.relay.table import carries, zones
from commcli.relay.table.carries import Path
from commcli.relay.table.document import decode
from commcli.relay.table.prefixes import PrefixMap

# 1: every shard holds all of the table but the other nodes' rows, by names. 2: numbers, and what all share apart.
SCHEMAS = (1, 2)
# What the shared part goes by among the shards of a manifest: no node has such an id.
SHARED = "*"
MAX_BYTES = 16 << 20
MAX_PROBE_KBIT_S = 1_000_000
LABELS = ("primary", "backup", "last_resort")

ReadJson = Callable[[str], Any]


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


@dataclass(frozen=True)
class Shared:
    """What all shards of one table have in common. ids: its nodes in order, by which the shards number them.

    judge: of its zones.
    """

    digest: str
    nodes: Mapping[str, ShardNode]
    ids: Tuple[str, ...]
    judge: zones.Judge
    zones: Tuple[zones.Zone, ...]
    prefixes: PrefixMap
    probe_kbit_s: int


def load_shared(data: bytes, read_json: ReadJson = decode) -> Shared:
    """The shared part of a table of schema 2. Raises ShardRefused."""
    body = _document(data, "shared", ("schema", *_SHARED_KEYS), (2,), read_json)
    return _shared(body, "shared", hashlib.sha256(data).hexdigest())


def load(
    manifest: bytes,
    shard: bytes,
    *,
    node: str,
    unix: float,
    highest_serial: int,
    shared: Union[bytes, Shared] = b"",
    read_json: ReadJson = decode,
) -> Shard:
    """The shard of `node`, checked against its (already verified) manifest and against policy.

    highest_serial: the highest this node ever took, 0 if none; an equal one is fine (a restart reads it).
    shared: the part that all shards share, as a Shared from who judges many of them. A table of schema 1 has none.
    read_json: for who need not read in small steps.
    Raises ShardRefused.
    """
    front = _document(manifest, "manifest", _MANIFEST_KEYS, SCHEMAS, read_json)
    serial = _serial(front, "manifest")
    if serial < highest_serial:
        raise ShardRefused("serial", "%d is older than %d, seen by this node" % (serial, highest_serial))
    expires_unix = _instant(front, "expires", "manifest")
    _instant(front, "created", "manifest")
    if unix >= expires_unix:
        raise ShardRefused("expired", "manifest %d expired at %s" % (serial, front["expires"]))
    digests = _mapping(front, "shards", "manifest")
    if node not in digests or node == SHARED:
        raise ShardRefused("node", "manifest %d has no shard for %s" % (serial, node))
    if hashlib.sha256(shard).hexdigest() != digests[node]:
        raise ShardRefused("hash", "the shard is not the one that manifest %d names" % serial)
    keys = _NAMED_KEYS if front["schema"] == 1 else _NUMBERED_KEYS
    body = _document(shard, "shard", keys, (front["schema"],), read_json)
    if _text(body, "node", "shard") != node:
        raise ShardRefused("node", "the shard is for %s" % body["node"])
    if _serial(body, "shard") != serial:
        raise ShardRefused("serial", "the shard says %d, its manifest %d" % (body["serial"], serial))
    if front["schema"] == 1:
        _instant(body, "created", "shard")
        expires_unix = min(expires_unix, _instant(body, "expires", "shard"))
        if unix >= expires_unix:
            raise ShardRefused("expired", "shard %d expired at %s" % (serial, body["expires"]))
        common, rows = _shared(body, "shard", ""), _named(body)
    else:
        common = _common(shared, digests.get(SHARED), serial, read_json)
        body = {"created": front["created"], "expires": front["expires"], **body}
        rows = _numbered(body, common.ids)
    return _judged(body, node, expires_unix, common, rows)


class _Rows(NamedTuple):
    """A shard's own part, by names."""

    routes: Mapping[str, Route]
    blocked: FrozenSet[str]
    carries: Optional[List[Path]]


def _judged(body: Mapping[str, Any], node: str, expires_unix: float, shared: Shared, rows: _Rows) -> Shard:
    if node not in shared.nodes:
        raise ShardRefused("node", "the shard does not know %s itself" % node)
    loaded = Shard(
        serial=body["serial"],
        node=node,
        created=body["created"],
        expires=body["expires"],
        expires_unix=expires_unix,
        nodes=shared.nodes,
        zones=shared.zones,
        routes=rows.routes,
        blocked=rows.blocked,
        prefixes=shared.prefixes,
        probe_kbit_s=shared.probe_kbit_s,
    )
    _check_policy(loaded, shared.judge)
    if rows.carries is None:
        return loaded
    try:
        return replace(loaded, carries=carries.judged(rows.carries, node, shared.nodes.keys(), shared.judge))
    except carries.NotCarried as error:
        raise ShardRefused(error.reason, "shard.carries: %s" % error.detail) from None


def _common(shared: Union[bytes, Shared], wanted: Any, serial: int, read_json: ReadJson) -> Shared:
    digest = shared.digest if isinstance(shared, Shared) else hashlib.sha256(shared).hexdigest()
    if digest != wanted:
        raise ShardRefused("hash", "the shared part is not the one that manifest %d names" % serial)
    return shared if isinstance(shared, Shared) else load_shared(shared, read_json)


def _shared(body: Mapping[str, Any], where: str, digest: str) -> Shared:
    rows = _mapping(body, "nodes", where)
    nodes = {name: read_node(name, row, where) for name, row in rows.items()}
    _distinct_numbers(nodes)
    rules = _unique_zones(body, where)
    return Shared(
        digest=digest,
        nodes=nodes,
        ids=tuple(sorted(nodes)),
        zones=rules,
        prefixes=_prefixes(body, nodes, where),
        probe_kbit_s=_whole(body.get("probe_kbit_s", 0), 0, MAX_PROBE_KBIT_S, where + ".probe_kbit_s"),
        judge=zones.Judge(rules, nodes),
    )


def _named(body: Mapping[str, Any]) -> _Rows:
    """The rows of schema 1, in which nodes go by their ids."""
    routes = {egress: _route(egress, row) for egress, row in _mapping(body, "routes", "shard").items()}
    carried = None
    if "carries" in body:
        try:
            carried = carries.parse(body["carries"])
        except carries.NotCarried as error:
            raise ShardRefused(error.reason, "shard.carries: %s" % error.detail) from None
    return _Rows(routes, _texts(body, "blocked", "shard"), carried)


def _numbered(body: Mapping[str, Any], ids: Sequence[str]) -> _Rows:
    """The rows of schema 2, in which nodes go by their places among all ids in order."""
    names = dict(enumerate(ids))
    rows = _object(body.get("routes"), "shard.routes", LABELS)
    found: Dict[str, Dict[str, Path]] = {}
    for label in LABELS:
        where = "shard.routes.%s" % label
        for path in _paths(rows, label, "shard.routes", names):
            if not path:
                raise _shape(where, "an empty path")
            if found.setdefault(path[-1], {}).setdefault(label, path) is not path:
                raise _shape(where, "two paths to %s" % path[-1])
    routes = {}
    for egress, paths in found.items():
        if "primary" not in paths:
            raise _shape("shard.routes", "no primary path to %s" % egress)
        routes[egress] = Route(paths["primary"], paths.get("backup"), paths.get("last_resort"))
    walls = _paths({"blocked": [_list(body, "blocked", "shard")]}, "blocked", "shard", names)
    return _Rows(routes, frozenset(walls[0]), _paths(body, "carries", "shard", names))


def _paths(parent: Mapping[str, Any], key: str, where: str, names: Mapping[int, str]) -> List[Path]:
    """Lists of numbers as tuples of names, one copy of an id however many paths name it."""
    rows = _list(parent, key, where)
    if set(map(type, rows)) - {list} or set(map(type, chain.from_iterable(rows))) - {int}:
        raise _shape("%s.%s" % (where, key), "not all of it is lists of whole numbers")
    try:
        return [tuple([names[number] for number in row]) for row in rows]
    except KeyError as error:
        raise ShardRefused("path", "%s.%s: unknown hop %s" % (where, key, error)) from None


def _check_policy(shard: Shard, judge: zones.Judge) -> None:
    for egress, route in shard.routes.items():
        for label, path in route.paths():
            fault = path_fault(shard.node, shard.nodes, egress, path)
            if fault is not None:
                raise ShardRefused("path", "%s to %s: %s" % (label, egress, fault))
            zone = judge.violated(path)
            if zone is not None:
                raise ShardRefused("zone", "%s to %s breaks %s: %s" % (label, egress, zone, " > ".join(path)))


def path_fault(node: str, nodes: Container[str], egress: str, path: Sequence[str]) -> Optional[str]:
    """Why the path cannot be a route from this node to the egress by way of `nodes`, None if it can."""
    if not MIN_HOPS <= len(path) <= MAX_HOPS:
        return "%d nodes; at least %d, at most %d" % (len(path), MIN_HOPS, MAX_HOPS)
    if path[0] != node:
        return "it starts at %s, not here" % path[0]
    if path[-1] != egress:
        return "it ends at %s" % path[-1]
    if len(set(path)) != len(path):
        return "a loop: %s" % " > ".join(path)
    unknown = [hop for hop in path if hop not in nodes]
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
_SHARED_KEYS = ("nodes", "zones", "prefixes", "probe_kbit_s")
_NUMBERED_KEYS = ("schema", "serial", "node", "routes", "blocked", "carries")
_NAMED_KEYS = (*_NUMBERED_KEYS, *_SHARED_KEYS, "created", "expires")
_NODE_KEYS = (
    *("address", "overlay_port", "relay_ports", "country", "markets"),
    *("address6", "turn_port", "tls_port", "domain", "transit"),
)
_ZONE_KEYS = ("id", "between", "forbid", "allow")


def _shape(where: str, what: str) -> ShardRefused:
    return ShardRefused("shape", "%s: %s" % (where, what))


def _document(
    data: bytes, where: str, keys: Sequence[str], schemas: Sequence[int], read_json: ReadJson
) -> Dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise _shape(where, "longer than %d bytes" % MAX_BYTES)
    try:
        parsed = read_json(data.decode())
    except RecursionError:
        raise _shape(where, "nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, a key twice
        raise _shape(where, str(error)) from None
    document = _object(parsed, where, keys)
    if document.get("schema") not in schemas or isinstance(document.get("schema"), (bool, float)):
        raise _shape(where, "schema is not %s" % " or ".join(map(str, schemas)))
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


def read_node(name: str, row: Any, where: str = "shard") -> ShardNode:
    """A row of a table's `nodes`. Raises ShardRefused."""
    if not _ID.match(name):
        raise _shape(where + ".nodes", "%s is not a node id" % ascii(name[:80]))
    where = "%s.nodes.%s" % (where, name)
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


def _prefixes(body: Mapping[str, Any], nodes: Mapping[str, ShardNode], where: str) -> PrefixMap:
    if "prefixes" not in body:
        return PrefixMap({})
    rows = _mapping(body, "prefixes", where)
    try:
        prefixes = PrefixMap(rows)
    except ValueError as error:
        raise _shape(where + ".prefixes", str(error)) from None
    unknown = sorted(prefixes.edges - set(nodes))
    if unknown:
        raise _shape(where + ".prefixes", "unknown edge %s" % unknown[0])
    return prefixes


def _unique_zones(body: Mapping[str, Any], where: str) -> Tuple[zones.Zone, ...]:
    rows = enumerate(_list(body, "zones", where))
    rules = tuple(_zone("%s.zones[%d]" % (where, place), row) for place, row in rows)
    if len({zone.id for zone in rules}) != len(rules):
        raise _shape(where + ".zones", "two zones with one id")
    return rules


def _zone(where: str, row: Any) -> zones.Zone:
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
