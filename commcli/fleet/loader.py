"""The inventory -> Fleet. In a folder: five files, and perhaps two more, each a mapping; the example `inventory/`
explains them. A program `nodes` may stand for nodes.yaml, and so for each. Or one file, or the answer of one program:
`regions`, `defaults`, `nodes`, `markets`, `zones` and `prefixes` as they stand in those files, all of fleet.yaml below
`fleet`, and all of probes.yaml below `probes`.

Everything wrong in all of them is told in one BadInput; what only refers to something broken is not. Where nothing but
probes.yaml is wrong, only what needs it says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from commcli.errors import BadInput
from commcli.fleet import executable, kept, yamlfile
from commcli.fleet.fleetfile import read_fleet_file
from commcli.fleet.kept import Origins
from commcli.fleet.model import Fleet, Region, Zone
from commcli.fleet.nodes import check_production, read_nodes
from commcli.fleet.places import read_markets, read_regions
from commcli.fleet.prefixes import read_prefixes
from commcli.fleet.probes import read_probes
from commcli.fleet.probing import Probes
from commcli.fleet.record import Record, nearest
from commcli.fleet.yamlfile import Problems, YamlMap
from commcli.fleet.zones import check_reachable, read_zones, rules_media

ZONES = "zones.yaml"
FILES = ("fleet.yaml", "regions.yaml", "nodes.yaml", "markets.yaml", ZONES)
PREFIXES = "prefixes.yaml"  # without it no client is sent to a nearer edge
PROBES = "probes.yaml"  # without it nothing is probed by itself
OPTIONAL = (PREFIXES, PROBES)


def load(place: Path, *, zones: Path | None = None) -> Fleet:
    """Read and check an inventory: a folder, a file, or a program. Raises BadInput with every problem, each
    `file:line: reason`. `zones` is a file to take for its zones.yaml.
    """
    if not place.exists():
        reason = f"{yamlfile.shown(place)}: no such inventory"
        raise BadInput(reason, hint="Name it with --inventory: a folder, a file, or a program.")
    origins = _origins(place)
    digest = origins.digest() if zones is None else None
    if digest is not None and (fleet := kept.find(origins, digest, kept.now_unix())) is not None:
        return fleet
    read = _Reading(place, zones)
    fleet = read.fleet()
    if digest is not None and all(read.cache_s):
        spans = [span_s for span_s in read.cache_s if span_s]
        kept.keep(origins, digest, fleet, kept.now_unix() + min(spans) if spans else None)
    return fleet


def _origins(place: Path) -> Origins:
    """What the inventory is made of, as far as it is there."""
    if not place.is_dir():
        is_program = executable.is_executable(place)
        return Origins(place, () if is_program else (place,), (place,) if is_program else ())
    known = (*FILES, *OPTIONAL)
    programs = [path for name in known if executable.is_executable(path := _program(place, name))]
    files = [path for name in known if (path := place / name).exists()]
    return Origins(place, files, programs, sorted(path.name for path in place.iterdir()))


def _program(folder: Path, name: str) -> Path:
    """The program that may stand in a folder for this file: `nodes` for nodes.yaml."""
    return folder / name.removesuffix(".yaml")


class _Reading:
    """One look at an inventory. `cache_s`: for how long the answer of each of its programs may be kept."""

    def __init__(self, place: Path, zones: Path | None) -> None:
        self._place = place
        self._zones = zones
        self._problems = Problems()
        self._of_probes = Problems()
        self.cache_s: list[int | None] = []

    def fleet(self) -> Fleet:
        """The fleet. Raises BadInput with every problem."""
        is_folder = self._place.is_dir()
        files = self._of_folder() if is_folder else self._of_one()
        fleet = _read(self._place if is_folder else self._place.parent, files, self._problems)
        if self._problems:
            self._problems.extend(self._of_probes)
            self._problems.raise_if_any()
        wrong = self._of_probes.as_error()
        return fleet if wrong is None else replace(fleet, probing=wrong)

    def _of_folder(self) -> dict[str, Record]:
        folder = self._place
        _stray_files(folder, self._problems)
        files = {name: self._part(name, self._problems) for name in FILES if name != ZONES or not self._zones}
        if self._zones is not None:
            files[ZONES] = _open(self._zones, self._problems)
        for name in OPTIONAL:
            if (folder / name).exists() or executable.is_executable(_program(folder, name)):
                files[name] = self._part(name, self._of_probes if name == PROBES else self._problems)
        return files

    def _part(self, name: str, problems: Problems) -> Record:
        """A file of the folder, or the answer of the program that stands for it."""
        path, program = self._place / name, _program(self._place, name)
        if not executable.is_executable(program):
            return _open(path, problems)
        if path.exists():
            problems.add(
                yamlfile.shown(program), 0, f"stands for {name}, which is there too: one of them is to go"
            )
        return self._answer(program, problems)

    def _of_one(self) -> dict[str, Record]:
        """The sections of a single file, or of a program's answer, each as the file that it would be in a folder."""
        one = self._answer if executable.is_executable(self._place) else _open
        whole = one(self._place, self._problems)
        files = dict.fromkeys(("regions.yaml", "nodes.yaml", "markets.yaml", ZONES), whole)
        files["fleet.yaml"] = whole.section("fleet")
        if whole.has("prefixes"):
            files[PREFIXES] = whole
        if whole.has("probes"):
            files[PROBES] = whole.section("probes", self._of_probes)
        if self._zones is not None:
            whole.take("zones")
            files[ZONES] = _open(self._zones, self._problems)
        return files

    def _answer(self, program: Path, problems: Problems) -> Record:
        value, cache_s = executable.ask(program, problems)
        self.cache_s.append(cache_s)
        return Record(value, 0, yamlfile.shown(program), "", problems, told=value is None)


