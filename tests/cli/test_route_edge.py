"""`commcli route edge`: which edge a client gets, by the table in force and by the next, and how it exits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli import fleet as fleets
from commcli.fleet import nearest
from commcli.routing import history
from commcli.routing import table as tables
from commcli.routing.decision import decide
from commcli.routing.publish import Package
from tests.cli.test_route import Commcli
from tests.fleet.geoip_files import write

MARKETS = """\
markets:
  sg: {name: Singapore, edges: [sg-1, hk-1]}
  hk: {name: Hong Kong, edges: [hk-1]}
  de: {name: Germany, edges: [de-1]}
  kr: {name: South Korea, edges: [kr-1]}
  ae: {name: United Arab Emirates, edges: [ae-1]}
"""
TODAY = time.strftime("%Y-%m-%d", time.gmtime())


class Edge(Commcli):
    """With a market of two edges, and settings to add."""

    def setting(self, line: str) -> None:
        with (self.inventory / "fleet.yaml").open("a") as file:
            file.write(f"{line}\n")

    def geoip(self) -> Path:
        self.setting("geoip: {database: country.mmdb}")
        rows = {"203.0.113.0/24": "sg", "198.51.100.0/24": "fr", "192.0.2.0/24": "sg"}
        return write(self.inventory / "country.mmdb", {**rows, "2001:db8::/32": "sg"})

    def publish_map(self, serial: int = 1) -> None:
        """Record the table of today, client networks and all, as one that was published."""
        with self.store() as store:
            fleet = nearest.compiled(fleets.load(self.inventory), time.time())
            made = decide(fleet, store.mesh(), in_force=None, serial=serial, now_unix=time.time())
            encoded, journal = tables.encode(made.table), history.StoreJournal(store)
            journal.intend(Package(serial, encoded.manifest, "sig", encoded.shards), {})
            journal.settle(serial, "published", {})

    def drain(self, node: str) -> None:
        file = self.inventory / "nodes.yaml"
        file.write_text(file.read_text().replace(f"base: /srv/{node}", f"base: /srv/{node}, state: drain"))


@pytest.fixture
def edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Edge]:
    # Bound and not listening: whoever connects is refused.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        made = Edge(tmp_path, closed.getsockname()[1], capsys)
        (made.inventory / "markets.yaml").write_text(MARKETS)
        yield made


def said(text: str) -> str:
    return " ".join(text.split())


def test_before_the_first_table_it_is_a_plan(edge: Edge) -> None:
    edge.geoip()
    answer = edge("edge", "203.0.113.7")
    assert (answer.code, answer.err) == (0, "")
    assert "203.0.113.7 gets sg-1, once a table is published" in answer.out
    assert "GeoIP puts 203.0.113.0/24 into sg: the edges of that market in the inventory's order" in said(
        answer.out
    )
    assert "then hk-1" in answer.out


@pytest.mark.parametrize("ip", ["203.0.113.7", "::ffff:203.0.113.7"])
def test_by_the_table_in_force(edge: Edge, ip: str) -> None:
    edge.measure()
    edge.geoip()
    edge.publish_map(7)
    doc = edge("edge", ip, "--json").document
    assert (doc["schema"], doc["kind"], doc["ip"], doc["edge"]) == (1, "route.edge", "203.0.113.7", "sg-1")
    assert (doc["in_force"]["serial"], doc["in_force"]["prefix"], doc["differs"]) == (
        7,
        "203.0.113.0/24",
        False,
    )
    assert (doc["in_force"]["why"], doc["in_force"]["market"]) == ("geoip", "sg")
    assert doc["geoip"] == {"network": "203.0.113.0/24", "country": "sg", "market": True}
    assert doc["map"]["geoip"] == 2, "nobody in sg has an IPv6 address"
    answer = edge("edge", ip)
    assert "203.0.113.7 gets sg-1\n" in answer.out and "table 7 of 20" in answer.out
    assert edge("edge", ip, "--quiet").out == ""


def test_what_the_next_table_would_do_otherwise_is_said_beside_it(edge: Edge) -> None:
    edge.measure()
    edge.geoip()
    edge.publish_map()
    edge.drain("sg-1")
    answer = edge("edge", "203.0.113.7")
    assert answer.code == 0
    assert "203.0.113.7 gets sg-1\n" in answer.out, "that is what relays do today"
    assert "the next table: hk-1" in answer.out
    assert "passed over: sg-1 takes no new clients" in answer.out
    edge.publish_map(2)
    doc = edge("edge", "203.0.113.7", "--json").document
    assert (doc["edge"], doc["differs"], doc["in_force"]["edges"][0]["node"]) == ("hk-1", False, "sg-1")
    assert doc["in_force"]["edges"][0]["barrier"] is not None


def test_prefixes_yaml_and_the_last_mile_are_reasons_of_their_own(edge: Edge) -> None:
    edge.geoip()
    (edge.inventory / "prefixes.yaml").write_text("prefixes:\n  203.0.113.128/25: [kr-1]\n")
    edge.setting("last_mile: {file: last_mile.csv}")
    lines = [f"sg,203.0.113.0/26,{node},{ms},90,{TODAY}" for node, ms in (("sg-1", 40), ("hk-1", 12.5))]
    text = "\n".join(["market,network,edge,rtt_ms,samples,day", *lines, ""])
    (edge.inventory / "last_mile.csv").write_text(text)
    explicit = edge("edge", "203.0.113.200")
    assert "gets kr-1" in explicit.out and "203.0.113.128/25, written in prefixes.yaml" in explicit.out
    measured = edge("edge", "203.0.113.7")
    assert "gets hk-1" in measured.out
    assert (
        f"market sg by measured last mile: sg-1 40.0 ms (90 samples, {TODAY}), hk-1 12.5 ms (90 samples, {TODAY})"
        in said(measured.out)
    )


@pytest.mark.parametrize(
    ("ip", "why", "words"),
    [
        ("198.51.100.9", "no-market", "GeoIP puts 198.51.100.0/24 into fr, which is no market"),
        ("233.252.0.1", "no-country", "GeoIP names no country for 233.252.0.1"),
        ("2001:db8::7", "family", "into sg, whose edges have no address of that family"),
    ],
)
def test_a_client_that_no_row_holds_stays(edge: Edge, ip: str, why: str, words: str) -> None:
    edge.geoip()
    answer = edge("edge", ip)
    assert answer.code == 1
    assert f"{ip} stays at the edge that it comes to" in answer.out and words in said(answer.out)
    assert edge("edge", ip, "--json").document["next"]["why"] == why


def test_what_had_no_room_is_no_row(edge: Edge) -> None:
    edge.geoip()
    file = edge.inventory / "fleet.yaml"
    file.write_text(file.read_text().replace("country.mmdb}", "country.mmdb, networks: 1}"))
    doc = edge("edge", "203.0.113.7", "--json").document
    assert (doc["edge"], doc["next"]["why"], doc["map"]["left_out"]) == (None, "left-out", 1)
    assert edge("edge", "192.0.2.7").code == 0
    assert "1 small ones left out (50.0 % of IPv4 of the markets' addresses kept)" in said(
        edge("edge", "192.0.2.7").out
    )


def test_a_row_of_either_table_alone(edge: Edge) -> None:
    edge.measure()
    edge.publish_map()
    database = edge.geoip()
    doc = edge("edge", "203.0.113.7", "--json").document
    assert (doc["edge"], doc["in_force"]["why"], doc["next"]["edge"]) == (None, "not-yet", "sg-1")
    edge.publish_map(2)
    write(database, {"203.0.113.0/24": "de"})
    doc = edge("edge", "203.0.113.7", "--json").document
    assert (doc["edge"], doc["in_force"]["why"], doc["next"]["edge"]) == ("sg-1", "former", "de-1")


def test_without_a_database_it_says_where_to_get_one(edge: Edge) -> None:
    answer = edge("edge", "203.0.113.7")
    assert answer.code == 1
    assert "no GeoIP database is named" in answer.out and "GeoLite2 Country" in answer.out
    assert "geoip: {database: FILE}" in said(answer.out)


def test_a_missing_database_stops_only_who_makes_a_table(edge: Edge) -> None:
    edge.measure()
    database = edge.geoip()
    edge.publish_map()
    database.unlink()
    for verb in (["plan"], ["apply", "--yes"]):
        answer = edge(*verb)
        assert (answer.code, answer.out) == (3, "")
        assert "country.mmdb: No such file or directory\n" in answer.err and "GeoLite2 Country" in answer.err
    assert edge("show").code == edge("explain", "ae", "kr").code == edge("history").code == 0
    answer = edge("edge", "203.0.113.7")
    assert answer.code == 0, "the table in force does not need it"
    assert "gets sg-1" in answer.out and "the next table is not known" in answer.out


def test_a_rollback_does_not_wait_for_a_database(edge: Edge) -> None:
    edge.measure()
    database = edge.geoip()
    edge.publish_map(1)
    edge.publish_map(2)
    database.unlink()
    answer = edge("rollback", "--yes")
    assert answer.code == 4, "it got as far as asking the relays"
    assert "client networks stay as in table 1" in answer.err


def test_a_plan_counts_the_networks_that_change(edge: Edge) -> None:
    edge.measure()
    edge.publish_map()
    edge.geoip()
    assert "2 client networks get other edges" in said(edge("plan").out)


def test_a_relay_is_never_sent_elsewhere(edge: Edge) -> None:
    (edge.inventory / "prefixes.yaml").write_text("prefixes:\n  127.0.0.0/8: [kr-1]\n")
    answer = edge("edge", "127.9.0.1")
    assert answer.code == 1
    assert "127.9.0.1 is ae-1 itself" in answer.out


@pytest.mark.parametrize("ip", ["sg-1", "203.0.113.0/24", "fe80::1%eth0", "203.0.113.007"])
def test_what_is_no_address_is_wrong_use(edge: Edge, ip: str) -> None:
    answer = edge("edge", ip)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"{ip}: not an IP address, such as 203.0.113.7\n"


def test_transports_are_words_of_ours(edge: Edge) -> None:
    edge.geoip()
    assert edge("edge", "203.0.113.7", "--transport", "sctp").code == 2
    answer = edge("edge", "203.0.113.7", "--transport", "tls")
    assert answer.code == 1 and "passed over: sg-1 has no TLS port" in answer.out
