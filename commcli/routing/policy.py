"""Policy -> masks, before anything is optimised. Pure.

The rule itself (which zone concerns which pair, which country it lets pass) has one home, `relay/table/zones.py`:
here it is only *asked*, once for each kind of pair and each country, so that planner and relay cannot
disagree.

Three states differ: `drain` (no new allocation, no new transit), `no-transit` (an edge for good, never in
between) and *away* (no path from, to or through it at all).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commcli.fleet.model import Fleet, Zone
from commcli.relay.table import zones as zone_rule

Mask = NDArray[np.bool_]
ZoneRow = Mapping[str, Any]
NodeRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """What the rule needs to know of a node: its country (None: unknown) and the markets that it serves; and what may
    fail with it: its region, and its provider (None: unknown).
    """

    country: str | None
    markets: frozenset[str]
    region: str = ""
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the planner must obey. `ids` is sorted; `nodes` are rows as the shards carry them; `prefixes` are the client
    networks, which no path depends on. `probe_kbit_s`: as of Fleet. `price_ms`: what nodes cost as relays, where that
    is not 0.
    """

    ids: tuple[str, ...]
    nodes: Mapping[str, NodeRow]
    places: Mapping[str, Place]
    zones: tuple[Zone, ...]
    states: Mapping[str, str]
    away: frozenset[str] = frozenset()
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    probe_kbit_s: int = 0
    price_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def zone_rows(self) -> tuple[ZoneRow, ...]:
        """The zones as tables carry them."""
        return tuple(zone.row() for zone in self.zones)

    def without_zone(self, zone_id: str) -> Policy:
        """The same policy had this zone never been written: what it costs is the difference."""
        return replace(self, zones=tuple(zone for zone in self.zones if zone.id != zone_id))

    def without_zones(self) -> Policy:
        """The same policy with no zone at all."""
        return replace(self, zones=())

    def sha256(self) -> str:
        """Digest of everything in it."""
        whole: dict[str, Any] = {
            "nodes": {node: dict(self.nodes[node]) for node in self.ids},
            "zones": [zone.row() for zone in self.zones],
            "states": {node: self.states[node] for node in self.ids},
            "away": sorted(self.away),
        }
        if self.prefixes:
            whole["prefixes"] = dict(self.prefixes)
        if self.probe_kbit_s:
            whole["probe_kbit_s"] = self.probe_kbit_s
        if self.price_ms:
            whole["price_ms"] = {node: self.price_ms[node] for node in sorted(self.price_ms)}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def violated(self, path: tuple[str, ...]) -> str | None:
        """The id of a zone that `path` breaks, or None."""
        return zone_rule.violated(self.zones, self.places, path)

    def offender(self, zone_id: str, path: tuple[str, ...]) -> str:
        """The country, and the node on `path`, that the zone does not let pass."""
        zone = next(zone for zone in self.zones if zone.id == zone_id)
        for node in path:
            place = self.places.get(node)
            if place is None:
                return f"an unknown country ({node} is not in the inventory)"
            if not zone_rule.permits(zone, place.country):
                return f"{place.country or 'an unknown country'} ({node})"
        return "this path"

    def not_transit(self, node: str) -> str | None:
        """The state that keeps `node` from being an intermediate relay, or None."""
        if node in self.away:
            return "away"
        return None if self.states[node] == "active" else self.states[node]


def of(fleet: Fleet, away: Collection[str] = (), draining: Collection[str] = ()) -> Policy:
    """The fleet's zones and node states, with the nodes that the caller knows to be `away`, or whose relays
    say that they drain, whatever the inventory says.
    """
    ids = tuple(sorted(fleet.nodes))
    states = {node: "drain" if node in draining else fleet.nodes[node].state for node in ids}
    taking = {node for node in fleet.client_nodes() if states[node] != "drain" and node not in away}
    return Policy(
        ids=ids,
        nodes={
            node: node_row(fleet, node, taking=node in taking, transit=states[node] == "active")
            for node in ids
        },
        places={
            node: Place(
                fleet.nodes[node].country or None,
                frozenset(fleet.markets_of(node)),
                fleet.nodes[node].region,
                fleet.nodes[node].provider,
            )
            for node in ids
        },
        zones=fleet.zones,
        states=states,
        away=frozenset(away),
        prefixes=fleet.prefixes,
        probe_kbit_s=fleet.probe_kbit_s,
        price_ms={node: fleet.nodes[node].price_ms for node in ids if fleet.nodes[node].price_ms},
    )


def of_countries(countries: Sequence[str | None], zones: Sequence[Zone]) -> Policy:
    """Zones over nodes of which only the countries are known: each is a relay, and the edge of its own market."""
    ids = tuple(f"n{number:05}" for number in range(len(countries)))
    places = {
        node: Place(country, frozenset([country] if country else ()))
        for node, country in zip(ids, countries, strict=True)
    }
    return Policy(ids, {}, places, tuple(zones), dict.fromkeys(ids, "active"))


