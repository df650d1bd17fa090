"""Many calls within a budget: who is called when, what it costs, and how it ends. No call is real, no clock runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from commcli.errors import OutOfReach
from commcli.probe.ask import Ask
from commcli.probe.batch import (
    AROUND_S,
    CORES,
    SET_UP_CPU_S,
    Limits,
    Made,
    Spending,
    Wanted,
    cost_cpu_s,
    make,
    next_of,
)


def wanted(a: str, b: str, seconds: float = 4.0, profile: str = "sd") -> Wanted:
    return Wanted(f"{a} {b}", Ask(a, b, seconds=seconds, profile=profile), frozenset((a, b)))


def document(cores: float, seconds: float = 4.0) -> dict[str, Any]:
    return {"seconds": seconds, "hosts": {"from": {"cpu_cores": cores}, "to": {"cpu_cores": cores}}}


class World:
    """Calls that end when they are told to; `now` is the batch's clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.busy: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.most: list[frozenset[str]] = []
        self.made: list[Made] = []
        self.ended: list[str] = []

    async def call(self, one: Wanted) -> dict[str, Any]:
        self.busy[one.key] = asyncio.get_running_loop().create_future()
        try:
            return await self.busy[one.key]
        finally:
            del self.busy[one.key]
            self.ended.append(one.key)

    def start(self, queue: list[Wanted], limits: Limits) -> asyncio.Task[list[Wanted]]:
        work = make(queue, limits, self.call, on_made=self.made.append, clock=lambda: self.now)
        return asyncio.ensure_future(work)

    async def settled(self) -> set[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return set(self.busy)


async def test_never_two_on_one_node_and_never_more_than_allowed() -> None:
    world = World()
    queue = [wanted("a", "b"), wanted("b", "c"), wanted("c", "d"), wanted("e", "f")]
    task = world.start(queue, Limits(1000, parallel=2))
    assert await world.settled() == {"a b", "c d"}  # "b c" lets the next one pass
    world.busy["a b"].set_result(document(0.1))
    assert await world.settled() == {"c d", "e f"}  # "b c" still shares a node with "c d"
    world.busy["c d"].set_result(document(0.1))
    assert await world.settled() == {"b c", "e f"}
    for call in list(world.busy.values()):
        call.set_result(document(0.1))
    assert await task == []
    assert sorted(made.wanted.key for made in world.made) == ["a b", "b c", "c d", "e f"]


async def test_what_the_time_does_not_hold_is_left_in_its_order() -> None:
    world = World()
    queue = [wanted("a", "b", 20), wanted("c", "d"), wanted("e", "f", 20)]
    task = world.start(queue, Limits(20 + AROUND_S, parallel=1))
    assert await world.settled() == {"a b"}
    world.now = 14.0
    world.busy["a b"].set_result(document(0.1))
    assert await world.settled() == {"c d"}  # a short one still fits
    world.busy["c d"].set_result(document(0.1))
    assert [one.key for one in await task] == ["e f"]


async def test_a_call_that_can_not_be_tried_is_told_and_stops_nothing() -> None:
    world = World()
    task = world.start([wanted("a", "b"), wanted("c", "d")], Limits(1000))
    await world.settled()
    world.busy["a b"].set_exception(OutOfReach("a: no route"))
    await world.settled()
    world.busy["c d"].set_result(document(0.1))
    assert await task == []
    assert [(made.wanted.key, str(made.error)) for made in world.made] == [
        ("a b", "a: no route"),
        ("c d", "None"),
    ]


async def test_cancelling_ends_the_calls_under_way_first() -> None:
    world = World()
    task = world.start([wanted("a", "b"), wanted("c", "d")], Limits(1000, parallel=2))
    await world.settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(world.ended) == ["a b", "c d"] and world.made == []


def test_what_a_call_really_cost_takes_the_place_of_what_was_reckoned() -> None:
    one, two = wanted("a", "b"), wanted("c", "d")
    spending = Spending(Limits(1000, cpu_s=1.9 * one.cpu_s))
    spending.begin(one)
    assert not spending.holds(two, 0.0)  # both at once could be too much
    spending.ended(Made(one, document(0.01)))
    assert spending.holds(two, 0.0)
    assert spending.cpu_s == pytest.approx(SET_UP_CPU_S + 0.08)


def test_the_number_of_calls_is_a_limit_too() -> None:
    spending = Spending(Limits(1000, calls=1))
    assert next_of([wanted("a", "b")], frozenset(), spending, 0.0) is not None
    spending.begin(wanted("a", "b"))
    assert next_of([wanted("a", "b")], frozenset(), spending, 0.0) is None


def test_the_cost_of_a_call_that_an_end_did_not_tell_is_unmeasured() -> None:
    assert cost_cpu_s(None) is None
    assert cost_cpu_s({"seconds": 4, "hosts": {"from": None, "to": {"cpu_cores": 1.0}}}) is None


def test_every_profile_has_a_cost() -> None:
    from commcli.probe.profiles import PROFILES

    assert set(CORES) == set(PROFILES)


async def test_a_bug_in_one_call_is_told_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    task = world.start([wanted("a", "b"), wanted("c", "d")], Limits(1000))
    await world.settled()
    world.busy["a b"].set_exception(KeyError("hosts"))
    await world.settled()
    world.busy["c d"].set_result(document(0.1))
    assert await task == []
    first = next(made for made in world.made if made.wanted.key == "a b")
    assert first.error is not None and first.error.exit_code == 70
    assert "call a b: unexpected error" in caplog.text
