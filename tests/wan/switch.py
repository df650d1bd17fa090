"""Packets of many nodes on their ways: in at one node, out at another when their link says so. Pure."""

from __future__ import annotations

import heapq
import socket
from collections.abc import Mapping

from tests.wan.weather import Counts, Link, Weather
from tests.wan.witness import Witness

Pair = tuple[str, str]

# IPv4 (RFC 791 s. 3.1): bytes 6-7 flags and fragment offset, 12-15 source, 16-19 destination.
_HEADER_BYTES = 20
_DONT_FRAGMENT = 0x40


class Switch:
    """All links between all nodes, and what is on the way."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        links: Mapping[Pair, Weather],
        seed: int,
        witness: Witness | None = None,
    ) -> None:
        """addresses: node -> IPv4 address. links: of a directed pair (from, to); a pair without is a perfect wire.
        witness: is told of every packet.
        """
        self._witness = witness
        self.unroutable = 0  # packets to addresses that are nobody's, and what is not IPv4
        self._links = {
            (src, dst): Link(links.get((src, dst), Weather()), f"{seed}/{src}/{dst}")
            for src in addresses for dst in addresses if src != dst
        }  # fmt: skip
        self._ways = {
            src: {socket.inet_aton(addresses[dst]): (dst, link) for (a, dst), link in self._links.items() if a == src}
            for src in addresses
        }  # fmt: skip
        self._on_the_way: list[tuple[float, int, Link, str, bytes]] = []
        self._number = 0

    def change(self, src: str, dst: str, weather: Weather) -> None:
        """The weather of one direction from now on. KeyError for a pair that is not."""
        self._links[src, dst].change(weather)

    def put(self, node: str, packet: bytes, now: float) -> None:
        """Take an IP packet that `node` sends at `now` (s)."""
        way = self._ways[node].get(packet[16:20])
        if way is None or packet[0] >> 4 != 4 or len(packet) < _HEADER_BYTES:
            self.unroutable += 1
            return
        dst, link = way
        arrival = link.arrival(len(packet), not packet[6] & _DONT_FRAGMENT, now)
        if self._witness is not None:
            due = now + link.weather.delay_ms / 1000 if arrival is None else arrival
            self._witness.saw(node, dst, packet, due, lost=arrival is None)
        if arrival is not None:
            # The number keeps the order of equals, and spares the comparison of what stands after it.
            self._number += 1
            heapq.heappush(self._on_the_way, (arrival, self._number, link, dst, packet))

    def due(self, now: float) -> list[tuple[float, str, bytes]]:
        """What arrives by `now`, in order: (when it should, node, packet)."""
        found = []
        on_the_way = self._on_the_way
        while on_the_way and on_the_way[0][0] <= now:
            arrival, _, link, dst, packet = heapq.heappop(on_the_way)
            link.counts.delivered += 1
            found.append((arrival, dst, packet))
        return found

    def wish(self) -> float | None:
        """When the next packet arrives (s); None when none is on the way."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def counts(self) -> dict[Pair, Counts]:
        """What each link did so far; of those that saw a packet."""
        return {pair: link.counts for pair, link in self._links.items() if link.counts.packets}
