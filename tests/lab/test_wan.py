from __future__ import annotations

import json
from importlib import resources

import pytest

from commcli.lab import wan
from commcli.lab.wan import Link
from tests.lab import eight

TEXT = resources.files("commcli.lab").joinpath("rtt.csv").read_text()
TABLE = wan.parse(TEXT)
CITIES = {node: city for node, (city, _) in eight.CITIES.items()}
LINKS = wan.links(CITIES, TABLE)
ADDRESSES = {node: f"127.77.0.{number}" for number, node in enumerate(CITIES, start=1)}


def between(a: str, b: str) -> Link:
    return LINKS[frozenset({a, b})]


def test_the_table_has_sixteen_cities_and_names_its_source() -> None:
    assert len({city for pair in TABLE for city in pair}) == 16
    assert len(TABLE) == 16 * 15 / 2
    assert "WonderNetwork" in TEXT.splitlines()[0] and "Apache-2.0" in "".join(TEXT.splitlines()[:2])


def test_the_table_is_symmetric() -> None:
    rows = [line.split(",") for line in TEXT.splitlines() if not line.startswith("#")]
    for i, row in enumerate(rows[1:]):
        assert row[0] == rows[0][i + 1]
        assert [rows[j + 1][i + 1] for j in range(16)] == row[1:]


def test_dubai_to_seoul_is_better_by_singapore_than_straight() -> None:
    assert between("ae-1", "kr-1").rtt_ms == 396
    assert wan.one_relay("ae-1", "kr-1", CITIES, LINKS)[:2] == [(203, "sg-1"), (232, "hk-1")]


def test_the_bad_pair_loses_in_bursts_and_nobody_else_does() -> None:
    bad = between("ae-1", "kr-1")
    assert bad.loss == pytest.approx(0.02) and bad.burst > 1
    others = [link for pair, link in LINKS.items() if pair != frozenset({"ae-1", "kr-1"})]
    assert all(link.loss < 0.005 and link.burst == 1 for link in others)


@pytest.mark.parametrize(("rtt_ms", "loss"), [(35, 0), (149, 0), (150, 0.001), (220, 0.002), (357, 0.004)])
def test_synthetic_loss_grows_with_the_distance(rtt_ms: float, loss: float) -> None:
    assert wan.link("x", "y", rtt_ms).loss == loss


def test_each_direction_carries_half_the_rtt() -> None:
    there = wan.faults("ae-1", ADDRESSES, LINKS)["links"]
    back = wan.faults("sg-1", ADDRESSES, LINKS)["links"]
    assert isinstance(there, dict) and isinstance(back, dict)
    assert there["127.77.0.3"]["delay_ms"] + back["127.77.0.1"]["delay_ms"] == 83
    assert set(there) == set(ADDRESSES.values()) - {"127.77.0.1"}
    json.dumps(there, allow_nan=False)


def test_a_link_survives_the_faults_file() -> None:
    link = Link(rtt_ms=83, jitter_ms=0.6, loss=0.01, burst=2, rate_kbit=800)
    assert wan.link_of(wan.entry(link)) == link


def test_degrading_replaces_what_is_given_and_keeps_the_rest() -> None:
    link = Link(rtt_ms=83, jitter_ms=0.6, loss=0.01)
    assert wan.degraded(link, loss=0.1) == Link(rtt_ms=83, jitter_ms=0.6, loss=0.1)
    assert wan.degraded(link, rtt_ms=0.0).rtt_ms == 0


def test_a_city_without_figures_is_named() -> None:
    with pytest.raises(KeyError, match="Atlantis"):
        wan.links({"a-1": "Dubai", "b-1": "Atlantis"}, TABLE)
