"""Where probe data may be stored: zones that say so keep it out of a store that stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commcli.cli import output
from commcli.fleet import load
from commcli.fleet.describe import checked
from commcli.fleet.model import Fleet
from commcli.fleet.residency import Residency
from commcli.routing import policy
from commcli.store.sqlite import Store
from tests.fleet import samples
from tests.routing.worlds import NOW, window

KEPT_AT_HOME = """\
zones:
  br-data:
    between: [[br], "*"]
    store: [br]
    reason: data law
  cn-both:
    between: [[cn], [de]]
    forbid: [us]
    store: [cn]
    reason: law and contract
"""


def fleet(folder: Path, country: str | None) -> Fleet:
    where = f"store: {{country: {country}}}\n" if country else ""
    folder.mkdir(exist_ok=True)
    return load(samples.write(folder, fleet=samples.FILES["fleet.yaml"] + where, zones=KEPT_AT_HOME))


def call(a: str, b: str) -> dict[str, Any]:
    return {"unix": NOW, "from": {"node": a}, "to": {"node": b}, "verdict": "good"}


@pytest.mark.parametrize(
    ("country", "pairs"),
    [
        ("br", {("br-1", "sg-1"), ("br-1", "de-1")}),  # sg-1 serves cn as well
        ("cn", {("sg-1", "de-1")}),
        ("de", set()),
        (None, set()),  # nobody knows where it stands
    ],
)
def test_only_a_store_in_the_right_country_keeps_it(
    tmp_path: Path, country: str | None, pairs: set[tuple[str, str]]
) -> None:
    world = fleet(tmp_path / "inventory", country)
    free = {("de-1", "de-2")}
    with Store(tmp_path / "db", clock=lambda: NOW).under(Residency(world)) as store:
        for a, b in [("br-1", "sg-1"), ("br-1", "de-1"), ("sg-1", "de-1"), ("de-1", "de-2")]:
            store.record_mesh(a, [window(a, b, 10.0)])
            number = store.record_call(call(a, b))
            assert (number is not None) == ((a, b) in pairs | free)
        assert {(row["node"], row["peer"]) for row in store.mesh()} == pairs | free
        assert {(row["from_node"], row["to_node"]) for row in store.calls_since(0)} == pairs | free
        assert sum(store.left_out.values()) == 2 * (3 - len(pairs))
    with Store(tmp_path / "db") as store:
        assert store.left_out == {}


def test_doors_of_edges_that_serve_such_a_market_are_left_out_too(tmp_path: Path) -> None:
    doors = [{"node": node, "transport": "udp", "verdict": "good"} for node in ("br-1", "de-2")]
    document = {"unix": NOW, "from": None, "valid": True, "doors": doors}
    with Store(tmp_path / "db", clock=lambda: NOW).under(Residency(fleet(tmp_path / "i", "de"))) as store:
        assert store.record_edges(document) == 1
        assert [row["node"] for row in store.edges_since(0)] == ["de-2"]
        assert store.left_out == {"br-data": 1}


def test_what_nobody_knows_could_serve_any_market(tmp_path: Path) -> None:
    with Store(tmp_path / "db", clock=lambda: NOW).under(Residency(fleet(tmp_path / "i", "de"))) as store:
        assert store.record_mesh("stranger", [window("stranger", "de-2", 10.0)]) == 0


def test_a_zone_of_storage_alone_rules_no_media(tmp_path: Path) -> None:
    world = fleet(tmp_path, "de")
    assert [zone.id for zone in world.zones] == ["cn-both"]
    assert [zone.id for zone in world.storage] == ["br-data", "cn-both"]
    assert all("store" not in row for row in policy.of(world).zone_rows)


@pytest.mark.parametrize(
    ("country", "where"), [("br", None), ("de", "de"), (None, "a country that fleet.yaml does not say")]
)
def test_fleet_check_warns_of_nodes_that_the_store_is_left_without(
    tmp_path: Path, country: str | None, where: str | None
) -> None:
    """de-1 and de-2 may be measured with each other, sg-1 with nobody: it serves cn as well."""
    doc = checked(fleet(tmp_path / "inventory", country))
    said = (
        f"zones br-data, cn-both: the store stands in {where} and may keep nothing measured with br-1, sg-1 "
        "(all edges of market sg, cn, br): no route to or from there is planned"
    )
    assert [text for text in doc["warnings"] if text.startswith("zones")] == ([said] if where else [])


def test_it_is_said_once_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = fleet(tmp_path / "i", None)
    with output.storing(tmp_path / "db", world, quiet=False) as store:
        store.record_mesh("br-1", [window("br-1", peer, 10.0) for peer in ("de-1", "de-2")])
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "not stored, since this store stands in a country that fleet.yaml does not say: 2 rows by zone br-data (2)"
    )
    with output.storing(tmp_path / "db", world, quiet=True) as store:
        store.record_mesh("br-1", [window("br-1", "de-1", 10.0)])
    assert capsys.readouterr().err == ""
