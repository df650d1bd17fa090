"""The fleet as documents: what `commcli fleet` prints, as JSON or drawn. `checked` alone looks at files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from commcli.errors import BadInput
from commcli.fleet.model import EVERY_MARKET, Fleet, Node, Zone
from commcli.fleet.nearest import nearest
from commcli.fleet.record import listed
from commcli.fleet.record import nearest as did_you_mean
from commcli.fleet.residency import Residency
from commcli.fleet.selector import select
from commcli.fleet.yamlfile import shown

Document = dict[str, Any]

# What a relay's configuration is made with (remote/relayfiles.py); playbooks may ask for more.
NEEDED_SECRETS = ("turn", "overlay")


def listing(fleet: Fleet, selector: str) -> Document:
    """`fleet list`: the nodes that `selector` names, and of how many."""
    return {
        "schema": 1,
        "kind": "fleet.list",
        "fleet": fleet.name,
        "production": fleet.production,
        "selector": selector,
        "nodes": [_row(fleet, node) for node in select(fleet, selector)],
        "nodes_in_fleet": len(fleet.nodes),
    }


def _row(fleet: Fleet, node: Node) -> Document:
    region = fleet.regions[node.region]
    return {
        "id": node.id,
        "region": node.region,
        "city": region.city,
        "country": node.country,
        "continent": region.continent,
        "address": node.address,
        "address6": node.address6,
        "state": node.state,
        "provider": node.provider,
        "markets": list(fleet.markets_of(node.id)),
        "tags": list(node.tags),
        "capacity": asdict(node.capacity),
    }


def card(fleet: Fleet, node_id: str) -> Document:
    """`fleet show`: one node, whole. Raises BadInput if there is none of that id."""
    node = fleet.nodes.get(node_id)
    if node is None:
        raise BadInput(f'unknown node "{node_id}"{did_you_mean(node_id, fleet.nodes)}')
    region = fleet.regions[node.region]
    details = {
        "lat": region.lat,
        "lon": region.lon,
        "ssh": {
            **asdict(node.ssh),
            "host_keys": list(node.ssh.host_keys),
            "unsaid": list(node.ssh.unsaid),
        },
        "ports": asdict(node.ports),
        "bind_address": node.bind_address,
        "bind_address6": node.bind_address6,
        "domain": node.domain,
        "limits": asdict(node.limits),
        "workers": node.workers,
        "prefixes": _prefixes_of(fleet, node),
        "base": node.base,
        "probe_python": node.probe_python,
        "variables": dict(node.variables),
        "zones": [zone.row() | {"reason": zone.reason} for zone in _zones_of(fleet, node)],
    }
    return {"schema": 1, "kind": "fleet.show", "fleet": fleet.name, "node": _row(fleet, node) | details}


def _prefixes_of(fleet: Fleet, node: Node) -> dict[str, int]:
    """How many client networks have this node as their nearest edge, and how many as a later one."""
    places = [edges.index(node.id) for edges in fleet.prefixes.values() if node.id in edges]
    return {"nearest": places.count(0), "further": len(places) - places.count(0)}


def _zones_of(fleet: Fleet, node: Node) -> Iterator[Zone]:
    """The zones that bind media entering or leaving the fleet at this node."""
    served = {EVERY_MARKET, *fleet.markets_of(node.id)}
    return (zone for zone in fleet.zones if any(side & served for side in zone.between))


def checked(fleet: Fleet) -> Document:
    """`fleet check`, once nothing is wrong: the counts, and warnings about what is allowed but thin."""
    return {
        "schema": 1,
        "kind": "fleet.check",
        "fleet": fleet.name,
        "production": fleet.production,
        "counts": {
            "regions": len(fleet.regions),
            "nodes": len(fleet.nodes),
            "markets": len(fleet.markets),
            "zones": len(fleet.zones),
            "prefixes": len(fleet.prefixes),
            "secrets": len(fleet.secrets),
        },
        "warnings": [
            *_thin_markets(fleet),
            *_idle_regions(fleet),
            *_vain_prefixes(fleet),
            *_small_networks(fleet),
            *_vain_probes(fleet),
            *_unseen_nodes(fleet),
            *_missing_files(fleet),
            *_doubtful_secrets(fleet),
        ],
    }


def _thin_markets(fleet: Fleet) -> Iterator[str]:
    for market in fleet.markets.values():
        taking = [edge for edge in market.edges if fleet.nodes[edge].state != "drain"]
        if not taking:
            yield f"market {market.id}: all its edges are draining: nobody there can start a call"
        elif len(taking) == 1:
            yield f"market {market.id}: only {taking[0]} takes its calls"


def _idle_regions(fleet: Fleet) -> Iterator[str]:
    used = {node.region for node in fleet.nodes.values()}
    return (f"region {region}: no node stands there" for region in fleet.regions if region not in used)


def _vain_prefixes(fleet: Fleet) -> Iterator[str]:
    """Networks whose clients nobody in their row can take: they stay where they come."""
    draining = [text for text, edges in fleet.prefixes.items() if all(_drains(fleet, edge) for edge in edges)]
    if draining:
        yield f"prefixes {listed(draining)}: all their edges are draining"
    strange = [
        text
        for text, edges in fleet.prefixes.items()
        if not any(_has_family(fleet.nodes[edge], ":" in text) for edge in edges)
    ]
    if strange:
        yield f"prefixes {listed(strange)}: no edge of theirs has an address of that family"


def _small_networks(fleet: Fleet) -> Iterator[str]:
    """GeoIP's networks that had no room in the table. Raises BadInput for a file that can not be read."""
    if fleet.geoip is None and fleet.last_mile is None:
        return
    found = nearest(fleet, time.time())
    if found.left_out:
        kept = " and ".join(
            f"{100 * share:.1f} % of their IPv{4 if bits == 32 else 6} addresses"
            for bits, share in found.kept_share.items()
        )
        yield f"geoip: networks of markets without room in a table: {found.left_out}; {kept} are in it"


