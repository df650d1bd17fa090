"""A probe run: what it does of what is due, what it keeps and tells, and how it ends. No call is real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import LockHeld
from commcli.fleet.model import Fleet, Node
from commcli.fleet.probing import Budget, ProbePair, Probes
from commcli.probe.ask import Ask
from commcli.probe.batch import CORES, SET_UP_CPU_S
from commcli.probe.run import MARK, Run, newest, oldest_s, spent_cpu_s
from commcli.remote.outcome import Lost
from commcli.remote.ssh import Connection, Pool
from commcli.report.probe.run import line
from commcli.report.probe.run import run as draw
from commcli.store.sqlite import Store
from tests.probe import fleets
from tests.probe.local import LocalPool
from tests.probe.test_matrix import document
from tests.probe.test_report import text

NOON = 1_767_268_800.0
MARKETS = ("ae", "kr", "sg", "jp")


class World:
    """A fleet with what is scheduled, a store, and calls that end as `ends` says (by the calling market)."""

    def __init__(self, store: Store, *pairs: ProbePair, budget: Budget | None = None, **probes: Any) -> None:
        nodes = [fleets.node(f"{market}-1", python="python3") for market in MARKETS]
        nodes.append(fleets.node("br-1", state="drain"))
        markets: dict[str, tuple[str, ...]] = {market: (f"{market}-1",) for market in (*MARKETS, "br")}
        self.fleet: Fleet = replace(
            fleets.fleet(*nodes, markets=markets),
            probing=Probes(pairs, budget=budget or Budget(), **probes),
        )
        self.store = store
        self.now = NOON
        self.pool = LocalPool()
        self.calls: list[str] = []
        self.cut: list[str] = []
        self.done = asyncio.Event()
        self.ends: dict[str, Callable[[], dict[str, Any]]] = {}

    async def call(self, _fleet: Fleet, _pool: Pool, ask: Ask) -> Mapping[str, Any]:
        self.calls.append(f"{ask.a} {ask.b}")
        self.now += 1
        await asyncio.sleep(0)
        if ask.profile == "hd":  # of these tests: a call that never ends
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cut.append(ask.a)
        figures = self.ends.get(ask.a, document)()
        ends = {
            name: {"asked": market, "market": market, "node": f"{market}-1"}
            for name, market in (("from", ask.a), ("to", ask.b))
        }
        return {"reasons": [], **figures, **ask.row(), **ends, "unix": self.now}

    async def run(self, deadline_s: float | None = None) -> dict[str, Any]:
        work = Run(self.fleet, self.pool.as_pool(), self.store, self.heard, self.call, lambda: self.now)
        return await work.go(deadline_s)

    def heard(self, _job: str, _text: str, state: str) -> None:
        if state:
            self.done.set()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "db", clock=lambda: NOON) as opened:
        yield opened


def raising(error: Exception) -> Callable[[], dict[str, Any]]:
    def end() -> dict[str, Any]:
        raise error

    return end


def states(doc: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    return {row["job"]: (row["state"], row["code"]) for row in doc["jobs"]}


AE_KR, SG_JP = ProbePair("ae", "kr", 300), ProbePair("sg", "jp", 300)


async def test_a_good_run_is_kept_and_the_next_one_finds_nothing(store: Store) -> None:
    world = World(store, AE_KR, SG_JP)
    doc = await world.run()
    assert states(doc) == {"call ae-kr": ("good", 0), "call jp-sg": ("good", 0)}
    assert (doc["exit_code"], doc["waiting"]) == (0, [])
    assert len(store.calls_of(MARK)) == 2
    assert {key: row["exit_code"] for key, row in store.last_runs().items()} == {
        "call ae-kr": 0,
        "call jp-sg": 0,
    }
    assert [(row["from"], row["to"], row["verdict"]) for row in doc["pairs"]] == [
        ("ae", "kr", "good"), ("kr", "ae", "good"), ("sg", "jp", "good"), ("jp", "sg", "good"),
    ]  # fmt: skip
    again = await world.run()
    assert (again["jobs"], again["exit_code"], len(again["pairs"])) == ([], 0, 4)
    assert "nothing is due" in text(draw(again))


async def test_every_kind_of_trouble_is_a_row(store: Store) -> None:
    world = World(store, AE_KR, SG_JP, ProbePair("kr", "sg", 300), ProbePair("br", "jp", 300))
    world.ends = {
        "ae": lambda: document(0.45),
        "sg": lambda: document(valid=False),
        "kr": raising(Lost("node sg-1: connection lost")),
    }
    doc = await world.run()
    assert states(doc) == {
        "call ae-kr": ("bad", 1),
        "call jp-sg": ("invalid", 0),
        "call kr-sg": ("lost", 4),
        "call br-jp": ("skipped", 0),
    }
    assert doc["exit_code"] == 1
    told = line(doc, Path("/log"))
    assert "\n" not in told
    assert told.startswith("commcli probe run: 2 of 4 not good: call kr-sg lost: node sg-1: connection lost")
    assert told.endswith("(exit 1, all of it in /log)")
    # What a starved host measured is the last word on nothing.
    assert {(row["from"], row["to"]) for row in doc["pairs"]} == {("ae", "kr"), ("kr", "ae")}
    # A drained market has not been served: it is the first when it is back.
    assert "call br-jp" not in store.last_runs()


async def test_starved_hosts_are_told_after_three_periods_and_not_before(store: Store) -> None:
    world = World(store, AE_KR)
    world.ends = {"ae": lambda: document(valid=False)}
    codes = []
    for _ in range(4):
        codes.append((await world.run())["exit_code"])
        world.now += 300
    assert codes == [0, 0, 0, 4]
    world.ends = {}
    assert (await world.run())["exit_code"] == 0


async def test_a_node_without_aiortc_is_bad_input_and_costs_no_call(store: Store) -> None:
    world = World(store, AE_KR)
    nodes = {**world.fleet.nodes, "kr-1": fleets.node("kr-1")}
    world.fleet = replace(world.fleet, nodes=nodes)
    doc = await world.run()
    assert states(doc) == {"call ae-kr": ("failed", 3)}
    assert "kr-1: no probe_python" in doc["jobs"][0]["reason"]
    assert world.calls == []


async def test_where_others_call_the_next_run_tries_again(store: Store) -> None:
    world = World(store, AE_KR)
    world.ends = {"ae": raising(LockHeld("node ae-1: 4 calls already"))}
    assert states(await world.run()) == {"call ae-kr": ("busy", 4)}
    assert "call ae-kr" not in store.last_runs()
    world.ends = {}
    assert states(await world.run()) == {"call ae-kr": ("good", 0)}


async def test_what_the_budget_does_not_hold_waits_and_is_noticed(store: Store) -> None:
    pairs = [ProbePair("ae", "kr", 300, importance="low"), ProbePair("sg", "jp", 300, importance="high")]
    world = World(store, *pairs, budget=Budget(calls_a_run=1))
    doc = await world.run()
    assert world.calls == ["sg jp"]
    assert [row["job"] for row in doc["waiting"]] == ["call ae-kr"]
    assert "1 calls wait for the next run" in text(draw(doc))
    assert store.last_runs()["call ae-kr"]["ran_unix"] == 0
    world.now += 60
    assert [row["job"] for row in (await world.run())["jobs"]] == ["call ae-kr"]


async def test_the_cpu_of_the_last_hour_counts(store: Store) -> None:
    cost = SET_UP_CPU_S + CORES["sd"] * 8
    world = World(store, AE_KR, SG_JP, budget=Budget(cpu_seconds_an_hour=1.5 * cost, parallel=1))
    world.ends = dict.fromkeys(("ae", "sg"), lambda: {**document(), "hosts": {"from": None, "to": None}})
    first = await world.run()
    assert (len(first["jobs"]), len(first["waiting"])) == (1, 1)
    assert first["budget"]["cpu_seconds_last_hour"] == pytest.approx(cost, abs=0.1)
    world.now += 600
    assert (await world.run())["jobs"] == []
    world.now += 3600
    assert len((await world.run())["jobs"]) == 1


async def test_the_longest_call_that_may_be_asked_for_is_made(store: Store) -> None:
    world = World(store, ProbePair("ae", "kr", 300, seconds=50.0), budget=Budget(seconds_a_run=50.0))
    assert states(await world.run()) == {"call ae-kr": ("good", 0)}


class SilentPool(LocalPool):
    """A node that never answers."""

    async def connect(self, node: Node) -> Connection:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


async def test_after_the_deadline_what_goes_on_is_ended_and_named(store: Store) -> None:
    world = World(store, AE_KR, mesh_every_s=60)
    world.pool = SilentPool()
    doc = await world.run(0.01)
    assert states(doc) == {"mesh": ("timeout", 4)}
    assert doc["jobs"][0]["reason"] == "not finished when the run's deadline (0.01 s) passed"
    assert "mesh" not in store.last_runs()
    # No call is begun that would not end in time.
    assert (world.calls, len(doc["waiting"])) == ([], 1)


async def test_cancelled_it_ends_its_calls_and_keeps_what_was_done(store: Store) -> None:
    world = World(store, ProbePair("ae", "kr", 300, profile="hd"), SG_JP)
    task = asyncio.ensure_future(world.run())
    await world.done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.cut == ["ae"]
    assert len(store.calls_of(MARK)) == 1


async def test_the_mesh_and_the_edges_are_jobs_too(store: Store) -> None:
    world = World(store, mesh_every_s=60, edges_every_s=900)
    answer: dict[str, object] = {"mesh": {"windows": []}}
    world.pool = LocalPool({f"{market}-1": answer for market in MARKETS} | {"br-1": None})
    doc = await world.run()
    rows = {row["job"]: row for row in doc["jobs"]}
    assert (rows["mesh"]["state"], rows["mesh"]["code"], rows["mesh"]["away"]) == ("away", 4, 1)
    assert rows["mesh"]["reason"] == "1 of 5 nodes away: br-1 (unreachable: connection refused)"
    # This fleet has no TURN secret: one job's trouble, and the other one's figures.
    assert (rows["edges"]["state"], rows["edges"]["code"]) == ("failed", 3)
    assert doc["exit_code"] == 3


def call_row(**more: Any) -> dict[str, Any]:
    row = dict.fromkeys(("mos_there", "mos_back", "loss_there", "loss_back", "rtt_ms", "setup_ms"))
    row |= dict.fromkeys(("jitter_there_ms", "jitter_back_ms", "one_way_there_ms", "one_way_back_ms", "via"))
    row |= {"profile": "sd", "transport": "udp"}
    ends = {"from_market": "ae", "to_market": "kr", "verdict": "good", "direct": False, "plain": False}
    return {**row, **ends, "verdict_there": "good", "verdict_back": "warn", "unix": NOON, **more}


def test_the_newest_figures_are_of_calls_that_say_something_of_the_service() -> None:
    told = newest(
        Probes((ProbePair("kr", "ae", 300), SG_JP)),
        [
            call_row(unix=NOON - 9, verdict="bad"),
            call_row(unix=NOON - 8, mos_there=4.0, mos_back=3.0),
            call_row(unix=NOON - 7, verdict="invalid"),
            call_row(unix=NOON - 6, direct=True),
            call_row(unix=NOON - 5, via="sg-1"),
            call_row(unix=NOON - 4, plain=True),
            call_row(unix=NOON - 3, from_market=None, to_market=None),
            call_row(unix=NOON - 2, profile="weak", verdict="bad"),
            call_row(unix=NOON - 1, transport="tls", verdict="bad"),
        ],
    )
    assert [(row["from"], row["to"], row["unix"], row["verdict"], row["mos"]) for row in told] == [
        ("ae", "kr", NOON - 8, "good", 4.0),
        ("kr", "ae", NOON - 8, "warn", 3.0),
    ]
    assert oldest_s([AE_KR]) == 3600 + 600


def test_what_calls_cost_is_reckoned_by_profile_and_length() -> None:
    pair = ProbePair("ae", "kr", 300, seconds=14.0)
    spent = spent_cpu_s(
        [call_row(profile="hd"), call_row(profile="sd", from_market=None)], lambda one, other: pair
    )
    assert spent == pytest.approx(2 * SET_UP_CPU_S + CORES["hd"] * 14 + CORES["sd"] * 8)


async def test_a_starved_probe_host_wakes_nobody_until_nothing_was_learnt_for_long(store: Store) -> None:
    world = World(store, AE_KR)
    assert states(await world.run()) == {"call ae-kr": ("good", 0)}
    world.ends = {"ae": lambda: document(valid=False)}
    told = []
    for _ in range(5):
        world.now += AE_KR.every_s or 0
        told.append(states(await world.run())["call ae-kr"])
    assert told == [("invalid", 0)] * 2 + [("invalid", 4)] * 3
    assert store.last_runs()["call ae-kr"]["exit_code"] == 4
