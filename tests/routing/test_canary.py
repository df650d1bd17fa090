"""What speaks against a table after its canary has loaded it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from commcli.errors import CommcliError
from commcli.remote.outcome import Failed, Lost
from commcli.routing import publish as publishing
from commcli.routing.canary import Facts, facts_of, verdict
from commcli.routing.publish import Rollout
from commcli.routing.watch import Seen, Watch
from tests.routing.nodes import FakeNodes, Notebook
from tests.routing.test_publish import NODES, package

WAY = ("ae-1", "sg-1", "kr-1")
BEFORE = Facts(
    uptime_s=1000.0,
    serial=1,
    refused=None,
    allocations=10,
    flows=4,
    expected=100_000,
    unrepaired=1000,
    astray={"endpoint": 500},
    ways={"kr-1": (WAY, "up")},
)
GOOD = replace(BEFORE, uptime_s=1010.0, serial=2, allocations=8, expected=105_000, unrepaired=1100)


def test_calls_that_stay_good() -> None:
    assert verdict(BEFORE, GOOD, 2) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"uptime_s": 3.0}, "its relay started anew under the new table"),
        ({"serial": 1, "refused": "zone"}, "its relay has table 1 now: zone"),
        ({"serial": 3}, "its relay has table 3 now: somebody else published"),
        ({"allocations": 4}, "6 of 10 allocations ended"),
        ({"allocations": 5}, None),
        ({"unrepaired": 1000 + 350}, "loses 7.0% of what comes, 1.0% before"),
        ({"unrepaired": 1000 + 250}, None),
        ({"expected": 100_100, "unrepaired": 1100}, None),
        ({"astray": {"endpoint": 500, "no_route": 200}}, "200 packets dropped in 10 s: no_route"),
        ({"astray": {"endpoint": 600}}, None),
        ({"ways": {"kr-1": (("ae-1", "hk-1", "kr-1"), "bad")}}, "ae-1 > hk-1 > kr-1 is bad"),
        ({"ways": {"kr-1": (WAY, "bad")}}, None),
        ({"ways": {"kr-1": (("ae-1", "hk-1", "kr-1"), "untried")}}, None),
    ],
)
def test_what_happens_to_calls(changed: dict[str, Any], reason: str | None) -> None:
    assert verdict(BEFORE, replace(GOOD, **changed), 2) == reason


def test_few_calls_say_nothing_by_ending() -> None:
    assert verdict(replace(BEFORE, allocations=3), replace(GOOD, allocations=0), 2) is None


def test_facts_out_of_a_status() -> None:
    status = {
        "uptime_s": 50.5,
        "unix": 1000.0,
        "allocations": 0,
        "table": {"serial": 7, "refused": None},
        "overlay": {
            "segments": {
                "sg-1": {"in": {"expected": 100, "lost": 5, "repaired": 3}},
                "kr-1": {"in": {}},
            },
            "flows": [{"last_unix": 999.0}, {"last_unix": 900.0}],
            "drops": {"no_route": 2, "repeated": 70},
            "paths": {"kr-1": {"path": list(WAY), "state": "up", "active": "primary"}},
        },
    }
    facts = facts_of(status)
    assert (facts.expected, facts.unrepaired, facts.flows, facts.astray) == (100, 2, 1, {"no_route": 2})
    assert facts.ways == {"kr-1": (WAY, "up")}
    assert facts.carries_calls
    bare = facts_of({**status, "overlay": None})
    assert (bare.ways, bare.carries_calls) == ({}, False)


class Canary:
    """A relay that tells these facts, one after the other; an error is raised."""

    def __init__(self, *told: Facts | CommcliError, call: Seen | None = None) -> None:
        self.told, self.seen, self.slept, self.called = list(told), call, 0.0, 0

    def watch(self, seconds: float = 10.0) -> Watch:
        return Watch(self._facts, seconds=seconds, call=self._call, sleep=self._sleep)

    async def _facts(self, _node: object) -> Facts:
        match self.told.pop(0):
            case Facts() as facts:
                return facts
            case error:
                raise error

    async def _call(self, _node: object) -> Seen | None:
        self.called += 1
        return self.seen

    async def _sleep(self, seconds: float) -> None:
        self.slept += seconds


IDLE = replace(BEFORE, allocations=0, flows=0)


async def rollout(canary: Canary, side: FakeNodes, journal: Notebook | None = None) -> Rollout:
    return await publishing.publish(
        package(), NODES, side, journal or Notebook(), back=lambda: package(3), watch=canary.watch()
    )


async def test_the_waves_wait_for_the_canarys_calls() -> None:
    canary, side, journal = Canary(BEFORE, GOOD), FakeNodes(), Notebook()
    done = await rollout(canary, side, journal)
    assert (done.state, canary.slept, canary.called) == ("published", 10.0, 0)
    assert done.watched == "its calls stay good: 10 allocations, watched for 10 s"
    assert journal.details[2]["watched"] == done.watched


async def test_bad_calls_stop_it_and_bring_the_former_routes_back_to_the_canary_alone() -> None:
    side = FakeNodes()
    done = await rollout(Canary(BEFORE, replace(GOOD, allocations=1)), side)
    assert (done.state, done.exit_code, done.back) == ("rolled-back", 6, 3)
    assert done.stopped == "canary ae-1: 9 of 10 allocations ended"
    assert side.asked == [("ae-1", 2), ("ae-1", 3)]


async def test_without_calls_nobody_waits() -> None:
    canary = Canary(IDLE)
    done = await rollout(canary, FakeNodes())
    assert (done.state, done.watched, canary.slept) == ("published", "it carries no calls", 0.0)


async def test_without_calls_a_probe_call_is_made() -> None:
    canary = Canary(IDLE, replace(GOOD, allocations=0), call=Seen("probe call ae to kr: good"))
    done = await rollout(canary, FakeNodes())
    assert (done.state, done.watched, canary.called) == ("published", "probe call ae to kr: good", 1)
    side = FakeNodes()
    done = await rollout(Canary(IDLE, call=Seen("probe call ae to kr is bad: MOS 1.2", is_bad=True)), side)
    assert (done.state, done.stopped) == ("rolled-back", "canary ae-1: probe call ae to kr is bad: MOS 1.2")
    assert side.loaded == {"ae-1": 3}


async def test_a_canary_that_falls_silent_is_bad_and_a_lost_connection_is_not() -> None:
    done = await rollout(Canary(BEFORE, Failed("relay: no answer")), FakeNodes())
    assert done.stopped == "canary ae-1: its relay does not answer under the new table: relay: no answer"
    assert (await rollout(Canary(BEFORE, Lost("gone"), GOOD), FakeNodes())).state == "published"
    bad = Canary(Lost("gone"), BEFORE, replace(GOOD, allocations=1))
    assert (await rollout(bad, FakeNodes())).state == "rolled-back", (
        "nor does one before the push leave it unjudged"
    )


async def test_a_relay_that_says_nothing_before_is_not_judged() -> None:
    done = await rollout(Canary(Failed("relay: no answer")), FakeNodes())
    assert (done.state, "not judged" in done.watched) == ("published", True)


async def test_a_deadline_shortens_the_watch() -> None:
    canary = Canary(GOOD)
    seen = await canary.watch().after(NODES[0], 2, BEFORE, most_s=2.5)
    assert (canary.slept, seen.is_bad) == (2.5, False)


def test_a_watch_of_no_time_condemns_nobody_for_a_single_packet() -> None:
    """As a deadline that is nearly over leaves it: a rate needs a second at least."""
    at_once = replace(BEFORE, uptime_s=BEFORE.uptime_s + 0.05, serial=2)
    assert verdict(BEFORE, replace(at_once, astray={**BEFORE.astray, "no_route": 3}), 2) is None