def regions_of(place: Path) -> dict[str, Region] | None:
    """The regions of an inventory alone, which may have no nodes yet; None where none can be read."""
    problems = Problems()
    if place.is_dir():
        file = _open(place / "regions.yaml", problems)
    elif place.is_file() and not executable.is_executable(place):
        file = _open(place, problems)
    else:
        return None
    regions = read_regions(file.table("regions"))
    return None if problems else regions


def zones_of(path: Path) -> tuple[Zone, ...]:
    """The zones of a zones.yaml alone, whatever markets there are. Raises BadInput with every problem."""
    problems = Problems()
    file = _open(path, problems)
    zones = read_zones(file.table("zones"), None)
    file.finish()
    problems.raise_if_any()
    return zones


def _read(folder: Path, files: dict[str, Record], problems: Problems) -> Fleet:
    """The fleet as far as it can be read: worth something only if there are no problems."""
    region_table = files["regions.yaml"].table("regions")
    node_table = files["nodes.yaml"].table("nodes")
    market_table = files["markets.yaml"].table("markets")
    zone_table = files[ZONES].table("zones")
    regions = read_regions(region_table)
    settings = read_fleet_file(files["fleet.yaml"], folder)
    defaults = files["nodes.yaml"].section("defaults")
    ssh_config = settings["ssh"].config is not None
    nodes = read_nodes(node_table, defaults, regions, region_table.ids(), ssh_config=ssh_config)
    markets = read_markets(market_table, node_table.ids())
    every_zone = read_zones(zone_table, market_table.ids())
    zones = tuple(zone for zone in every_zone if zone.store is None or rules_media(zone))
    prefixes = read_prefixes(files[PREFIXES].table("prefixes"), node_table.ids()) if PREFIXES in files else {}
    probes = read_probes(files[PROBES], market_table.ids()) if PROBES in files else Probes()
    for file in {id(file): file for file in files.values()}.values():
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
        storage=tuple(zone for zone in every_zone if zone.store is not None),
        prefixes=prefixes,
        probing=probes,
    )


def _stray_files(folder: Path, problems: Problems) -> None:
    # A zones.yml that nobody reads is a law that nobody obeys.
    known = (*FILES, *OPTIONAL)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".yaml", ".yml") and path.name not in known:
            problems.add(yamlfile.shown(path), 0, f"is no file of an inventory{nearest(path.name, known)}")
        elif f"{path.name}.yaml" in known and path.is_file() and not executable.is_executable(path):
            problems.add(yamlfile.shown(path), 0, f"can not be run (chmod +x), to stand for {path.name}.yaml")


def _open(path: Path, problems: Problems) -> Record:
    value = yamlfile.read(path, problems)
    line = value.line if isinstance(value, YamlMap) else 1
    return Record(value, line, yamlfile.shown(path), "", problems, told=value is None)