def _vain_probes(fleet: Fleet) -> Iterator[str]:
    """Scheduled calls that can not be made, or say little. A market stands for its first active edge."""
    pairs = fleet.probes.scheduled()
    edges = {market: _first_active(fleet, market) for pair in pairs for market in (pair.a, pair.b)}
    deaf = sorted({node.id for node in edges.values() if node is not None and not node.probe_python})
    if deaf:
        yield f"probes: calls are scheduled from and to {listed(deaf)}, and no probe_python is named there"
    by_tls = {market for pair in pairs if pair.transport == "tls" for market in (pair.a, pair.b)}
    closed = sorted({node.id for market in by_tls if (node := edges[market]) and node.ports.tls is None})
    if closed:
        yield f"probes: calls over tls are scheduled from and to {listed(closed)}, and there is no tls port"
    if alone := [f"{pair.a}-{pair.b}" for pair in pairs if edges[pair.a] and edges[pair.a] is edges[pair.b]]:
        yield f"probes: one edge serves both ends of {listed(alone)}: these calls cross no network"


def _unseen_nodes(fleet: Fleet) -> Iterator[str]:
    """The nodes that the zones' `store` leave this machine without any figure of: nothing is planned on nothing."""
    unseen = Residency(fleet).unseen()
    if not unseen:
        return
    zones = sorted({zone for found in unseen.values() for zone in found})
    markets = [market.id for market in fleet.markets.values() if unseen.keys() >= set(market.edges)]
    of = f" (all edges of market {listed(markets)})" if markets else ""
    where = fleet.store_country or "a country that fleet.yaml does not say"
    yield (
        f"zones {listed(zones)}: the store stands in {where} and may keep nothing measured with "
        f"{listed(sorted(unseen))}{of}: no route to or from there is planned"
    )


def _first_active(fleet: Fleet, market: str) -> Node | None:
    nodes = [fleet.nodes[edge] for edge in fleet.markets[market].edges]
    return next((node for node in nodes if node.state == "active"), None)


def _drains(fleet: Fleet, node_id: str) -> bool:
    return fleet.nodes[node_id].state == "drain"


def _has_family(node: Node, six: bool) -> bool:
    return (":" in node.address) == six or (six and node.address6 is not None)


def _missing_files(fleet: Fleet) -> Iterator[str]:
    if not fleet.ssh.known_hosts.is_file():
        yield f"ssh: known_hosts {shown(fleet.ssh.known_hosts)} is not there: every node will be refused"
    if not fleet.signing.signers.is_file():
        yield f"signing: signers {shown(fleet.signing.signers)} is not there: no node will believe a table"
    if fleet.tls_ca is not None and not fleet.tls_ca.is_file():
        yield f"tls: ca {shown(fleet.tls_ca)} is not there: no certificate of an edge can be believed"


def _doubtful_secrets(fleet: Fleet) -> Iterator[str]:
    for name in NEEDED_SECRETS:
        if name not in fleet.secrets:
            yield f"secrets: no {name}: no relay can be provisioned"
    for ref in fleet.secrets.values():
        if ref.file is None:
            continue
        if not ref.file.is_file():
            yield f"secrets: {ref.name}: {ref} is not there"
        elif ref.file.stat().st_mode & 0o077:
            yield f"secrets: {ref.name}: {ref} is open to others than its owner: chmod 600"
