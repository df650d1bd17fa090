"""The inventory folder -> Fleet: five files, and perhaps two more, each a mapping; the example `inventory/`
explains them.

Everything wrong in all of them is told in one BadInput; what only refers to something broken is not. Where nothing but
probes.yaml is wrong, only what needs it says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from commcli.errors import BadInput
from commcli.fleet import yamlfile
from commcli.fleet.fleetfile import read_fleet_file
from commcli.fleet.model import Fleet
from commcli.fleet.nodes import check_production, read_nodes
from commcli.fleet.places import read_markets, read_regions
from commcli.fleet.prefixes import read_prefixes
from commcli.fleet.probes import read_probes
from commcli.fleet.probing import Probes
from commcli.fleet.record import Record, nearest
from commcli.fleet.yamlfile import Problems, YamlMap
from commcli.fleet.zones import check_reachable, read_zones

FILES = ("fleet.yaml", "regions.yaml", "nodes.yaml", "markets.yaml", "zones.yaml")
PREFIXES = "prefixes.yaml"  # without it no client is sent to a nearer edge
PROBES = "probes.yaml"  # without it nothing is probed by itself
OPTIONAL = (PREFIXES, PROBES)


def load(folder: Path) -> Fleet:
    """Read and check an inventory. Raises BadInput with every problem, each `file:line: reason`."""
    if not folder.is_dir():
        reason = f"{yamlfile.shown(folder)}: no such inventory folder"
        raise BadInput(reason, hint="Name it with --inventory FOLDER.")
    problems = Problems()
    _stray_files(folder, problems)
    files = {name: _open(folder / name, problems) for name in FILES}
    of_probes = Problems()
    for name in OPTIONAL:
        if (folder / name).exists():
            files[name] = _open(folder / name, of_probes if name == PROBES else problems)
    fleet = _read(folder, files, problems)
    if problems:
        problems.extend(of_probes)
        problems.raise_if_any()
    wrong = of_probes.as_error()
    return fleet if wrong is None else replace(fleet, probing=wrong)


def _read(folder: Path, files: dict[str, Record], problems: Problems) -> Fleet:
    """The fleet as far as it can be read: worth something only if there are no problems."""
    region_table = files["regions.yaml"].table("regions")
    node_table = files["nodes.yaml"].table("nodes")
    market_table = files["markets.yaml"].table("markets")
    zone_table = files["zones.yaml"].table("zones")
    regions = read_regions(region_table)
    nodes = read_nodes(node_table, files["nodes.yaml"].section("defaults"), regions, region_table.ids())
    markets = read_markets(market_table, node_table.ids())
    zones = read_zones(zone_table, market_table.ids())
    prefixes = read_prefixes(files[PREFIXES].table("prefixes"), node_table.ids()) if PREFIXES in files else {}
    probes = read_probes(files[PROBES], market_table.ids()) if PROBES in files else Probes()
    settings = read_fleet_file(files["fleet.yaml"], folder)
    for file in files.values():
        file.finish()
    if settings["production"]:
        check_production(node_table, nodes)
    if not problems.among([file.file for name, file in files.items() if name != "fleet.yaml"]):
        # A broken inventory is not asked whether everyone can still be reached: it would say no to all.
        check_reachable(zone_table, zones, nodes, markets)
    return Fleet(
        **settings,
        regions=regions,
        nodes=nodes,
        markets=markets,
        zones=zones,
        prefixes=prefixes,
        probing=probes,
    )


def _stray_files(folder: Path, problems: Problems) -> None:
    # A zones.yml that nobody reads is a law that nobody obeys.
    known = (*FILES, *OPTIONAL)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".yaml", ".yml") and path.name not in known:
            problems.add(yamlfile.shown(path), 0, f"is no file of an inventory{nearest(path.name, known)}")


def _open(path: Path, problems: Problems) -> Record:
    value = yamlfile.read(path, problems)
    line = value.line if isinstance(value, YamlMap) else 1
    return Record(value, line, yamlfile.shown(path), "", problems, told=value is None)
