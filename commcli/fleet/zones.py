"""zones.yaml: the compliance rules, and whether they leave every pair of markets a way at all.

Whether a path obeys a zone is decided in `relay/table/zones.py`, for planner, relay and this check alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from commcli.fleet.countries import COUNTRIES
from commcli.fleet.model import EVERY_MARKET, Fleet, Market, Node, Zone
from commcli.fleet.record import Record, listed
from commcli.fleet.yamlfile import YamlList
from commcli.relay.table.zones import Place, violated


def rules_media(zone: Zone) -> bool:
    """Whether it says anything of paths, and not only of where probe data is stored."""
    return bool(zone.forbid) or zone.allow is not None


def read_zones(table: Record, market_ids: Collection[str] | None) -> tuple[Zone, ...]:
    """The zones in their own order."""
    return tuple(_zone(key, record, market_ids) for key, record in table.entries("zone"))


def _zone(key: str, record: Record, market_ids: Collection[str] | None) -> Zone:
    allow = frozenset(record.words("allow", COUNTRIES, "country"))
    zone = Zone(
        id=key,
        between=_between(record, market_ids),
        forbid=frozenset(record.words("forbid", COUNTRIES, "country")),
        allow=allow if record.has("allow") else None,
        reason=record.text("reason"),
        store=frozenset(record.words("store", COUNTRIES, "country")) if record.has("store") else None,
    )
    if not record.has("forbid") and not record.has("allow") and zone.store is None:
        record.problem("neither forbid, allow nor store is given: it rules nothing")
    for rule in ("forbid", "allow", "store"):
        if record.is_empty(rule):
            record.problem(f"{rule} names no country", key=rule)
    if both := sorted(allow & zone.forbid):
        record.problem(f"both allows and forbids {', '.join(both)}", key="forbid")
    record.finish()
    return zone


def _between(record: Record, market_ids: Collection[str] | None) -> tuple[frozenset[str], frozenset[str]]:
    value = record.take("between")
    if not isinstance(value, YamlList) or len(value) != 2:
        record.problem('between must have two sides, such as [[cn], "*"]', key="between")
        return frozenset(), frozenset()
    words = None if market_ids is None else {EVERY_MARKET, *market_ids}
    one, other = (
        frozenset(record.names("between", side, words, "market", line)) for side, line in value.placed()
    )
    for side in (one, other):
        if EVERY_MARKET in side and len(side) > 1:
            record.problem(f'"{EVERY_MARKET}" is every market: it stands alone on its side', key="between")
    return one, other


@dataclass(frozen=True, slots=True)
class _Place:
    country: str
    markets: frozenset[str]


def _served_by(node: str, markets: Mapping[str, Market]) -> frozenset[str]:
    return frozenset(market.id for market in markets.values() if node in market.edges)


def place_of(fleet: Fleet, node_id: str) -> Place:
    """What zones go by of a node of the inventory."""
    return _Place(fleet.nodes[node_id].country, frozenset(fleet.markets_of(node_id)))


def forbidding(fleet: Fleet, path: Sequence[str]) -> Zone | None:
    """The first zone that forbids media to pass these nodes, edges first and last; None: it is lawful."""
    places = {node: place_of(fleet, node) for node in path}
    culprit = violated(fleet.zones, places, path)
    return next((zone for zone in fleet.zones if zone.id == culprit), None)


def check_reachable(
    table: Record, zones: Sequence[Zone], nodes: Mapping[str, Node], markets: Mapping[str, Market]
) -> None:
    """Note the pairs of markets that no path can serve. The direct path between edges touches the fewest
    countries, so a pair is reachable exactly if some two edges of theirs are allowed a direct path.
    """
    places: dict[str, Place] = {
        node.id: _Place(node.country, _served_by(node.id, markets)) for node in nodes.values()
    }
    blamed: dict[tuple[str, ...], list[str]] = {}
    for one, other in combinations_with_replacement(markets.values(), 2):
        if culprits := _culprits(one, other, zones, places):
            blamed.setdefault(culprits, []).append(f"{one.id}-{other.id}")
    for culprits, pairs in blamed.items():
        together = f" (together with zone {', '.join(culprits[1:])})" if culprits[1:] else ""
        reason = f"zone {culprits[0]}: leaves no path at all between markets {listed(pairs)}{together}"
        table.problem(reason, key=culprits[0])


def _culprits(
    one: Market, other: Market, zones: Sequence[Zone], places: Mapping[str, Place]
) -> tuple[str, ...]:
    """The zones that forbid every direct path between the edges of two markets; () if one path is allowed."""
    culprits: list[str] = []
    for first in one.edges:
        for last in other.edges:
            zone = violated(zones, places, [first] if first == last else [first, last])
            if zone is None:
                return ()
            culprits.append(zone)
    return tuple(dict.fromkeys(culprits))
