"""GeoIP databases of documentation networks, written on the spot: nobody's data."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import maxminddb
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]


def write(file: Path, rows: Mapping[str, str | dict[str, Any]], *, ip_version: int = 6) -> Path:
    """A database of networks, each with its country (as GeoIP2 says it) or with a record of its own shape."""
    writer = MMDBWriter(ip_version, "Test-Country", ["en"], "", ipv4_compatible=ip_version == 6)
    for network, said in rows.items():
        record = {"country": {"iso_code": said.upper()}} if isinstance(said, str) else said
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(file))
    return file


def widen(file: Path, record_size: int) -> Path:
    """The same database with nodes of 28 or 32 bits a side, as large ones have them."""
    whole = file.read_bytes()
    with maxminddb.open_database(file) as reader:
        told = reader.metadata()
    assert told.record_size == 24
    tree, rest = whole[: told.node_count * 6], whole[told.node_count * 6 :]
    pairs = struct.iter_unpack(">BHBH", tree)
    sides = [(high << 16 | low, its_high << 16 | its_low) for high, low, its_high, its_low in pairs]
    key = b"record_size\xa1"  # a 16-bit number of one byte
    rest = rest.replace(key + bytes([24]), key + bytes([record_size]))
    file.write_bytes(b"".join(_node(left, right, record_size) for left, right in sides) + rest)
    return file


def _node(left: int, right: int, record_size: int) -> bytes:
    if record_size == 28:
        middle = (left >> 24) << 4 | right >> 24
        return b"".join(
            ((left & 0xFFFFFF).to_bytes(3, "big"), bytes([middle]), (right & 0xFFFFFF).to_bytes(3, "big"))
        )
    return struct.pack(">II", left, right)
