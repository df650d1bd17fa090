"""What `--auto` may publish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commcli.fleet import Zone
from commcli.remote.outcome import Outcome
from commcli.routing.decision import Decision, decide
from commcli.routing.limits import Limits, passed
from commcli.routing.preflight import Preflight
from tests.routing.fleets import fleet, zone
from tests.routing.worlds import COUNTRIES, NOW, RTT_MS, decision, small_fleet, window, windows

EVERYBODY = Preflight(dict.fromkeys(COUNTRIES, 1))
BEFORE = decision().table


def _gone(node: str) -> Outcome[int]:
    return Outcome(node, "unreachable", None, "connection refused", 0.1, 4)


def away(*nodes: str) -> Preflight:
    gone = tuple(_gone(node) for node in nodes)
    return Preflight({node: 1 for node in COUNTRIES if node not in nodes}, gone)


def names(found: Decision, at: Preflight = EVERYBODY, limits: Limits | None = None) -> list[str]:
    return [one.limit for one in passed(found, at, limits or Limits())]


def test_a_plan_that_changes_nothing_passes_no_limit() -> None:
    assert names(decision(in_force=BEFORE)) == []


def test_without_a_table_in_force_it_is_for_a_person() -> None:
    assert names(decision()) == ["first"]


def test_the_share_of_pairs_that_change_and_how_far_it_is_over() -> None:
    # Both directions of ae-kr leave sg-1: 2 of 20 pairs.
    changed = decision(rtt_ms={**RTT_MS, ("ae-1", "kr-1"): 160.0}, in_force=BEFORE)
    assert names(changed, limits=Limits(changed=0.1)) == []
    (one,) = passed(changed, EVERYBODY, Limits(changed=0.09))
    assert (one.limit, one.value, one.most) == ("changed", 0.1, 0.09)
    assert one.reason == "2 of 20 pairs change their primary path (10.0%), where 9.0% may"


def test_client_networks_that_get_other_edges_count_by_themselves() -> None:
    fleet = small_fleet()
    prefixes = {f"198.51.{n}.0/24": ("sg-1",) for n in range(4)}
    made = decide(fleet, windows(), in_force=BEFORE, serial=2, now_unix=NOW)
    moved = replace(
        made,
        table=replace(made.table, prefixes=prefixes),
        in_force=replace(BEFORE, prefixes={**prefixes, "198.51.0.0/24": ("hk-1",)}),
    )
    (one,) = passed(moved, EVERYBODY, Limits())
    assert (one.limit, one.value) == ("changed", 0.25)
    assert "1 of 4 client networks" in one.reason


def test_pairs_that_lose_their_path_also_by_a_zone() -> None:
    shut = decision([zone("z", "ae", "kr", forbid=["ae", "kr"])], in_force=BEFORE)
    (one,) = passed(shut, EVERYBODY, Limits())
    assert (one.limit, one.value, one.most) == ("lost", 2, 0)
    assert "ae-1 > kr-1, kr-1 > ae-1" in one.reason
    assert names(shut, limits=Limits(lost=2)) == []


def test_a_node_that_is_away_takes_its_pairs_along_and_counts_as_absent() -> None:
    dead = {pair: rtt for pair, rtt in RTT_MS.items() if "de-1" not in pair}
    without = decide(
        small_fleet(),
        [*windows(dead), *(window(node, "de-1", None, loss=1.0) for node in COUNTRIES if node != "de-1")],
        in_force=BEFORE,
        serial=2,
        now_unix=NOW,
    )
    loose = Limits(changed=1.0, vanished=0.4)
    assert names(without, away("de-1"), loose) == []
    (lost,) = passed(without, EVERYBODY, loose)
    assert (lost.limit, lost.value) == ("lost", 8)
    # Of five nodes one has 8 of 20 edges: by default that much is for a person.
    assert names(without, away("de-1"), Limits(changed=1.0)) == ["vanished"]


def test_edges_that_vanish_at_once_keep_the_table_though_every_pair_has_a_path() -> None:
    silent = {("ae-1", "hk-1"), ("hk-1", "kr-1"), ("ae-1", "de-1"), ("de-1", "kr-1")}
    heard = {pair: rtt for pair, rtt in RTT_MS.items() if pair not in silent}
    found = decision(rtt_ms=heard, in_force=BEFORE)
    assert set(found.table.routes) == set(BEFORE.routes)
    (one,) = passed(found, EVERYBODY, Limits(changed=1.0))
    assert (one.limit, one.value, one.most) == ("vanished", 0.4, 0.3)
    assert one.reason.startswith("40.0% of the edges or pairs in force are no longer measured")
    assert names(found, limits=Limits(changed=1.0, vanished=0.4)) == []


@pytest.mark.parametrize(("share", "is_over"), [(0.2, True), (0.4, False)])
def test_so_many_nodes_may_be_away(share: float, is_over: bool) -> None:
    found = names(decision(in_force=BEFORE), away("de-1", "hk-1"), Limits(absent=share))
    assert found == (["absent"] if is_over else [])


def test_figures_that_are_too_old() -> None:
    late = decide(small_fleet(), windows(), in_force=BEFORE, serial=2, now_unix=NOW + 700)
    (one,) = passed(late, EVERYBODY, Limits())
    assert (one.limit, one.most) == ("age_s", 600.0)
    assert one.reason.startswith("half of the figures are older than 71")
    assert names(late, limits=Limits(age_s=800)) == []


def test_a_zone_that_was_loosened_is_for_a_person() -> None:
    strict = [zone("z", "ae", "kr", forbid=["sg"])]
    before = decision(strict).table
    assert names(decision(strict, in_force=before)) == []
    (one,) = passed(decision(in_force=before), EVERYBODY, Limits(changed=1.0))
    assert (one.limit, one.value, one.most) == ("zones", 1, 0)
    assert one.reason == (
        "zone z of the table in force forbids ae-1 > sg-1 > kr-1, and nothing does today: for a person"
    )
    # Tightened it is at once: nothing that it allows was forbidden.
    assert names(decision(strict, in_force=BEFORE), limits=Limits(changed=1.0)) == []


@pytest.mark.parametrize(
    "now",
    [[], [zone("z", "ae", "de", forbid=["hk"])], [zone("z", "ae", "kr", forbid=["sg"])]],
    ids=["gone", "for others", "another country"],
)
def test_also_one_that_no_path_of_today_needs(now: list[Zone]) -> None:
    """Once it is published nothing of it is left to hold the next plan against."""
    before = decision([zone("z", "ae", "kr", forbid=["hk"])]).table
    found = decision(now, in_force=before)
    assert "zones" in names(found, limits=Limits(changed=1.0))


def test_a_node_that_is_said_to_stand_elsewhere_is_for_a_person_if_that_frees_it() -> None:
    rules = [zone("z", "ae", "kr", forbid=["sg"])]
    before = decision(rules).table
    moved = decide(
        fleet({**COUNTRIES, "sg-1": "hk"}, zones=rules),
        windows(),
        in_force=before,
        serial=2,
        now_unix=NOW,
    )
    assert names(moved, limits=Limits(changed=1.0)) == ["zones"]


def test_a_country_where_no_node_stood_is_for_a_person() -> None:
    nodes = {node: row for node, row in BEFORE.nodes.items() if row["country"] != "hk"}
    routes = {
        pair: replace(route, backup=None, last_resort=None)
        for pair, route in BEFORE.routes.items()
        if "hk-1" not in route.primary
    }
    found = decision(in_force=replace(BEFORE, nodes=nodes, routes=routes))
    (one,) = passed(found, EVERYBODY, Limits(changed=1.0))
    assert (one.limit, one.value, one.most) == ("countries", 1, 0)
    assert (
        one.reason
        == "paths would pass countries where no node of the table in force stands: hk, where 0 may be new"
    )
    assert names(found, limits=Limits(changed=1.0, countries=1)) == []