def node_row(fleet: Fleet, node_id: str, *, taking: bool = False, transit: bool = True) -> dict[str, Any]:
    """What every shard says of a node: where it is, which addresses are its relayed ones, whom it serves, whether it
    may be in `transit`, and, if it is `taking` new clients, where they find it.
    """
    node = fleet.nodes[node_id]
    door: dict[str, Any] = {}
    if taking:
        door["turn_port"] = node.ports.turn
    if taking and node.ports.tls is not None:
        door["tls_port"] = node.ports.tls
        door.update({} if node.domain is None else {"domain": node.domain})
    if node.address6 is not None:
        door["address6"] = node.address6
    if not transit:
        door["transit"] = False
    return {
        **door,
        "address": node.address,
        "overlay_port": node.ports.overlay,
        "relay_ports": [node.ports.relay_low, node.ports.relay_high],
        "country": node.country or None,
        "markets": sorted(fleet.markets_of(node_id)),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The policy as arrays over N nodes, K kinds of them (those of a kind serve the same markets) and G groups of pairs
    (a group: the pairs that the same zones concern).

    `present` (N,) is not away; `transit` (N,) may stand in between; `kind` (N,) is each node's; `groups` (K, K) the
    group of the pairs of two kinds; `lawful` (G, N) the nodes whose country all zones of the group let pass; `blocked`
    (N, N) the pairs whose own edges a zone forbids.
    """

    present: Mask
    transit: Mask
    kind: NDArray[np.int32]
    groups: NDArray[np.int32]
    lawful: Mask
    blocked: Mask

    @property
    def group(self) -> NDArray[np.int32]:
        """(N, N): the group of each pair."""
        group: NDArray[np.int32] = self.groups[self.kind[:, None], self.kind]
        return group


def alike(policy: Policy) -> Mask:
    """(N, N): whether two nodes may fail together, being in one region or of one provider. Unknown is not the same."""
    places = [policy.places[node] for node in policy.ids]
    found = np.zeros((len(places), len(places)), dtype=bool)
    for names in ([place.region for place in places], [place.provider or "" for place in places]):
        known = np.array([bool(name) for name in names])
        _, code = np.unique(names, return_inverse=True)
        found |= (code[:, None] == code) & known[:, None] & known
    return found


def masks(policy: Policy) -> Masks:
    """Ask the rule once per kind of pair and country, and lay the answers out as masks."""
    kinds, kind = _kinds(policy)
    groups, zones = _groups(policy, kinds)
    lawful = _lawful(policy, zones)
    group = groups[kind[:, None], kind]
    index = np.arange(len(policy.ids))
    passes = lawful[group, index[:, None]] & lawful[group, index[None, :]]
    present = np.array([node not in policy.away for node in policy.ids], dtype=bool)
    transit = np.array([policy.not_transit(node) is None for node in policy.ids], dtype=bool)
    return Masks(present, transit, kind, groups, lawful, ~passes)


def _kinds(policy: Policy) -> tuple[list[Place], NDArray[np.int32]]:
    """Nodes that serve the same markets are of one kind: zones cannot tell them apart as ends of a path."""
    of_node = [tuple(sorted(policy.places[node].markets)) for node in policy.ids]
    kinds = sorted(set(of_node))
    position = {kind: index for index, kind in enumerate(kinds)}
    places = [Place(None, frozenset(kind)) for kind in kinds]
    return places, np.array([position[kind] for kind in of_node], dtype=np.int32)


def _groups(policy: Policy, kinds: list[Place]) -> tuple[NDArray[np.int32], list[tuple[Zone, ...]]]:
    """Number the sets of zones that concern some pair of kinds: (K, K) group numbers, and the zones of each
    group.
    """
    numbers: dict[tuple[int, ...], int] = {}
    table = np.zeros((len(kinds), len(kinds)), dtype=np.int32)
    for i, one in enumerate(kinds):
        for j, other in enumerate(kinds):
            concerning = tuple(
                n for n, zone in enumerate(policy.zones) if zone_rule.concerns(zone, one, other)
            )
            table[i, j] = numbers.setdefault(concerning, len(numbers))
    return table, [tuple(policy.zones[n] for n in concerning) for concerning in numbers]


def _lawful(policy: Policy, groups: list[tuple[Zone, ...]]) -> Mask:
    """(G, N): whether a node's country passes every zone of the group."""
    countries = [policy.places[node].country for node in policy.ids]
    rows = []
    for zones in groups:
        passes = {
            country: all(zone_rule.permits(zone, country) for zone in zones) for country in set(countries)
        }
        rows.append([passes[country] for country in countries])
    return np.array(rows, dtype=bool).reshape(len(groups), len(policy.ids))
