"""Which edge is nearest to which client network: the prefix map that a table may carry.

`{"203.0.113.0/24": ["sg-1", "hk-1"], ...}`, the nearest edge first; the longest prefix that holds an address is the
one that counts. One dictionary a prefix length, of whole numbers: a look-up asks each length that occurs, the longest
first, and never walks the map. Rows with the same edges share one tuple.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

MAX_PREFIXES = 200_000
MAX_EDGES = 8  # a client follows one redirect, or two
_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, IPv4 on an IPv6 socket (RFC 4291 section 2.5.5.2)

Edges = Tuple[str, ...]


class Network(NamedTuple):
    """A prefix as numbers. bits: 32 or 128; value: the first `length` bits of its addresses."""

    bits: int
    length: int
    value: int


def packed(ip: str) -> Optional[bytes]:
    """4 or 16 bytes in network order, an IPv4-mapped address as the IPv4 one; None if it is no plain address."""
    try:
        if ":" not in ip:
            return socket.inet_pton(socket.AF_INET, ip)
        address = socket.inet_pton(socket.AF_INET6, ip)
    except (OSError, ValueError):
        return None
    return address[12:] if address.startswith(_MAPPED) else address


def network(text: str) -> Network:
    """A prefix from its one spelling (RFC 5952; no bit set beyond the length). Raises ValueError, which names it."""
    address, slash, digits = text.partition("/")
    raw = packed(address)
    if not slash or raw is None or not (digits.isascii() and digits.isdigit()):
        raise ValueError("not a network in CIDR notation, such as 203.0.113.0/24")
    bits, length = 8 * len(raw), int(digits) if len(digits) < 4 else 999
    mapped = ":" in address and bits == 32
    if mapped or length > bits:
        raise ValueError("IPv4 must be written as IPv4" if mapped else "a length above /%d" % bits)
    number = int.from_bytes(raw, "big")
    # inet_ntop is twenty times as fast as the ipaddress module, but spells ::1.2.3.4 its own way.
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    if socket.inet_ntop(family, raw) != address or str(length) != digits or number % (1 << (bits - length)):
        right = str(ipaddress.ip_network(text, strict=False))
        if right != text:
            raise ValueError("must be written as %s" % right)
    return Network(bits, length, number >> (bits - length))


class PrefixMap:
    """Longest-prefix look-up for both families."""

    def __init__(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Raises ValueError, which names the first prefix that is wrong."""
        if len(rows) > MAX_PREFIXES:
            raise ValueError("more than %d prefixes" % MAX_PREFIXES)
        tables: Dict[Tuple[int, int], Dict[int, Edges]] = {}
        shared: Dict[Edges, Edges] = {}
        for text, row in rows.items():
            try:
                bits, length, value = network(text)
            except ValueError as error:
                raise ValueError("%s: %s" % (text[:80], error)) from None
            if not isinstance(row, (list, tuple)) or not all(isinstance(edge, str) for edge in row):
                raise ValueError("%s: not a list of node ids" % text)
            edges = tuple(row)
            if not 1 <= len(edges) <= MAX_EDGES or len(set(edges)) != len(edges):
                raise ValueError("%s: not 1 to %d different edges" % (text, MAX_EDGES))
            tables.setdefault((bits, length), {})[value] = shared.setdefault(edges, edges)
        self._size = len(rows)
        self._edges = frozenset(edge for row in shared for edge in row)
        self._by_bits: Dict[int, List[Tuple[int, Dict[int, Edges]]]] = {32: [], 128: []}
        for (bits, length), table in sorted(tables.items(), reverse=True):
            self._by_bits[bits].append((bits - length, table))

    def __len__(self) -> int:
        """How many prefixes."""
        return self._size

    @property
    def edges(self) -> "frozenset[str]":
        """Every edge that some row names."""
        return self._edges

    def look_up(self, ip: str) -> Edges:
        """The edges of the longest prefix that holds the address, the nearest first; () if none does."""
        raw = packed(ip)
        if raw is None:
            return ()
        number = int.from_bytes(raw, "big")
        for shift, table in self._by_bits[8 * len(raw)]:
            edges = table.get(number >> shift)
            if edges is not None:
                return edges
        return ()
