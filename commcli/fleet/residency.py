"""Where probe data may be stored: the `store` of a zone against the country of this machine's store. Pure."""

from __future__ import annotations

from collections import Counter

from commcli.fleet.model import Fleet, Zone
from commcli.fleet.zones import place_of
from commcli.relay.table import zones as zone_rule


class Residency:
    """The rule of one fleet, and what it kept out of the store: `left_out` counts rows by zone."""

    def __init__(self, fleet: Fleet) -> None:
        # A store that stands nobody knows where is forbidden by every zone that asks.
        self._zones = [zone for zone in fleet.storage if fleet.store_country not in (zone.store or ())]
        self._places = {node: place_of(fleet, node) for node in fleet.nodes}
        self.left_out: Counter[str] = Counter()

    def permits(self, one: str, other: str) -> bool:
        """Whether what was measured between these nodes may be stored here; what may not is counted. A node that the
        inventory does not know could serve any market.
        """
        zone = self._forbidding(one, other)
        if zone is not None:
            self.left_out[zone.id] += 1
        return zone is None

    def unseen(self) -> dict[str, set[str]]:
        """The nodes of which nothing at all may be stored here, whoever measures with them, each with the zones that
        say so: no route from or to them can be planned from this store.
        """
        found: dict[str, set[str]] = {}
        for one in self._places:
            culprits = [self._forbidding(one, other) for other in self._places if other != one]
            zones = {zone.id for zone in culprits if zone is not None}
            if culprits and all(culprits):
                found[one] = zones
        return found

    def _forbidding(self, one: str, other: str) -> Zone | None:
        places = self._places.get(one), self._places.get(other)
        return next((zone for zone in self._zones if zone_rule.concerns(zone, *places)), None)
