"""The one door to MaxMind's database format: which networks lie in which country, and where one address does.

Any vendor's file will do whose records name a country, either as GeoIP2 does ({"country": {"iso_code": "SG"}}) or
plainly ({"country_code": "SG"}, {"country": "SG"}). Where a network is registered is not asked: users may be elsewhere.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commcli.errors import BadInput
from commcli.fleet.yamlfile import shown

if TYPE_CHECKING:
    from maxminddb import Reader
    from maxminddb.reader import Metadata

# What the reader stumbles over in a damaged file.
_DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError, struct.error)
# A writer may let several places share a part of the tree; without an end it is a circle.
MOST_VISITS = 8
HOW = (
    "Country databases in MaxMind's format are free of charge as GeoLite2 Country (with an account) and DB-IP Country "
    "Lite (with attribution); name the file in fleet.yaml: `geoip: {database: FILE}`."
)


class Block(NamedTuple):
    """A network as numbers. bits: 32 or 128; value: its first address."""

    bits: int
    value: int
    length: int

    @property
    def first(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """Its first address."""
        return ipaddress.IPv4Address(self.value) if self.bits == 32 else ipaddress.IPv6Address(self.value)

    def __str__(self) -> str:
        """As tables spell it."""
        return f"{self.first}/{self.length}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database says that an address is. `country` in lower case; None is "it does not say"."""

    network: str
    country: str | None
    lat: float | None = None
    lon: float | None = None


def networks(database: Path, countries: Collection[str]) -> Iterator[tuple[Block, str]]:
    """Every network of these countries, in the order of the addresses; no two overlap. Raises BadInput."""
    with _opened(database) as reader:
        country_of: dict[int, str | None] = {}
        for block, pointer in _leaves(database.read_bytes(), reader.metadata()):
            if pointer not in country_of:
                # Thousands of networks share a record: it is read once.
                country_of[pointer] = _country(reader.get(block.first))
            country = country_of[pointer]
            if country is not None and country in countries:
                yield block, country
        if not any(country_of.values()):
            kind = reader.metadata().database_type
            raise BadInput(f"{shown(database)}: no country in any record of this {kind} database", hint=HOW)


def _leaves(tree: bytes, told: Metadata) -> Iterator[tuple[Block, int]]:
    """Every network with a record, and where the record is: IPv4, then IPv6.

    The library walks trees too, but its C walker overruns its memory on a damaged one, and its Python walker reads each
    record anew: five times as long.
    """
    start, start_depth = 0, 0
    while told.ip_version == 6 and start < told.node_count and start_depth < 96:  # IPv4 lies in ::/96
        start, start_depth = _children(tree, told, start)[0], start_depth + 1
    yield from _below(tree, told, start, 32, None)
    if told.ip_version == 6:
        for block, pointer in _below(tree, told, 0, 128, start):
            if block.value >> 112:
                yield block, pointer


def _below(
    tree: bytes, told: Metadata, root: int, bits: int, other_name: int | None
) -> Iterator[tuple[Block, int]]:
    """The leaves under a node. What lies under `other_name` too (IPv4 in IPv6's clothes) is not said twice."""
    waiting, visits = [(root, 0, 0)], 0
    while waiting:
        node, value, depth = waiting.pop()
        if node > told.node_count:
            yield Block(bits, value, depth), node
        elif node < told.node_count and node != other_name:
            visits += 1
            if depth >= bits or visits > MOST_VISITS * told.node_count:
                raise ValueError("a circle in the tree")
            left, right = _children(tree, told, node)
            waiting.append((right, value | 1 << (bits - 1 - depth), depth + 1))
            waiting.append((left, value, depth + 1))


def _children(tree: bytes, told: Metadata, node: int) -> tuple[int, int]:
    """MaxMind DB specification 2.0, "Node layout"."""
    size = told.record_size
    at = node * size // 4
    pair = int.from_bytes(tree[at : at + size // 4], "big")
    if size == 28:
        return (pair >> 32) | (pair >> 28 & 0xF) << 24, pair & 0xFFFFFFF
    return pair >> size, pair & (1 << size) - 1


def look_up(database: Path, ip: str) -> Place | None:
    """Where the database says that one address is, None if it has no word on it. Raises BadInput."""
    with _opened(database) as reader:
        if ":" in ip and reader.metadata().ip_version == 4:
            return None
        record, length = reader.get_with_prefix_len(ip)
    if not isinstance(record, dict):
        return None
    network = str(ipaddress.ip_network(f"{ip}/{length}", strict=False))
    return Place(network, _country(record), *_point(record))


def _point(record: dict[str, Any]) -> tuple[float | None, float | None]:
    """Latitude and longitude, where the file is one of cities and says a place on Earth."""
    from geoip2.models import City

    try:
        where = City(None, **record).location
    except (TypeError, ValueError, AttributeError):  # a plain record, in a shape of its own
        return None, None
    if not (_is_within(where.latitude, 90) and _is_within(where.longitude, 180)):
        return None, None
    return where.latitude, where.longitude


def _is_within(degrees: object, most: float) -> bool:
    return isinstance(degrees, int | float) and -most <= degrees <= most


def _country(record: object) -> str | None:
    if not isinstance(record, Mapping):
        return None
    found: Any = record.get("country")
    if isinstance(found, Mapping):
        found = found.get("iso_code")
    code = record.get("country_code") or found
    return code.lower() if isinstance(code, str) and len(code) == 2 else None


@contextmanager
def _opened(database: Path) -> Iterator[Reader]:
    import maxminddb

    file = shown(database)
    try:
        # In Python: the C reader ends the process on some damaged files.
        with maxminddb.open_database(database, maxminddb.MODE_MEMORY) as reader:
            yield reader
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}", hint=HOW) from None
    except (maxminddb.InvalidDatabaseError, *_DAMAGE):
        raise BadInput(f"{file}: damaged, or no database in MaxMind's format", hint=HOW) from None
