"""The nearest-edge map: client networks -> edges, for 300 Try Alternate (RFC 8656), and where each row is from.

Three layers, of which the upper ones stand: what prefixes.yaml says; networks whose last mile was measured; and the
networks that GeoIP puts into the country of a market, for that market's edges. A relay takes the longest prefix: a
network inside one of an upper layer is left out, and one around it stays.

A generated row names edges of one market alone: a zone knows a client by the markets of its edge.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from commcli.errors import BadInput
from commcli.fleet.geoip import Block, networks
from commcli.fleet.lastmile import WHOLE_MARKET, Figure, Figures, ordered, read, usable
from commcli.fleet.model import Fleet, Market
from commcli.relay.table.prefixes import MAX_EDGES, MAX_PREFIXES, network

Layer = Literal["explicit", "measured", "geoip"]


@dataclass(frozen=True, slots=True)
class Row:
    """The edges of one network, the nearest first, and why: its layer, its market (None: an explicit row's), and the
    measured figures that order its edges (none: the inventory does).
    """

    edges: tuple[str, ...]
    layer: Layer
    market: str | None = None
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Nearest:
    """The whole map, by prefix. `left_out` are the GeoIP networks that had no room, from the smallest on; `kept_share`
    is what is kept of GeoIP's addresses of these markets, by number of bits (32, 128).
    """

    rows: Mapping[str, Row]
    left_out: int = 0
    kept_share: Mapping[int, float] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many rows each layer has."""
        layers = [row.layer for row in self.rows.values()]
        return {layer: layers.count(layer) for layer in ("explicit", "measured", "geoip")}


def compiled(fleet: Fleet, now_unix: float) -> Fleet:
    """The fleet with all of its client networks in `prefixes`. Raises BadInput for a file that can not be read."""
    if fleet.geoip is None and fleet.last_mile is None:
        return fleet
    return laid_out(fleet, nearest(fleet, now_unix))


def laid_out(fleet: Fleet, found: Nearest) -> Fleet:
    """The fleet with this map as its client networks: nothing is left to be compiled."""
    prefixes = {text: row.edges for text, row in found.rows.items()}
    return replace(fleet, prefixes=prefixes, geoip=None, last_mile=None)


def nearest(fleet: Fleet, now_unix: float) -> Nearest:
    """Read the files that the inventory names, and lay the layers over each other. Raises BadInput."""
    rows = {text: Row(edges, "explicit") for text, edges in fleet.prefixes.items()}
    figures: Figures = {}
    if fleet.last_mile is not None:
        said = read(fleet.last_mile.file, fleet.markets)
        figures = {key: usable(found, fleet.last_mile, now_unix) for key, found in said.items()}
        rows |= _outside(rows, _measured(fleet, figures))
    if len(rows) > MAX_PREFIXES:
        raise BadInput(f"{len(rows)} written and measured networks: a table has room for {MAX_PREFIXES}")
    if fleet.geoip is None:
        return Nearest(rows)
    rules = {market.id: _row_of(market, figures) for market in fleet.markets.values()}
    blocks = list(_merged(_wanted(fleet), _layer(rows)))
    room = min(fleet.geoip.networks, MAX_PREFIXES - len(rows))
    kept = sorted(sorted(blocks, key=_smallness)[:room])
    rows |= {str(block): rules[market] for block, market in kept}
    return Nearest(rows, len(blocks) - len(kept), _share(kept, blocks))


def as_before(fleet: Fleet, prefixes: Mapping[str, tuple[str, ...]]) -> Fleet:
    """The fleet with the client networks of a former table, as far as its edges still exist; explicit ones stand."""
    explicit = {text: Row(edges, "explicit") for text, edges in fleet.prefixes.items()}
    former = [
        (text, Row(edges, "geoip")) for text, edges in prefixes.items() if fleet.nodes.keys() >= {*edges}
    ]
    return laid_out(fleet, Nearest(explicit | _outside(explicit, former)))


def address(text: str) -> str:
    """An address in its one spelling, an IPv4-mapped one as IPv4. Raises ValueError for what is none."""
    found = ipaddress.ip_address(text)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    if "%" in text:
        raise ValueError("an address with a scope is nobody's on the Internet")
    return str(mapped or found)


def holding(prefixes: Container[str], ip: str) -> str | None:
    """The longest of the prefixes that holds an `address`, as a relay would find it; None if none does."""
    for length in range(ipaddress.ip_address(ip).max_prefixlen, -1, -1):
        text = str(ipaddress.ip_network(f"{ip}/{length}", strict=False))
        if text in prefixes:
            return text
    return None


def _measured(fleet: Fleet, figures: Figures) -> Iterator[tuple[str, Row]]:
    for (market, where), found in figures.items():
        edges = ordered(fleet.markets[market].edges, found) if where != WHOLE_MARKET else None
        if edges is not None:
            yield where, Row(edges[:MAX_EDGES], "measured", market, tuple(found))


def _row_of(market: Market, figures: Figures) -> Row:
    """What every network of this market's country gets."""
    found = figures.get((market.id, WHOLE_MARKET), [])
    edges = ordered(market.edges, found)
    if edges is None:
        return Row(market.edges[:MAX_EDGES], "geoip", market.id)
    return Row(edges[:MAX_EDGES], "geoip", market.id, tuple(found))


class _Layer:
    """Networks that stand: one set of first bits a length."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._by: dict[tuple[int, int], set[int]] = {}
        for block in blocks:
            self._by.setdefault((block.bits, block.length), set()).add(block.value)

    def holds(self, block: Block) -> bool:
        """Whether the block lies in one of them, or is one."""
        return any(
            bits == block.bits
            and length <= block.length
            and (block.value >> (bits - length) << (bits - length)) in values
            for (bits, length), values in self._by.items()
        )


def _layer(rows: Mapping[str, Row]) -> _Layer:
    return _Layer(_block(text) for text in rows)


def _block(text: str) -> Block:
    bits, length, first = network(text)
    return Block(bits, first << (bits - length), length)


def _outside(upper: Mapping[str, Row], rows: Iterable[tuple[str, Row]]) -> dict[str, Row]:
    standing = _layer(upper)
    return {text: row for text, row in rows if not standing.holds(_block(text))}


def _wanted(fleet: Fleet) -> Iterator[tuple[Block, str]]:
    """The networks of countries that are markets, of the families that an edge of theirs has an address of."""
    assert fleet.geoip is not None
    met = {market.id: families(fleet, market) for market in fleet.markets.values()}
    for block, country in networks(fleet.geoip.database, met.keys()):
        if block.bits in met[country]:
            yield block, country


def families(fleet: Fleet, market: Market) -> set[int]:
    """The bits of the addresses (32, 128) at which the edges of a market can be met."""
    nodes = [fleet.nodes[edge] for edge in market.edges[:MAX_EDGES]]
    addresses = [text for node in nodes for text in (node.address, node.address6) if text]
    return {128 if ":" in text else 32 for text in addresses}


def _merged(found: Iterable[tuple[Block, str]], standing: _Layer) -> Iterator[tuple[Block, str]]:
    """Neighbours of one market as one network, without what an upper layer holds. `found` ascends, nothing in it
    overlaps.
    """
    done: list[tuple[Block, str]] = []
    for block, market in found:
        done.append((block, market))
        while len(done) > 1 and (whole := _joined(*done[-2:])):
            done[-2:] = [(whole, market)]
    return ((block, market) for block, market in done if not standing.holds(block))


def _joined(one: tuple[Block, str], other: tuple[Block, str]) -> Block | None:
    """The network that both halves make, None if they make none."""
    (low, market), (high, its) = one, other
    same = market == its and low.bits == high.bits and low.length == high.length > 0
    if not same or low.value | 1 << (low.bits - low.length) != high.value or low.value == high.value:
        return None
    return Block(low.bits, low.value, low.length - 1)


def _smallness(found: tuple[Block, str]) -> tuple[float, Block]:
    # An IPv6 /48 goes to whom an IPv4 /24 does, a /32 to whom a /16.
    block = found[0]
    return (block.length if block.bits == 32 else block.length / 2, block)


def _share(kept: list[tuple[Block, str]], whole: list[tuple[Block, str]]) -> dict[int, float]:
    found = {}
    for bits in (32, 128):
        sizes = [sum(1 << (bits - b.length) for b, _ in blocks if b.bits == bits) for blocks in (kept, whole)]
        if sizes[1]:
            found[bits] = sizes[0] / sizes[1]
    return found
