"""300 Try Alternate: to which other edge a new client is better sent (RFC 8656 section 7.2, RFC 8489 section 10).

Pure. The table says which edges take new clients, and may say which are nearest to the client's network. Every
decision errs on the side of serving the client here: a redirect to an edge that is dead or that the client can not
reach costs the call, a longer way only milliseconds.
"""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.table.prefixes import packed
from commcli.relay.table.shard import Shard, ShardNode
from commcli.relay.table.zones import EVERY_MARKET, Zone

Addr = Tuple[str, int]


class Alternate(NamedTuple):
    """For ALTERNATE-SERVER and, over TLS, ALTERNATE-DOMAIN: the name in the other edge's certificate."""

    address: Addr
    domain: Optional[str]


class Alternates:
    """The edges of one table, as this node sees them."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._own = shard.nodes[shard.node]
        self._edges = {
            name: row for name, row in shard.nodes.items() if row.turn_port is not None and name != shard.node
        }
        self._stand_ins = [
            name for name, row in sorted(self._edges.items()) if _replaces(shard.zones, self._own, row)
        ]
        self._rtt_ms: Mapping[str, Optional[float]] = {}
        addresses = {text for row in shard.nodes.values() for text in (row.address, row.address6) if text}
        self._fleet = frozenset(packed(text) for text in addresses)

    def measured(self, rtt_ms: Mapping[str, Optional[float]]) -> None:
        """The mesh's latest RTT to other nodes; None: it does not answer. Nodes that are missing are not known."""
        self._rtt_ms = rtt_ms

    def choose(self, client_ip: str, transport: str, draining: bool) -> Optional[Alternate]:
        """Where a new client should go instead; None: it stays here (or, when draining, is refused).

        client_ip: as it came from the socket; transport: "udp", "tcp" or "tls".
        """
        raw = packed(client_ip)
        # A node is a client in probe calls: it asks the edge that it means.
        if raw is None or raw in self._fleet:
            return None
        row = self._shard.prefixes.look_up(client_ip)
        if not draining:
            return self._nearest(row, len(raw) == 16, transport)
        if self._takes_first(row, len(raw) == 16, transport):
            return None  # by the same table, whoever we name would send the client back
        for silent in (False, True):  # whoever must go takes a doubtful edge rather than none
            for name in (*row, *self._by_rtt(self._stand_ins)):
                alternate = self._door(name, len(raw) == 16, transport)
                if alternate is not None and self._silent(name) == silent:
                    return alternate
        return None

    def _takes_first(self, row: Sequence[str], six: bool, transport: str) -> bool:
        """Do we stand in this row, and by the table take such clients, before anybody else does?"""
        for name in row:
            if name == self._shard.node:
                return way_in(self._own, six, transport) is not None
            if self._door(name, six, transport) is not None:
                return False
        return False

    def _nearest(self, row: Sequence[str], six: bool, transport: str) -> Optional[Alternate]:
        """The first edge of the row that takes this client; None if that is us."""
        for name in row:
            if name == self._shard.node and self._own.turn_port is not None:
                return None
            alternate = None if self._silent(name) else self._door(name, six, transport)
            if alternate is not None:
                return alternate
        return None

    def _door(self, name: str, six: bool, transport: str) -> Optional[Alternate]:
        """Another edge's address for such a client, None if it has none."""
        edge = self._edges.get(name)
        return None if edge is None else way_in(edge, six, transport)

    def _silent(self, name: str) -> bool:
        return name in self._rtt_ms and self._rtt_ms[name] is None

    def _by_rtt(self, names: Sequence[str]) -> Sequence[str]:
        known: Dict[str, float] = {}
        for name in names:
            rtt_ms = self._rtt_ms.get(name)
            known[name] = float("inf") if rtt_ms is None else rtt_ms
        return sorted(names, key=lambda name: known[name])


def way_in(edge: ShardNode, six: bool, transport: str) -> Optional[Alternate]:
    """Where such a client enters this edge, None if it can not. Families must agree (RFC 8489 section 14.15)."""
    own_six = ":" in edge.address
    address = edge.address if own_six == six else edge.address6 if six else None
    port = edge.tls_port if transport == "tls" else edge.turn_port
    if address is None or port is None or edge.turn_port is None:
        return None
    return Alternate((address, port), edge.domain if transport == "tls" else None)


def _replaces(zones: Sequence[Zone], own: ShardNode, other: ShardNode) -> bool:
    """Whether the other edge may take any client of ours, whichever of our markets that one is in.

    They share a market, and no zone that holds for clients here is lost there: a zone knows the client by the markets
    of its edge, so at an edge outside of them its media would be free to pass where the law forbids it.
    """
    if own.markets.isdisjoint(other.markets):
        return False
    for zone in zones:
        for side in zone.between:
            bound = EVERY_MARKET not in side and not side.isdisjoint(own.markets)
            if bound and side.isdisjoint(other.markets):
                return False
    return True
