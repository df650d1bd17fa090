"""The one home of the compliance rule: may media between two edges pass these countries?

The planner asks it about every plan, a relay about every table it loads and every source route it is handed.
Markets and countries are lower-case ISO 3166-1 alpha-2 codes. Unknown is forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import AbstractSet, Dict, FrozenSet, Iterable, Mapping, Optional, Protocol, Sequence, Tuple

EVERY_MARKET = "*"


class Rule(Protocol):
    """What a zone must offer; `Zone` here and the inventory's zone both do."""

    @property
    def id(self) -> str: ...
    @property
    def between(self) -> Tuple[AbstractSet[str], AbstractSet[str]]: ...
    @property
    def forbid(self) -> AbstractSet[str]: ...
    @property
    def allow(self) -> Optional[AbstractSet[str]]: ...


class Place(Protocol):
    """Where a node stands (None: unknown) and the markets that it serves as an edge (may be none)."""

    @property
    def country(self) -> Optional[str]: ...
    @property
    def markets(self) -> AbstractSet[str]: ...


@dataclass(frozen=True)
class Zone:
    """A rule for media between two sets of markets: the countries forbidden and, if given, allowed."""

    id: str
    between: Tuple[FrozenSet[str], FrozenSet[str]]
    forbid: FrozenSet[str]
    allow: Optional[FrozenSet[str]] = None


def concerns(zone: Rule, first: Optional[Place], last: Optional[Place]) -> bool:
    """Whether media between these two edges is under the zone, in either direction.

    None is an edge that nobody knows: it could serve any market, so every zone concerns it.
    """
    one, other = zone.between
    return (_serves(first, one) and _serves(last, other)) or (_serves(first, other) and _serves(last, one))


def _serves(place: Optional[Place], side: AbstractSet[str]) -> bool:
    # '*' also matches an edge that serves no market: otherwise a rule for everybody would have a hole.
    return place is None or EVERY_MARKET in side or not side.isdisjoint(place.markets)


def permits(zone: Rule, country: Optional[str]) -> bool:
    """Whether media under the zone may pass the country; an unknown one (None or "") it may not."""
    if not country or country in zone.forbid:
        return False
    return zone.allow is None or country in zone.allow


def violated(zones: Iterable[Rule], nodes: Mapping[str, Place], path: Sequence[str]) -> Optional[str]:
    """The id of the first zone that the path breaks, or None. Both edges are on the path.

    path: node ids from edge to edge, at least one. A node missing from `nodes` stands in an unknown country.
    """
    places = [nodes.get(node) for node in path]
    for zone in zones:
        if concerns(zone, places[0], places[-1]) and not all(
            place is not None and permits(zone, place.country) for place in places
        ):
            return zone.id
    return None


class Judge:
    """`violated` for the very many paths of one table, whose zones and nodes do not change meanwhile.

    Which nodes the zones of two edges let pass is worked out once for all edges that serve the same markets.
    """

    def __init__(self, zones: Iterable[Rule], nodes: Mapping[str, Place]) -> None:
        self._zones, self._nodes = tuple(zones), nodes
        kinds: Dict[FrozenSet[str], int] = {}
        # By number: a set of markets takes long to be looked up.
        self._kind = {
            name: kinds.setdefault(frozenset(place.markets), len(kinds)) for name, place in nodes.items()
        }
        self._of_kinds: Dict[Tuple[int, int], FrozenSet[str]] = {}
        self._of_zones: Dict[Tuple[str, ...], FrozenSet[str]] = {}

    def violated(self, path: Sequence[str]) -> Optional[str]:
        """As the function of this name."""
        if not self._zones:
            return None
        first, last = self._kind.get(path[0]), self._kind.get(path[-1])
        if first is None or last is None:
            return violated(self._zones, self._nodes, path)
        lawful = self._of_kinds.get((first, last))
        if lawful is None:
            between = self._nodes[path[0]], self._nodes[path[-1]]
            lawful = self._of_kinds[first, last] = self._lawful(*between)
        return None if lawful.issuperset(path) else violated(self._zones, self._nodes, path)

    def _lawful(self, first: Place, last: Place) -> FrozenSet[str]:
        concerning = tuple(zone for zone in self._zones if concerns(zone, first, last))
        key = tuple(zone.id for zone in concerning)
        if key not in self._of_zones:
            passing = (
                name
                for name, place in self._nodes.items()
                if all(permits(zone, place.country) for zone in concerning)
            )
            self._of_zones[key] = frozenset(passing)
        return self._of_zones[key]
