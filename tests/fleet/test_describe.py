"""The documents of `commcli fleet`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import load
from commcli.fleet.describe import card, checked, listing
from tests.fleet import samples
from tests.fleet.geoip_files import write


def test_a_listing_names_what_it_left_out(tmp_path: Path) -> None:
    doc = listing(load(samples.write(tmp_path)), "tag:hub")
    assert [node["id"] for node in doc["nodes"]] == ["sg-1", "de-1"]
    assert doc["nodes_in_fleet"] == 4
    assert doc["nodes"][0]["markets"] == ["sg", "cn"]
    assert doc["nodes"][1]["provider"] is None


def test_a_card_shows_the_zones_that_bind_the_node_and_only_those(tmp_path: Path) -> None:
    fleet = load(samples.write(tmp_path))
    assert [zone["id"] for zone in card(fleet, "sg-1")["node"]["zones"]] == ["cn-not-by-us"]
    assert [zone["id"] for zone in card(fleet, "de-1")["node"]["zones"]] == ["de-home", "cn-not-by-us"]


def test_documents_are_json_with_no_secret_in_them(tmp_path: Path) -> None:
    fleet = load(samples.write(tmp_path, "nodes.yaml", "state: drain", "variables: {a: {b: [1, {c: null}]}}"))
    for doc in (listing(fleet, "all"), card(fleet, "de-2"), checked(fleet)):
        assert json.loads(json.dumps(doc, allow_nan=False)) == doc


def test_a_card_counts_the_networks_that_a_node_is_near_to(tmp_path: Path) -> None:
    folder = samples.write(tmp_path)
    (folder / "prefixes.yaml").write_text("prefixes:\n  203.0.113.0/24: [sg-1, de-1]\n  ::/0: [de-1]\n")
    node = card(load(folder), "de-1")["node"]
    assert node["prefixes"] == {"nearest": 1, "further": 1}
    assert (node["address6"], node["domain"], node["workers"], node["limits"]["user_quota"]) == (None,) * 4


def test_check_names_the_networks_whose_clients_nobody_near_can_take(tmp_path: Path) -> None:
    folder = samples.write(tmp_path)
    (folder / "prefixes.yaml").write_text(
        "prefixes:\n  203.0.113.0/24: [sg-1, de-2]\n  198.51.100.0/24: [de-2]\n  2001:db8::/32: [sg-1]\n"
    )
    doc = checked(load(folder))
    assert doc["counts"]["prefixes"] == 3
    assert [text for text in doc["warnings"] if text.startswith("prefixes")] == [
        "prefixes 198.51.100.0/24: all their edges are draining",
        "prefixes 2001:db8::/32: no edge of theirs has an address of that family",
    ]


def test_check_names_probes_that_can_not_be_made_or_say_little(tmp_path: Path) -> None:
    folder = samples.write(tmp_path, "nodes.yaml", "192.0.2.1,", "192.0.2.1, probe_python: /usr/bin/python3,")
    (folder / "probes.yaml").write_text(
        "pairs:\n  - {between: [sg, cn]}\n  - {between: [sg, de], transport: tls}\n"
        "  - {between: [sg, br], every: never}\n"
    )
    assert [text for text in checked(load(folder))["warnings"] if text.startswith("probes")] == [
        "probes: calls are scheduled from and to de-1, and no probe_python is named there",
        "probes: calls over tls are scheduled from and to de-1, sg-1, and there is no tls port",
        "probes: one edge serves both ends of sg-cn: these calls cross no network",
    ]


def test_an_unknown_node(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match='unknown node "sg1"; did you mean "sg-1"'):
        card(load(samples.write(tmp_path)), "sg1")


def test_check_warns_of_what_is_thin(tmp_path: Path) -> None:
    folder = samples.write(
        tmp_path,
        fleet=samples.FILES["fleet.yaml"] + "  one: {file: open}\n  two: {file: closed}\n",
        regions=samples.FILES["regions.yaml"] + "  los: {city: Lagos, country: ng, continent: africa}\n",
        markets=samples.FILES["markets.yaml"] + "  fr: {name: France, edges: [de-2]}\n",
    )
    (folder / "signers").touch()
    (folder / "open").touch(mode=0o644)
    (folder / "closed").touch(mode=0o600)
    doc = checked(load(folder))
    assert doc["counts"] == {"regions": 4, "nodes": 4, "markets": 5, "zones": 2, "prefixes": 0, "secrets": 3}
    assert doc["warnings"] == [
        "market sg: only sg-1 takes its calls",
        "market de: only de-1 takes its calls",
        "market cn: only sg-1 takes its calls",
        "market br: only br-1 takes its calls",
        "market fr: all its edges are draining: nobody there can start a call",
        "region los: no node stands there",
        f"ssh: known_hosts {folder}/ssh/known_hosts is not there: every node will be refused",
        "secrets: no overlay: no relay can be provisioned",
        f"secrets: turn: file {folder}/secrets/turn is not there",
        f"secrets: one: file {folder}/open is open to others than its owner: chmod 600",
    ]


def test_networks_that_have_no_room_are_a_warning_and_a_missing_database_an_error(tmp_path: Path) -> None:
    folder = samples.write(tmp_path)
    with (folder / "fleet.yaml").open("a") as file:
        file.write("geoip: {database: c.mmdb, networks: 1}\n")
    write(folder / "c.mmdb", {"203.0.113.0/24": "sg", "192.0.2.0/25": "de"})
    assert [text for text in checked(load(folder))["warnings"] if text.startswith("geoip")] == [
        "geoip: networks of markets without room in a table: 1; 66.7 % of their IPv4 addresses are in it"
    ]
    (folder / "c.mmdb").unlink()
    with pytest.raises(BadInput, match="No such file"):
        checked(load(folder))
