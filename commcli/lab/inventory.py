"""The lab's own inventory: the example fleet's nodes, moved to loopback addresses and to the lab's keys.

Written as YAML by hand, for humans to read and edit: every scalar is a JSON scalar, which is YAML too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from commcli.fleet.loader import load
from commcli.fleet.model import EVERY_MARKET, Fleet, Market, Node, Zone
from commcli.lab import authority
from commcli.lab.folder import USER, LabFolder, Place, Record, write_atomic

#: Where the lab's edges take clients over TLS (RFC 8656 section 3.1 has it for the default).
TLS_PORT = 5349

#: The lab's first nodes, in the order of their addresses.
FIRST = ("ae-1", "kr-1", "sg-1", "hk-1", "jp-1", "de-1", "br-1", "us-1")


def example(configured: Path) -> Fleet:
    """The fleet that the lab copies: the example beside the code, or else the inventory in use."""
    beside = Path(__file__).parents[2] / "inventory"
    return load(beside if beside.is_dir() else configured)


def write(folder: LabFolder, source: Fleet, record: Record) -> None:
    """Write the five files that are not there yet; what a user edited stays."""
    folder.inventory.mkdir(mode=0o700, exist_ok=True)
    for place in record.places:
        folder.base(place.node).mkdir(parents=True, exist_ok=True)
    for name, text in files(folder, source, record).items():
        if not (folder.inventory / name).exists():
            write_atomic(folder.inventory / name, text)


def files(folder: LabFolder, source: Fleet, record: Record) -> dict[str, str]:
    """The inventory as text, by file name."""
    nodes = [source.nodes[place.node] for place in record.places]
    markets = _markets(source, nodes)
    return {
        "fleet.yaml": _fleet(source, nodes),
        "regions.yaml": _regions(source, nodes),
        "nodes.yaml": _nodes(folder, source, record),
        "markets.yaml": "markets:\n" + "".join(_market(market) for market in markets),
        "zones.yaml": zones_text(_zones(source, markets)),
    }


def _fleet(source: Fleet, nodes: Iterable[Node]) -> str:
    secrets = "".join(f"  {name}: {{file: ../secrets/{name}}}\n" for name in source.secrets)
    return f"""\
# Made by `commcli lab up`; gone with `commcli lab down`.
name: lab
production: false
realm: lab
ssh:
  known_hosts: ../keys/known_hosts
  identities: [../keys/operator]
  agent: false
signing:
  key: ../keys/signer
  signers: ../keys/allowed_signers
tls:
  ca: ../keys/tls/ca.pem
secrets:
{secrets}"""


def _regions(source: Fleet, nodes: Iterable[Node]) -> str:
    rows = []
    for name in dict.fromkeys(node.region for node in nodes):
        region = source.regions[name]
        place = "" if region.lat is None else f", lat: {region.lat}, lon: {region.lon}"
        rows.append(
            f"  {name}: {{city: {_scalar(region.city)}, country: {_scalar(region.country)}, "
            f"continent: {_scalar(region.continent)}{place}}}\n"
        )
    return "regions:\n" + "".join(rows)


def _nodes(folder: LabFolder, source: Fleet, record: Record) -> str:
    python, probe_python = _scalar(str(Path(sys.executable).resolve())), _scalar(sys.executable)
    rows = [_node(folder, source.nodes[place.node], place) for place in record.places]
    return f"""\
defaults:
  ssh: {{port: {record.ssh_port}, user: {USER}, python: {python}}}
  probe_python: {probe_python}
  provider: lab
  ports: {{tls: {TLS_PORT}}}
  variables: {{faults: true, systemd: false, allow_peers: ["{record.network}.0/24"]}}
nodes:
""" + "".join(rows)


def _node(folder: LabFolder, node: Node, place: Place) -> str:
    state = "" if node.state == "active" else f"    state: {node.state}\n"
    tags = f"    tags: {_names(node.tags)}\n" if node.tags else ""
    return f"""\
  {node.id}:
    region: {node.region}
    address: {place.address}
    domain: {authority.domain(node.id)}
    base: {_scalar(str(folder.base(node.id)))}
{state}{tags}"""


def _markets(source: Fleet, nodes: Iterable[Node]) -> list[Market]:
    """The markets that the lab's nodes serve, with those edges only."""
    known = {node.id for node in nodes}
    kept = []
    for market in source.markets.values():
        if edges := tuple(edge for edge in market.edges if edge in known):
            kept.append(Market(market.id, market.name, edges))
    return kept


def _market(market: Market) -> str:
    return f"  {_scalar(market.id)}: {{name: {_scalar(market.name)}, edges: [{', '.join(market.edges)}]}}\n"


def _zones(source: Fleet, markets: Iterable[Market]) -> list[Zone]:
    """The example's zones, as far as they concern markets of the lab."""
    known = {market.id for market in markets} | {EVERY_MARKET}
    kept = []
    for zone in source.zones:
        one, other = zone.between[0] & known, zone.between[1] & known
        if one and other:
            kept.append(replace(zone, between=(one, other)))
    return kept


def zones_text(zones: Iterable[Zone]) -> str:
    """zones.yaml."""
    rows = "".join(_zone(zone) for zone in zones)
    return f"zones:\n{rows}" if rows else "zones: {}\n"


def _zone(zone: Zone) -> str:
    sides = ", ".join(_side(side) for side in zone.between)
    lines = [f"  {zone.id}:", f"    between: [{sides}]"]
    if zone.forbid:
        lines.append(f"    forbid: {_names(zone.forbid)}")
    if zone.allow is not None:
        lines.append(f"    allow: {_names(zone.allow)}")
    return "\n".join([*lines, f"    reason: {_scalar(zone.reason)}"]) + "\n"


def _side(side: frozenset[str]) -> str:
    return '"*"' if side == {EVERY_MARKET} else _names(side)


def _names(words: Iterable[str]) -> str:
    # Quoted, all of them: bare `no` (Norway) is false in YAML.
    return "[" + ", ".join(_scalar(word) for word in sorted(words)) + "]"


def _scalar(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
