"""The other relays of the fleet that this one shares keys with: `etc/peers.json`, parsed and checked."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Sequence, Tuple

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


def key_id(key: bytes) -> str:
    """What a key may be called in logs and answers: it tells two of them apart and gives neither away."""
    return hashlib.blake2s(key=key, person=b"commkid", digest_size=4).hexdigest()


def key_ids(known: Mapping[str, Neighbour]) -> Dict[str, List[str]]:
    """The ids of each neighbour's keys, in their order."""
    return {node: [key_id(key) for key in neighbour.keys] for node, neighbour in known.items()}


def digest(ids: Mapping[str, Sequence[str]]) -> str:
    """One word for all of `key_ids`: whoever has the same keys for the same neighbours has the same word."""
    text = json.dumps({node: list(keys) for node, keys in ids.items()}, sort_keys=True)
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


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
