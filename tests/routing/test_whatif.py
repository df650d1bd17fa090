"""What would follow: nodes down, other zones, a node more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from commcli.errors import Usage
from commcli.fleet import Fleet, Zone
from commcli.routing import whatif
from commcli.routing.decision import Decision, decide, path_ms
from commcli.routing.whatif import (
    Addition,
    Consequence,
    Load,
    Serving,
    read_addition,
    read_additions,
    with_additions,
)
from tests.routing.fleets import zone
from tests.routing.worlds import NOW, small_fleet, windows


def decided(fleet: Fleet, down: Sequence[str] = (), additions: Sequence[Addition] = ()) -> Decision:
    rows = whatif.assumed(windows(), additions)
    return decide(fleet, rows, in_force=None, serial=1, now_unix=NOW, away=down)


def what(
    *,
    down: Sequence[str] = (),
    zones: Sequence[Zone] = (),
    additions: Sequence[Addition] = (),
    fleet: Fleet | None = None,
) -> Consequence:
    fleet = fleet or small_fleet()
    other = with_additions(replace(fleet, zones=tuple(zones)), additions)
    return whatif.consequence(decided(fleet), decided(other, down, additions), fleet, other, down)


def test_nothing_changes_nothing() -> None:
    found = what()
    assert (found.moves, found.lost, found.ended, found.new, found.markets) == ((), (), 0, 0, ())
    assert all(load.transit_before == load.transit_after for load in found.loads)
    assert found.is_harmless


def test_a_relay_that_is_down_sends_its_pairs_elsewhere_and_slower() -> None:
    found = what(down=["sg-1"])
    worst = next(move for move in found.worse if move.pair == ("ae-1", "kr-1"))
    assert (worst.before, worst.after) == (("ae-1", "sg-1", "kr-1"), ("ae-1", "hk-1", "kr-1"))
    assert (worst.rtt_before_ms, worst.rtt_after_ms, worst.slower_ms) == (203.0, 232.0, 29.0)
    assert found.worse[0].slower_ms >= found.worse[-1].slower_ms > 0
    assert (found.lost, found.ended) == ((), 8)
    loads = {load.node: load for load in found.loads}
    assert loads["sg-1"].transit_before and loads["sg-1"].transit_after == 0
    assert loads["hk-1"].transit_after is not None and loads["hk-1"].transit_before is not None
    assert loads["hk-1"].transit_after > loads["hk-1"].transit_before
    assert loads["kr-1"] == Load("kr-1", 0, 0, 8, 6)
    assert found.markets == (Serving("sg", "sg-1", None),)
    assert not found.is_harmless, "market sg has nobody left"


def test_a_market_goes_to_its_next_edge() -> None:
    markets = {"sg": ["sg-1", "hk-1"], "ae": ["ae-1"], "kr": ["kr-1"]}
    found = what(down=["sg-1"], fleet=small_fleet(markets=markets))
    assert found.markets == (Serving("sg", "sg-1", "hk-1"),)
    assert found.is_harmless


def test_a_zone_takes_pairs_and_makes_others_slower() -> None:
    found = what(zones=[zone("not-sg", "ae", "kr", forbid=["sg"]), zone("wall", "de", "hk", forbid=["de"])])
    assert [move.pair for move in found.worse] == [("ae-1", "kr-1"), ("kr-1", "ae-1")]
    assert [(move.pair, move.why) for move in found.lost] == [
        (("de-1", "hk-1"), "zone wall forbids de (de-1)"),
        (("hk-1", "de-1"), "zone wall forbids de (de-1)"),
    ]
    assert not found.is_harmless


def test_a_node_beside_another_is_as_far_from_all_as_that_one() -> None:
    added = Addition("sg-2", "sg-1")
    found = what(additions=[added])
    assert found.new == 10
    # Relays as good as each other share pairs: some of sg-1's go over its twin, and nobody is slower or faster.
    assert {(move.after, move.slower_ms) for move in found.moves if move.after} <= {
        (("ae-1", "sg-2", "kr-1"), 0.0),
        (("kr-1", "sg-2", "ae-1"), 0.0),
    }
    then = decided(with_additions(small_fleet(), [added]), additions=[added])
    route = then.table.routes["ae-1", "sg-2"].primary
    assert path_ms(then, then.estimate.rtt_ms, route) == 83.0
    assert path_ms(then, then.estimate.rtt_ms, ("sg-1", "sg-2")) == whatif.ASSUMED_MS
    assert with_additions(small_fleet(), [added]).markets["sg"].edges == ("sg-1", "sg-2")


def test_a_twin_takes_over_what_its_like_carried() -> None:
    found = what(down=["sg-1"], additions=[Addition("sg-2", "sg-1")])
    assert [move.slower_ms for move in found.moves if move.pair == ("ae-1", "kr-1")] == [0.0]
    assert next(load for load in found.loads if load.node == "sg-2").transit_before is None
    assert found.markets == (Serving("sg", "sg-1", "sg-2"),)


def test_a_drained_node_back_in_service_makes_pairs_faster() -> None:
    found = what(additions=[Addition("sg-1")], fleet=small_fleet(states={"sg-1": "drain"}))
    best = next(move for move in found.better if move.pair == ("ae-1", "kr-1"))
    assert (best.after, best.slower_ms) == (("ae-1", "sg-1", "kr-1"), -29.0)
    assert found.markets == (Serving("sg", None, "sg-1"),)


def test_measurements_of_a_node_that_is_assumed_are_not_mixed_with_its_own() -> None:
    rows = whatif.assumed(windows(), [Addition("hk-1", "sg-1")])
    toward = {row["rtt_ms"]["p50"] for row in rows if (row["node"], row["peer"]) == ("ae-1", "hk-1")}
    assert toward == {83.0}


@pytest.mark.parametrize("text", ["nobody", "sg-2=nobody", "sg-1=sg-1", "SG 2=sg-1", "=sg-1"])
def test_what_can_not_be_added(text: str) -> None:
    with pytest.raises(Usage):
        read_addition(text, small_fleet())


def test_a_node_stands_beside_one_other() -> None:
    twice = ["sg-2=sg-1", "ae-1", "sg-2=sg-1"]
    assert read_additions(twice, small_fleet()) == [Addition("sg-2", "sg-1"), Addition("ae-1")]
    with pytest.raises(Usage, match="sg-2 is added otherwise already"):
        read_additions(["sg-2=sg-1", "sg-2=ae-1"], small_fleet())


def test_what_can_be_added() -> None:
    assert read_addition("sg-1", small_fleet()) == Addition("sg-1")
    assert read_addition("sg-2=sg-1", small_fleet()) == Addition("sg-2", "sg-1")
