"""The nearest-edge map: prefixes.yaml over the measured last mile over GeoIP, as the longest prefix reads it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commcli.errors import BadInput
from commcli.fleet import Fleet, load
from commcli.fleet.geoip import Block
from commcli.fleet.lastmile import Figure, ordered
from commcli.fleet.model import GeoIp
from commcli.fleet.nearest import address, as_before, compiled, holding, nearest
from commcli.relay.table.prefixes import PrefixMap
from tests.fleet import samples
from tests.fleet.geoip_files import write

NOW = 1_795_000_000.0  # 2026-11-18
HEAD = "market,network,edge,rtt_ms,samples,day\n"
MARKETS = """\
markets:
  sg: {name: Singapore, edges: [sg-1, de-1]}
  de: {name: Germany, edges: [de-1, de-2]}
  br: {name: Brazil, edges: [br-1]}
"""
GEO: dict[str, str | dict[str, Any]] = {
    "192.0.2.0/25": "sg",
    "192.0.2.128/26": "sg",
    "192.0.2.192/26": "sg",
    "198.51.100.0/24": "de",
    "203.0.113.0/25": "br",
    "203.0.113.128/25": "us",
    "2001:db8::/32": "sg",
}


def made(
    folder: Path,
    *,
    geo: Mapping[str, str | dict[str, Any]] | None = GEO,
    prefixes: str = "",
    last_mile: str = "",
    options: str = "",
) -> Fleet:
    """The sample with three markets, a GeoIP database (None: none), explicit networks and measured ones."""
    inventory = samples.write(folder, markets=MARKETS, zones="zones: {}\n")
    with (inventory / "fleet.yaml").open("a") as file:
        if geo is not None:
            write(inventory / "country.mmdb", geo)
            file.write(f"geoip: {{database: country.mmdb{options}}}\n")
        if last_mile:
            (inventory / "last_mile.csv").write_text(HEAD + last_mile)
            file.write("last_mile: {file: last_mile.csv}\n")
    if prefixes:
        (inventory / "prefixes.yaml").write_text(f"prefixes:\n{prefixes}")
    return load(inventory)


def rows(fleet: Fleet) -> dict[str, tuple[str, ...]]:
    return {text: row.edges for text, row in nearest(fleet, NOW).rows.items()}


def test_the_networks_of_a_market_get_its_edges_and_neighbours_are_one(tmp_path: Path) -> None:
    assert rows(made(tmp_path)) == {
        "192.0.2.0/24": ("sg-1", "de-1"),
        "198.51.100.0/24": ("de-1", "de-2"),
        "203.0.113.0/25": ("br-1",),
    }, "us is no market, and nobody in sg has an IPv6 address"


def test_a_family_counts_where_an_edge_has_an_address_of_it(tmp_path: Path) -> None:
    fleet = made(tmp_path)
    six = dataclasses.replace(fleet.nodes["sg-1"], address6="2001:db8:ffff::1")
    fleet = dataclasses.replace(fleet, nodes={**fleet.nodes, "sg-1": six})
    assert rows(fleet)["2001:db8::/32"] == ("sg-1", "de-1")


def test_what_prefixes_yaml_says_stands(tmp_path: Path) -> None:
    text = "  192.0.0.0/16: [br-1]\n  198.51.100.64/26: [sg-1]\n  203.0.113.0/25: [de-1]\n"
    found = made(tmp_path, prefixes=text)
    assert rows(found) == {
        "192.0.0.0/16": ("br-1",),
        "198.51.100.64/26": ("sg-1",),
        "203.0.113.0/25": ("de-1",),
        "198.51.100.0/24": ("de-1", "de-2"),
    }
    layers = {text: row.layer for text, row in nearest(found, NOW).rows.items()}
    assert layers["198.51.100.64/26"] == "explicit" and layers["198.51.100.0/24"] == "geoip"


def test_measured_networks_are_between_both(tmp_path: Path) -> None:
    last_mile = (
        "sg,192.0.2.64/26,sg-1,40,100,2026-11-01\n"
        "sg,192.0.2.64/26,de-1,20,100,2026-11-01\n"
        "de,203.0.113.0/24,de-2,10,30,2026-11-01\n"
        "de,203.0.113.0/24,de-1,30,30,2026-11-01\n"
        "de,198.51.100.0/25,de-1,30,30,2026-11-01\n"
        "de,198.51.100.0/25,de-2,10,30,2026-11-01\n"
    )
    found = nearest(made(tmp_path, prefixes="  198.51.100.0/24: [sg-1]\n", last_mile=last_mile), NOW)
    assert {text: (row.edges, row.layer) for text, row in found.rows.items()} == {
        "198.51.100.0/24": (("sg-1",), "explicit"),
        "192.0.2.64/26": (("de-1", "sg-1"), "measured"),
        "203.0.113.0/24": (("de-2", "de-1"), "measured"),
        "192.0.2.0/24": (("sg-1", "de-1"), "geoip"),
    }
    assert [(f.edge, f.rtt_ms, f.samples) for f in found.rows["192.0.2.64/26"].figures] == [
        ("sg-1", 40.0, 100),
        ("de-1", 20.0, 100),
    ]


def test_a_market_as_a_whole_is_ordered_by_what_was_measured_of_it(tmp_path: Path) -> None:
    last_mile = "sg,*,sg-1,80,900,2026-11-01\nsg,*,de-1,60,900,2026-11-01\n"
    found = nearest(made(tmp_path, last_mile=last_mile), NOW).rows["192.0.2.0/24"]
    assert (found.edges, found.layer, len(found.figures)) == (("de-1", "sg-1"), "geoip", 2)


@pytest.mark.parametrize(
    ("samples_", "day"),
    [(29, "2026-11-01"), (900, "2026-10-01"), (900, "2062-11-01")],
    ids=["too few", "too old", "a slip of the pen, which would never be too old"],
)
def test_figures_that_say_little_do_not_count(tmp_path: Path, samples_: int, day: str) -> None:
    last_mile = f"sg,*,sg-1,80,900,2026-11-01\nsg,*,de-1,60,{samples_},{day}\n"
    assert nearest(made(tmp_path, last_mile=last_mile), NOW).rows["192.0.2.0/24"].edges == ("sg-1", "de-1")


@pytest.mark.parametrize(
    ("figures", "order"),
    [
        ({"a": 30.0, "b": 20.0, "c": 10.0}, ("c", "b", "a")),
        ({"a": 22.9, "b": 20.0, "c": 25.0}, ("a", "b", "c")),
        ({"a": 104.0, "b": 100.0}, ("a", "b", "c")),
        ({"a": 106.0, "b": 100.0}, ("b", "a", "c")),
        ({"c": 10.0, "a": 50.0}, ("c", "a", "b")),
        ({"b": 10.0}, None),
        ({}, None),
    ],
    ids=["by RTT", "equally near", "within 5 %", "beyond 5 %", "unmeasured last", "one says nothing", "none"],
)
def test_the_order_of_measured_edges(figures: dict[str, float], order: tuple[str, ...] | None) -> None:
    found = [Figure(edge, rtt_ms, 100, date(2026, 11, 1), 2) for edge, rtt_ms in figures.items()]
    assert ordered(("a", "b", "c"), found) == order


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("fr,*,sg-1,9,99,2026-11-01", 'unknown market "fr"'),
        ("sg,*,br-1,9,99,2026-11-01", '"br-1" is no edge of market sg'),
        ("sg,192.0.2.1/24,sg-1,9,99,2026-11-01", "network 192.0.2.1/24: must be written as 192.0.2.0/24"),
        ("sg,*,sg-1,nan,99,2026-11-01", "rtt_ms must be a number above 0, 60000 at most"),
        ("sg,*,sg-1,0,99,2026-11-01", "rtt_ms must be a number above 0, 60000 at most"),
        ("sg,*,sg-1,9,1.5,2026-11-01", "samples must be a whole number, 1 or more"),
        ("sg,*,sg-1,9,99,yesterday", "day must be a date such as 2026-11-20"),
        ("sg,*,sg-1,9,99", "must have 6 columns"),
        ("sg,*,sg-1,9,99,2026-11-01,x", "must have 6 columns"),
        ("de,*,de-1,9,99,2026-11-01", "de-1 has a line for de, * already"),
        ("br,198.51.100.0/24,br-1,9,99,2026-11-01", "network 198.51.100.0/24 is one of market de already"),
    ],
)
def test_a_mistake_in_the_last_mile(tmp_path: Path, line: str, error: str) -> None:
    good = "de,*,de-1,9,99,2026-11-01\nde,198.51.100.0/24,de-1,9,99,2026-11-01\n"
    fleet = made(tmp_path, last_mile=f"{good}{line}\n")
    with pytest.raises(BadInput) as caught:
        nearest(fleet, NOW)
    assert [text.rpartition("/inventory/")[2] for text in caught.value.errors] == [
        f"last_mile.csv:4: {error}"
    ]


def test_a_last_mile_of_other_columns_or_none_at_all(tmp_path: Path) -> None:
    fleet = made(tmp_path, last_mile="sg,*,sg-1,9,99,2026-11-01\n")
    assert fleet.last_mile is not None
    fleet.last_mile.file.write_text("edge,rtt\n")
    with pytest.raises(BadInput, match=r"last_mile.csv:1: the first line must be market,network,edge,"):
        nearest(fleet, NOW)
    fleet.last_mile.file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not a CSV file in UTF-8"):
        nearest(fleet, NOW)
    fleet.last_mile.file.unlink()
    with pytest.raises(BadInput, match="No such file"):
        nearest(fleet, NOW)


def test_a_spreadsheet_puts_a_mark_before_its_first_line(tmp_path: Path) -> None:
    fleet = made(tmp_path, last_mile="sg,*,sg-1,9,99,2026-11-01\n")
    assert fleet.last_mile is not None
    file = fleet.last_mile.file
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert nearest(fleet, NOW).rows


def test_an_inventory_with_a_missing_file_loads(tmp_path: Path) -> None:
    fleet = made(tmp_path)
    assert fleet.geoip is not None
    fleet.geoip.database.unlink()
    assert len(load(tmp_path / "inventory").nodes) == 4
    with pytest.raises(BadInput, match=r"country\.mmdb: No such file"):
        compiled(fleet, NOW)


def test_settings_name_a_file(tmp_path: Path) -> None:
    made(tmp_path, geo=None)
    with (tmp_path / "inventory/fleet.yaml").open("a") as file:
        file.write("geoip: {networks: 0, file: x}\nlast_mile: {samples: 30}\n")
    assert [text.partition(" ")[2] for text in samples.errors_of(tmp_path / "inventory")] == [
        "geoip: database is missing",
        "geoip: networks must be 1 to 200000",
        'geoip: unknown key "file"',
        "last_mile: file is missing",
    ]


@pytest.mark.parametrize(
    ("path", "said"), [("~nobody-of-that-name/a", "No such file"), ('"a\\0b"', "null")], ids=["home", "NUL"]
)
def test_a_path_that_can_not_be_is_one_line(tmp_path: Path, path: str, said: str) -> None:
    made(tmp_path, geo=None)
    with (tmp_path / "inventory/fleet.yaml").open("a") as file:
        file.write(f"last_mile: {{file: {path}}}\n")
    with pytest.raises(BadInput, match=said):
        nearest(load(tmp_path / "inventory"), NOW)


def test_the_smallest_networks_are_left_out_where_there_is_no_room(tmp_path: Path) -> None:
    found = nearest(made(tmp_path, options=", networks: 2"), NOW)
    assert set(found.rows) == {"192.0.2.0/24", "198.51.100.0/24"}
    assert (found.left_out, found.kept_share) == (1, {32: 512 / 640})


def test_compiled_once_it_is_compiled(tmp_path: Path) -> None:
    once = compiled(made(tmp_path), NOW)
    assert once.prefixes["203.0.113.0/25"] == ("br-1",)
    assert compiled(once, NOW) is once


def test_a_former_map_stands_as_far_as_it_can(tmp_path: Path) -> None:
    fleet = made(tmp_path, prefixes="  192.0.2.0/24: [sg-1]\n")
    former = {"192.0.2.0/25": ("de-1",), "198.51.100.0/24": ("de-1",), "203.0.113.0/24": ("gone-1",)}
    assert as_before(fleet, former).prefixes == {"192.0.2.0/24": ("sg-1",), "198.51.100.0/24": ("de-1",)}


def test_addresses_have_one_spelling() -> None:
    assert address("::ffff:203.0.113.7") == "203.0.113.7"
    assert address("2001:DB8:0::7") == "2001:db8::7"
    for text in ("203.0.113.0/24", "fe80::1%eth0", "sg-1", ""):
        with pytest.raises(ValueError):
            address(text)


# Against the map as a relay reads it: of every address, what the highest layer says of it is what it gets.

LENGTHS = st.integers(24, 30)


@st.composite
def blocks(draw: st.DrawFn) -> str:
    length = draw(LENGTHS)
    first = (203 << 24 | 0 << 16 | 113 << 8) + draw(st.integers(0, 255))
    return str(ipaddress.ip_network((first, length), strict=False))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(blocks(), st.sampled_from(["sg", "de", "br", "us"]), min_size=1, max_size=6),
    st.dictionaries(blocks(), st.sampled_from(["sg-1", "de-2"]), max_size=3),
)
def test_a_relay_finds_what_the_layers_say(
    tmp_path: Path, geo: dict[str, str], explicit: dict[str, str]
) -> None:
    # The longer ones are written last, and so are the ones that a database gives.
    geo = dict(sorted(geo.items(), key=lambda row: ipaddress.ip_network(row[0]).prefixlen))
    fleet = made(tmp_path, geo={"192.0.2.0/24": "sg", **geo})
    fleet = dataclasses.replace(fleet, prefixes={text: (edge,) for text, edge in explicit.items()})
    found = rows(fleet)
    relay = PrefixMap(found)
    for low in range(0, 256, 4):
        ip = f"203.0.113.{low}"
        ours, theirs = holding(explicit, ip), holding(geo, ip)
        market = fleet.markets.get(geo[theirs]) if theirs else None
        wanted = (explicit[ours],) if ours else market.edges if market else ()
        assert relay.look_up(ip) == wanted == (found.get(holding(found, ip) or "", ()))


def test_a_block_is_spelled_as_a_relay_wants_it() -> None:
    assert str(Block(32, 203 << 24 | 0 << 16 | 113 << 8, 24)) == "203.0.113.0/24"
    assert str(Block(128, 0x20010DB8 << 96, 32)) == "2001:db8::/32"
    assert GeoIp(Path("x")).networks == 20_000
