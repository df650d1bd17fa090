"""The other relays of the fleet that this one shares keys with: `etc/peers.json`, parsed and checked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Tuple

KEY_BYTES = 32
MAX_KEYS = 4
MAX_NEIGHBOURS = 10_000


@dataclass(frozen=True)
class Neighbour:
    """One other relay. The first key sends, all verify; without keys: no overlay, and STAMP is open."""

    id: str
    address: str
    overlay_port: int
    stamp_port: int
    keys: Tuple[bytes, ...] = field(repr=False)


def parse(peers: Mapping[str, object]) -> Dict[str, Neighbour]:
    """The object under "peers" of the file. Raises ValueError naming the first thing wrong, never a key."""
    if len(peers) > MAX_NEIGHBOURS:
        raise ValueError("peers: more than %d" % MAX_NEIGHBOURS)
    return {node: _neighbour(node, row) for node, row in peers.items()}


def _neighbour(node: str, row: object) -> Neighbour:
    if not isinstance(row, dict):
        raise ValueError("peer %s: not an object" % node)
    unknown = set(row) - {"address", "overlay_port", "stamp_port", "keys"}
    if unknown:
        raise ValueError("peer %s: unknown key %s" % (node, ", ".join(sorted(map(str, unknown)))))
    address = row.get("address")
    if not isinstance(address, str):
        raise ValueError("peer %s: no address" % node)
    try:
        address = str(ipaddress.ip_address(address))
    except ValueError:
        raise ValueError("peer %s: not an IP address: %s" % (node, address)) from None
    overlay_port, stamp_port = _port(node, row, "overlay_port"), _port(node, row, "stamp_port")
    return Neighbour(node, address, overlay_port, stamp_port, _keys(node, row))


def _port(node: str, row: Mapping[str, object], name: str) -> int:
    port = row.get(name)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ValueError("peer %s: %s is not a port" % (node, name))
    return port


def _keys(node: str, row: Mapping[str, object]) -> Tuple[bytes, ...]:
    texts = row.get("keys", [])
    if not isinstance(texts, list) or len(texts) > MAX_KEYS:
        raise ValueError("peer %s: keys is not a list of at most %d" % (node, MAX_KEYS))
    keys: List[bytes] = []
    for place, text in enumerate(texts):
        try:
            key = bytes.fromhex(text)
        except (TypeError, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError("peer %s: key %d is not %d hex digits" % (node, place + 1, 2 * KEY_BYTES))
        keys.append(key)
    return tuple(keys)
