"""MaxMind's format: which networks lie in which country, where one address does, and what is wrong with a file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commcli.errors import BadInput
from commcli.fleet.geoip import Place, look_up, networks
from tests.fleet.geoip_files import widen, write

ROWS: dict[str, str | dict[str, Any]] = {
    "192.0.2.0/25": "sg",
    "192.0.2.128/25": "de",
    "203.0.113.0/24": "sg",
    "2001:db8::/32": "de",
    "2001:db8:5600::/40": "br",
}


def found(file: Path, *countries: str) -> list[tuple[str, str]]:
    return [(str(block), country) for block, country in networks(file, countries)]


def test_the_networks_of_some_countries_in_the_order_of_their_addresses(tmp_path: Path) -> None:
    file = write(tmp_path / "c.mmdb", ROWS)
    assert found(file, "sg", "br") == [
        ("192.0.2.0/25", "sg"),
        ("203.0.113.0/24", "sg"),
        ("2001:db8:5600::/40", "br"),
    ]


@pytest.mark.parametrize("record_size", [28, 32])
def test_a_large_database_has_wider_nodes(tmp_path: Path, record_size: int) -> None:
    file = widen(write(tmp_path / "c.mmdb", ROWS), record_size)
    with maxminddb.open_database(file) as reader:
        assert reader.metadata().record_size == record_size
    assert len(found(file, "sg", "de", "br")) == 3 + 1 + 8, "the /40 is cut out of the /32 around it"


LENGTHS = st.integers(24, 32)


@st.composite
def networks_of_both_families(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        return (
            f"{ipaddress.ip_network((0xCB007100 + draw(st.integers(0, 255)), draw(LENGTHS)), strict=False)}"
        )
    first = (0x20010DB8 << 96) + (draw(st.integers(0, 255)) << 72)
    return f"{ipaddress.ip_network((first, 24 + draw(LENGTHS)), strict=False)}"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(networks_of_both_families(), st.sampled_from(["sg", "de"]), min_size=1, max_size=8))
def test_the_walk_finds_what_the_library_does(tmp_path: Path, rows: dict[str, str]) -> None:
    rows = dict(sorted(rows.items(), key=lambda row: ipaddress.ip_network(row[0]).prefixlen))
    file = write(tmp_path / "c.mmdb", rows)
    with maxminddb.open_database(file, maxminddb.MODE_MEMORY) as reader:
        theirs = [(str(network), record["country"]["iso_code"].lower()) for network, record in reader]
    assert found(file, "sg", "de") == theirs


def test_a_circle_in_the_tree_has_an_end(tmp_path: Path) -> None:
    file = write(tmp_path / "c.mmdb", {"203.0.113.0/24": "sg"}, ip_version=4)
    # The first node leads back to itself on both sides.
    file.write_bytes(bytes(6) + file.read_bytes()[6:])
    with pytest.raises(BadInput, match="damaged"):
        found(file, "sg")


@pytest.mark.parametrize(
    "record",
    [
        {"country": {"iso_code": "SG"}, "registered_country": {"iso_code": "US"}},
        {"country_code": "SG", "country": "Singapore"},
        {"country": "SG"},
    ],
    ids=["geoip2", "country_code", "country"],
)
def test_every_shape_of_a_country(tmp_path: Path, record: dict[str, Any]) -> None:
    file = write(tmp_path / "c.mmdb", {"203.0.113.0/24": record}, ip_version=4)
    assert found(file, "sg", "us") == [("203.0.113.0/24", "sg")]
    place = look_up(file, "203.0.113.7")
    assert place is not None and (place.network, place.country) == ("203.0.113.0/24", "sg")


def test_where_a_network_is_registered_is_not_where_its_users_are(tmp_path: Path) -> None:
    rows: dict[str, str | dict[str, Any]] = {
        "192.0.2.0/24": {"registered_country": {"iso_code": "SG"}},
        "203.0.113.0/24": "de",
    }
    assert found(write(tmp_path / "c.mmdb", rows), "sg") == []


def test_a_place_has_a_point_in_a_database_of_cities(tmp_path: Path) -> None:
    city = {"country": {"iso_code": "FR"}, "location": {"latitude": 48.86, "longitude": 2.35}}
    file = write(tmp_path / "c.mmdb", {"2001:db8::/32": city, **{"192.0.2.0/24": "sg"}})
    place = look_up(file, "2001:db8::7")
    assert place is not None and (place.country, place.lat, place.lon) == ("fr", 48.86, 2.35)
    plain = look_up(file, "192.0.2.1")
    assert plain is not None and (plain.country, plain.lat) == ("sg", None)


@pytest.mark.parametrize(
    "more",
    [
        {"location": {"latitude": "48.86", "longitude": 2.35}},
        {"location": {"latitude": float("nan"), "longitude": float("inf")}},
        {"location": {"latitude": 2**100, "longitude": 1}},
        {"location": {"latitude": {"a": 1}, "longitude": [1]}},
        {"location": "Paris"},
        {"traits": {"network": "nowhere"}},
    ],
)
def test_a_record_that_says_no_place_on_earth_has_none(tmp_path: Path, more: dict[str, Any]) -> None:
    file = write(tmp_path / "c.mmdb", {"192.0.2.0/24": {"country": {"iso_code": "FR"}, **more}})
    assert look_up(file, "192.0.2.7") == Place("192.0.2.0/24", "fr", None, None)


def test_an_address_that_no_record_holds(tmp_path: Path) -> None:
    file = write(tmp_path / "c.mmdb", {"203.0.113.0/24": "sg"}, ip_version=4)
    assert look_up(file, "198.51.100.1") is None
    assert look_up(file, "2001:db8::1") is None, "the file is of IPv4"


def _truncated(file: Path) -> None:
    whole = write(file, ROWS).read_bytes()
    file.write_bytes(whole[: len(whole) // 4] + whole[-120:])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file: None, "No such file or directory"),
        (lambda file: file.write_text("country: sg\n"), "damaged, or no database in MaxMind's format"),
        (_truncated, "damaged, or no database in MaxMind's format"),
        (
            lambda file: write(file, {"192.0.2.0/24": {"autonomous_system_number": 64496}}),
            "no country in any record of this Test-Country database",
        ),
    ],
    ids=["missing", "text", "truncated", "of something else"],
)
def test_a_file_that_is_no_good_is_one_line_and_where_to_get_one(
    tmp_path: Path, make: Any, said: str
) -> None:
    file = tmp_path / "c.mmdb"
    make(file)
    with pytest.raises(BadInput) as caught:
        found(file, "sg")
    assert str(caught.value) == f"{file}: {said}"
    assert caught.value.hint is not None and "GeoLite2 Country" in caught.value.hint
