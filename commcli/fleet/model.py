"""What exists: regions, nodes, markets, zones, and the fleet that holds them. Values only: no files here.

Countries are lower-case ISO 3166-1 alpha-2 codes. `None` is "not said", never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from commcli.errors import BadInput
from commcli.fleet.probing import Probes
from commcli.fleet.secrets import SecretRef
from commcli.relay.mesh.budget import USUAL, Budget

NodeState = Literal["active", "drain", "no-transit"]
# What routes are chosen for: it says how much jitter and loss weigh beside the RTT.
Media = Literal["audio", "video", "data"]

# Every market: what `*` stands for on one side of a zone's `between`.
EVERY_MARKET = "*"


@dataclass(frozen=True, slots=True)
class Region:
    """Where nodes stand. `lat` and `lon` in degrees, north and east positive."""

    id: str
    city: str
    country: str
    continent: str
    lat: float | None = None
    lon: float | None = None


@dataclass(frozen=True, slots=True)
class SshTarget:
    """How operators reach a node. `proxy_jump` is `[user@]host[:port]`, `python` an unusual python3 there; with `sudo`
    all that is done there is done as root, by sudo (its password is the fleet's secret `sudo`, if there is one).

    `host_keys` are the fingerprints (`SHA256:...`) that its host keys may have when they are first trusted.
    `unsaid` are the words that stand here by default only: an ssh_config has its say on them.
    """

    host: str
    user: str
    port: int = 22
    proxy_jump: str | None = None
    python: str | None = None
    sudo: bool = False
    host_keys: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """A relay's own ports, and the range its relayed addresses come from. All are UDP but `metrics` and `tls`, which
    are TCP; `turn` is both. No `tls`: no TURN over TLS.
    """

    turn: int = 3478
    overlay: int = 3479
    stamp: int = 3480
    metrics: int = 9478
    relay_low: int = 49152
    relay_high: int = 65535
    tls: int | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node can carry at once; `None` is "nobody said", not "nothing"."""

    sessions: int | None = None
    mbps: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a relay allows its clients; `None` is no limit. Quotas count allocations, of one user and of all; the rates
    are those of each direction of one allocation, and of the node.
    """

    user_quota: int | None = None
    total_quota: int | None = None
    session_kbit_s: int | None = None
    node_mbit_s: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One relay machine.

    `address` is the public IP that media is sent to, `address6` its IPv6 one beside an IPv4 `address`; `bind_address`
    and `bind_address6` what the machine has in their place behind 1:1 NAT; `domain` is what its TLS certificate names.
    `country` is that of its region, `base` its folder there, `probe_python` a python there that has aiortc, `variables`
    what playbooks may read (JSON-able values). `workers` are the relay's processes (0: one a core; None: what the relay
    does by itself). `price_ms` is what its traffic costs as a relay in between, said as latency.
    """

    id: str
    region: str
    country: str
    address: str
    ssh: SshTarget
    ports: Ports = Ports()
    base: str = "/opt/commcli"
    state: NodeState = "active"
    provider: str | None = None
    capacity: Capacity = Capacity()
    probe_python: str | None = None
    tags: tuple[str, ...] = ()
    variables: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    address6: str | None = None
    domain: str | None = None
    limits: Limits = Limits()
    workers: int | None = None
    bind_address: str | None = None
    bind_address6: str | None = None
    price_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Market:
    """Where users are. `id` is the country's code; `edges` the nodes that serve it, the preferred first."""

    id: str
    name: str
    edges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Zone:
    """A compliance rule, the same in both directions: media between these markets must not touch `forbid`,
    and must stay inside `allow` if that is given; what is measured between them may be stored in `store` only. Whether
    a path obeys is decided in `relay/table/zones.py` alone.
    """

    id: str
    between: tuple[frozenset[str], frozenset[str]]
    forbid: frozenset[str] = frozenset()
    allow: frozenset[str] | None = None
    reason: str = ""
    store: frozenset[str] | None = None

    def row(self) -> dict[str, object]:
        """The rule as tables and relays carry it: {"id", "between", "forbid", "allow"}, sorted, JSON-able."""
        return {
            "id": self.id,
            "between": [sorted(side) for side in self.between],
            "forbid": sorted(self.forbid),
            "allow": None if self.allow is None else sorted(self.allow),
        }


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs tables (a key file or the SSH agent), and whom nodes believe (`signers`: allowed_signers)."""

    signers: Path
    key: Path | None = None
    agent: bool = False
    principal: str = "commcli-table"


@dataclass(frozen=True, slots=True)
class SshDefaults:
    """What holds for every SSH connection of the fleet. No `config` means that no ssh_config is read."""

    known_hosts: Path
    identities: tuple[Path, ...] = ()
    agent: bool = True
    config: Path | None = None
    connect_timeout_s: float = 10.0
    login_timeout_s: float = 15.0
    parallel: int = 100


# Every node gets all of them: beyond the largest, networks add bytes and hardly any clients.
GEOIP_NETWORKS = 20_000
LAST_MILE_SAMPLES = 30
LAST_MILE_DAYS = 30


@dataclass(frozen=True, slots=True)
class GeoIp:
    """A country database in MaxMind's format, and how many `networks` of it a table may carry at most."""

    database: Path
    networks: int = GEOIP_NETWORKS


@dataclass(frozen=True, slots=True)
class LastMile:
    """A file of round trips that the operator's own apps measured from clients to edges. Medians of fewer than
    `samples` do not count, nor do those older than `days`.
    """

    file: Path
    samples: int = LAST_MILE_SAMPLES
    days: int = LAST_MILE_DAYS


PROBE_KBIT_S = 4000  # two calls of high definition, both ways


@dataclass(frozen=True, slots=True)
class Fleet:
    """The whole inventory, checked: every id that one part names exists in another.

    `zones` are those that rule media, `storage` those that rule where probe data is stored; `store_country` is where
    the store of whoever reads this stands.
    `production` makes writes ask for the fleet's name. `realm` is TURN's (RFC 8489 section 9.2). `prefixes` are client
    networks and the edges nearest to them, the nearest first. `tls_ca` is the bundle of CAs that the edges'
    certificates are believed by; None: those of the machine that looks. `probe_kbit_s` is what each relay may carry of
    probes over paths that are in nobody's row; 0: nothing. `probing` is what is to be probed and what is good, or
    what is wrong with that. `mesh` is how much each relay may measure the others. `media` is what routes are
    chosen for. `geoip` and `last_mile` name the files that more client networks are made from (fleet/nearest.py).
    """

    name: str
    production: bool
    realm: str
    regions: Mapping[str, Region]
    nodes: Mapping[str, Node]
    markets: Mapping[str, Market]
    zones: tuple[Zone, ...]
    secrets: Mapping[str, SecretRef]
    signing: Signing
    ssh: SshDefaults
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    tls_ca: Path | None = None
    probe_kbit_s: int = PROBE_KBIT_S
    probing: Probes | BadInput = field(default_factory=Probes)
    mesh: Budget = USUAL
    media: Media = "audio"
    geoip: GeoIp | None = None
    last_mile: LastMile | None = None
    storage: tuple[Zone, ...] = ()
    store_country: str | None = None

    @property
    def probes(self) -> Probes:
        """What is to be probed, and what is good. Raises BadInput only here: a slip in it must not keep anybody from
        draining a relay.
        """
        if isinstance(self.probing, BadInput):
            raise self.probing
        return self.probing

    @property
    def mesh_is_tight(self) -> bool:
        """Whether the relays' budget does not suffice to look at every edge as closely as may be."""
        return (len(self.nodes) - 1) * self.mesh.per_peer > self.mesh.packets_a_second

    def markets_of(self, node_id: str) -> tuple[str, ...]:
        """The markets this node serves as an edge, in the inventory's order; () for a pure transit node."""
        return tuple(market.id for market in self.markets.values() if node_id in market.edges)

    def edge_nodes(self) -> tuple[Node, ...]:
        """The nodes that serve some market, in the inventory's order."""
        edges = {edge for market in self.markets.values() for edge in market.edges}
        return tuple(node for node in self.nodes.values() if node.id in edges)

    def client_nodes(self) -> frozenset[str]:
        """The ids of the nodes that clients are meant to come to: edges of markets, or of client networks."""
        named = {edge for edges in self.prefixes.values() for edge in edges}
        return frozenset(named.union(node.id for node in self.edge_nodes()))
