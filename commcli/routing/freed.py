"""What today's inventory allows though a table forbids it, whether a path of today needs it or not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement

from commcli.relay.table import zones as zone_rule
from commcli.routing.policy import NodeRow, Place, Policy, ZoneRow
from commcli.routing.table import Path, Table


def freed(table: Table, policy: Policy) -> dict[str, Path]:
    """{zone of the table: a path that it forbids and `policy` allows}, each by where it says that the nodes stand."""
    places = policy.places
    former = {
        node: _place(table.nodes[node]) if node in table.nodes else place for node, place in places.items()
    }
    if table.zones == policy.zone_rows and all(_kind(former[node]) == _kind(places[node]) for node in places):
        return {}
    zones = [_zone(row) for row in table.zones]
    before = zone_rule.Judge(zones, former)
    today = zone_rule.Judge(policy.zones, places)
    found: dict[str, Path] = {}
    for path in _one_of_each(zones, former, places):
        zone = before.violated(path)
        if zone is not None and zone not in found and today.violated(path) is None:
            found[zone] = path
    return found


def _one_of_each(
    zones: Sequence[zone_rule.Zone],
    former: Mapping[str, zone_rule.Place],
    places: Mapping[str, zone_rule.Place],
) -> Iterator[Path]:
    """Paths under the zones, over one relay at most, that stand for all as far as zones can tell nodes apart."""
    names = sorted(places, reverse=True)
    edges = {(_kind(former[node]), _kind(places[node])): node for node in names}
    relays = {(former[node].country, places[node].country): node for node in names}
    for first, last in combinations_with_replacement(sorted(edges.values()), 2):
        if not any(zone_rule.concerns(zone, former[first], former[last]) for zone in zones):
            continue
        yield (first, last)
        yield from ((first, relay, last) for relay in sorted(relays.values()))


def _kind(place: zone_rule.Place) -> tuple[str | None, frozenset[str]]:
    return place.country, frozenset(place.markets)


def _place(row: NodeRow) -> Place:
    return Place(row["country"], frozenset(row["markets"]))


def _zone(row: ZoneRow) -> zone_rule.Zone:
    one, other = (frozenset(side) for side in row["between"])
    allow = None if row["allow"] is None else frozenset(row["allow"])
    return zone_rule.Zone(row["id"], (one, other), frozenset(row["forbid"]), allow)
