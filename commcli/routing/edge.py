"""Which edge a client gets by a table, and why: `route edge`. Pure.

Which edge takes a client is the relay's word (`relay/turn/alternates.py`), here only asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commcli.fleet.geoip import HOW, Place
from commcli.fleet.model import Fleet, Region
from commcli.fleet.nearest import Nearest, Row, families, holding
from commcli.relay.table.shard import read_node
from commcli.relay.turn.alternates import way_in
from commcli.routing import table as tables
from commcli.routing.policy import NodeRow
from commcli.routing.table import Table

Document = dict[str, Any]

EARTH_KM = 6371.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edge of the client's row. `barrier` is why it does not take this client, None if it does."""

    node: str
    barrier: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one table does with a client. `prefix` is the row that holds it, None: no row, it stays where it comes."""

    prefix: str | None
    candidates: tuple[Candidate, ...] = ()

    @property
    def edge(self) -> str | None:
        """Where the client is sent, None if nobody in its row takes it."""
        return next((each.node for each in self.candidates if each.barrier is None), None)


def judge(
    nodes: Mapping[str, NodeRow], prefixes: Mapping[str, tuple[str, ...]], ip: str, transport: str
) -> Verdict:
    """Ask a table's `nodes` and `prefixes` about a client; an edge that is silent today is not known to be so."""
    prefix = holding(prefixes, ip)
    if prefix is None:
        return Verdict(None)
    return Verdict(
        prefix, tuple(Candidate(node, _barrier(nodes, node, ip, transport)) for node in prefixes[prefix])
    )


def _barrier(nodes: Mapping[str, NodeRow], name: str, ip: str, transport: str) -> str | None:
    edge = read_node(name, dict(nodes[name]))
    if edge.turn_port is None:
        return "takes no new clients: it drains, or is away"
    if way_in(edge, ":" in ip, transport) is not None:
        return None
    if transport == "tls" and edge.tls_port is None:
        return "has no TLS port"
    return f"has no {'IPv6' if ':' in ip else 'IPv4'} address"


@dataclass(frozen=True, slots=True)
class Case:
    """One client, and all that is known of where it goes. `now` is by the table in force, `after` by the one that the
    inventory of today makes; `today` is that one's map, None where `trouble` kept it from being made, and `hint` is
    what to do about that. `place` is what GeoIP says of the client.
    """

    ip: str
    transport: str
    in_force: Table | None
    now: Verdict | None
    after: Verdict | None
    today: Nearest | None
    trouble: tuple[str, ...] = ()
    place: Place | None = None
    hint: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The answer: that of the table in force, and before the first one that of the next."""
        return self.after if self.in_force is None else self.now

    @property
    def differs(self) -> bool:
        """Whether the next table sends this client elsewhere."""
        return None not in (self.now, self.after) and self.now != self.after


def document(case: Case, fleet: Fleet, *, now_unix: float) -> Document:
    """`route edge`."""
    verdict = case.verdict or Verdict(None)
    place, table = case.place, case.in_force
    advice = None if verdict.edge or place is None else nearest_by_map(fleet, place)
    here = next((n.id for n in fleet.nodes.values() if case.ip in (n.address, n.address6)), None)
    return {
        "schema": 1,
        "kind": "route.edge",
        "fleet": fleet.name,
        "ip": case.ip,
        "transport": case.transport,
        # A relay never redirects a node: in probe calls it is a client, and means the edge that it asks.
        "edge": None if here else verdict.edge,
        "fleet_node": here,
        "in_force": None
        if table is None
        else {
            "serial": table.serial,
            "created": tables.iso(table.created),
            "expired": now_unix >= table.expires,
            **_verdict(case, case.now, fleet),
        },
        "next": None if case.after is None else _verdict(case, case.after, fleet),
        "differs": case.differs,
        "trouble": list(case.trouble),
        "geoip": None
        if place is None
        else {"network": place.network, "country": place.country, "market": place.country in fleet.markets},
        "hint": HOW if fleet.geoip is None and verdict.prefix is None else case.hint,
        "advice": None if advice is None else {"edge": advice[0], "why": advice[1]},
        "map": None if case.today is None else _map(case.today),
    }


def _verdict(case: Case, verdict: Verdict | None, fleet: Fleet) -> Document:
    found = verdict or Verdict(None)
    row = None if case.today is None or found.prefix is None else case.today.rows.get(found.prefix)
    if row is not None and list(row.edges) != [each.node for each in found.candidates]:
        row = None
    why = _absent(case, fleet) if found.prefix is None else "unknown" if case.today is None else "former"
    return {
        "prefix": found.prefix,
        "edge": found.edge,
        "edges": [{"node": each.node, "barrier": each.barrier} for each in found.candidates],
        "why": row.layer if row else why,
        "market": row.market if row else None,
        "measured": _figures(row) if row else [],
    }


def _absent(case: Case, fleet: Fleet) -> str:
    """Why no row holds the client, in a word."""
    if case.today is None:
        return "unknown"
    if case.after is not None and case.after.prefix is not None:
        return "not-yet"
    if fleet.geoip is None:
        return "no-database"
    if case.place is None or case.place.country is None:
        return "no-country"
    market = fleet.markets.get(case.place.country)
    if market is None:
        return "no-market"
    return "left-out" if (128 if ":" in case.ip else 32) in families(fleet, market) else "family"


def _figures(row: Row) -> list[Document]:
    return [
        {"edge": f.edge, "rtt_ms": f.rtt_ms, "samples": f.samples, "day": f.day.isoformat()}
        for f in row.figures
    ]


def _map(today: Nearest) -> Document:
    """How many rows each layer has, and what is kept of GeoIP's addresses of the markets."""
    share = {f"ipv{4 if bits == 32 else 6}": share for bits, share in today.kept_share.items()}
    return {**today.counts(), "left_out": today.left_out, "kept_share": share}


def nearest_by_map(fleet: Fleet, place: Place) -> tuple[str, str] | None:
    """The edge that stands nearest to a place, and how that is known, as advice; None if nothing is known."""
    taking = [node for node in fleet.edge_nodes() if node.state != "drain"]
    if place.lat is not None and place.lon is not None:
        far = {node.id: _km(place, fleet.regions[node.region]) for node in taking}
        known = {node: km for node, km in far.items() if km is not None}
        if known:
            edge = min(known, key=lambda node: known[node])
            return edge, f"{known[edge]:.0f} km away by great circle"
    there = next((node.id for node in taking if node.country == place.country), None)
    return None if there is None else (there, "it stands in that country")


def _km(place: Place, region: Region) -> float | None:
    """The great circle between both (haversine), None where the region does not say where it is."""
    if region.lat is None or region.lon is None or place.lat is None or place.lon is None:
        return None
    north, south = math.radians(place.lat), math.radians(region.lat)
    half = math.sin((north - south) / 2) ** 2
    half += math.cos(north) * math.cos(south) * math.sin(math.radians(place.lon - region.lon) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(half))
