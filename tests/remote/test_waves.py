"""One node first, then waves, and an end at the first failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.fleet.model import Fleet, Market, Node, Region, Signing, SshDefaults, SshTarget
from commcli.remote.outcome import Outcome, State
from commcli.remote.waves import amiss, in_waves, plan, share

NODES = cast("list[Node]", [SimpleNamespace(id=letter) for letter in "abcdefg"])

COURSES: list[tuple[dict[str, State], list[str], str]] = [
    ({}, ["a", "bcd", "efg"], ""),
    ({"a": "failed"}, ["a"], "bcdefg"),
    ({"a": "timeout"}, ["a"], "bcdefg"),
    ({"a": "unreachable"}, ["a", "b", "cd", "efg"], ""),
    ({"c": "failed", "d": "lost"}, ["a", "bcd"], "efg"),
    ({"g": "refused", "b": "unreachable"}, ["a", "bcd", "efg"], ""),
]


@pytest.mark.parametrize(("trouble", "asked", "not_tried"), COURSES)
async def test_a_course(trouble: dict[str, State], asked: list[str], not_tried: str) -> None:
    waves: list[str] = []

    async def work(nodes: Sequence[Node]) -> list[Outcome[int]]:
        waves.append("".join(node.id for node in nodes))
        return [Outcome(node.id, trouble.get(node.id, "done"), 1, "why", 0.0) for node in nodes]

    course = await in_waves(
        [NODES[:1], NODES[1:4], NODES[4:]], work, is_failure=lambda o: o.state not in ("done", "unreachable")
    )
    assert waves == asked and [outcome.node for outcome in course.outcomes] == list("".join(asked))
    assert course.not_tried == list(not_tried)
    bad = [f"{node}: {state}: why" for node, state in sorted(trouble.items()) if state != "unreachable"]
    assert course.stopped == "; ".join(bad)


@pytest.mark.parametrize(("canary", "asked"), [(True, ["a"]), (False, ["a", "bcd", "efg"])])
async def test_without_a_canary_the_first_wave_is_as_the_others(canary: bool, asked: list[str]) -> None:
    waves: list[str] = []

    async def work(nodes: Sequence[Node]) -> list[Outcome[int]]:
        waves.append("".join(node.id for node in nodes))
        return [Outcome(node.id, "failed" if node.id == "a" else "done", 1, "why", 0.0) for node in nodes]

    def fails(outcome: Outcome[int]) -> bool:
        return outcome.state != "done"

    await in_waves([NODES[:1], NODES[1:4], NODES[4:]], work, is_failure=fails, most=1, canary=canary)
    assert waves == asked


def status(pid: int = 2, version: str = "2", made: int = 9, taken: int | None = 3) -> dict[str, Any]:
    over = None if taken is None else {"allocations": taken}
    return {
        "pid": pid,
        "version": version,
        "turn": {"allocations_made": made},
        "upgrade": {"taken_over": over},
    }


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        (status(), ""),
        (status(pid=1, version="1"), "version 1 serves as process 1, not 2 as 2"),
        (status(made=0), "it knows of 0 of 9 sessions that there were"),
        (status(taken=None), "it has taken None of 3 sessions"),
        (status(taken=2), "it has taken 2 of 3 sessions"),
    ],
)
def test_what_is_amiss_after_an_upgrade(after: dict[str, Any], wrong: str) -> None:
    answer = {"pid": 2, "version": "2", "allocations": 3}
    assert amiss(status(pid=1, version="1"), answer, after) == wrong


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Nodes in regions, and markets with some of them as edges."""
    regions = draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=14))
    target = SshTarget("127.0.0.1", "ops")
    nodes = {f"n{n}": Node(f"n{n}", region, "sg", "127.0.0.1", target) for n, region in enumerate(regions)}
    some = st.lists(st.sampled_from(sorted(nodes)), unique=True, max_size=4)
    markets = {name: Market(name, name, tuple(draw(some))) for name in ("sg", "br", "us")}
    known = {name: Region(name, name, "sg", "asia") for name in "xyz"}
    signing, ssh = Signing(Path("signers")), SshDefaults(Path("known_hosts"))
    return Fleet("f", False, "f.example", known, nodes, markets, (), {}, signing, ssh)


@given(fleet=fleets(), canary=st.integers(0, 3), wave=st.integers(1, 6))
def test_waves_hold_everybody_once_and_nobody_whole(fleet: Fleet, canary: int, wave: int) -> None:
    nodes = list(fleet.nodes.values())
    waves = [[node.id for node in some] for some in plan(fleet, nodes, canary=canary, wave=wave)]
    assert sorted(name for some in waves for name in some) == sorted(fleet.nodes)
    if not canary and wave >= len(nodes):
        assert waves == [list(fleet.nodes)]  # all at once, as it was asked for
        return
    first = waves[1:] if canary else waves
    assert all(0 < len(some) <= wave for some in first) and (not canary or 0 < len(waves[0]) <= canary)
    parties = [set(market.edges) for market in fleet.markets.values()]
    parties += [{node.id for node in nodes if node.region == region} for region in fleet.regions]
    assert not [(some, party) for some in waves for party in parties if len(party) > 1 and party <= set(some)]


def test_the_canary_is_whom_one_misses_least_or_whom_one_names() -> None:
    target, region = SshTarget("127.0.0.1", "ops"), Region("x", "x", "sg", "asia")
    nodes = {name: Node(name, "x", "sg", "127.0.0.1", target) for name in "abcd"}
    markets = {name: Market(name, name, edges) for name, edges in {"sg": ("a", "b"), "br": ("a",)}.items()}
    signing, ssh = Signing(Path("signers")), SshDefaults(Path("known_hosts"))
    fleet = Fleet("f", False, "f.example", {"x": region}, nodes, markets, (), {}, signing, ssh)

    def waves(**how: Any) -> list[str]:
        return ["".join(node.id for node in wave) for wave in plan(fleet, list(nodes.values()), **how)]

    assert waves(canary=1, wave=8) == ["c", "ad", "b"]  # a and b are all edges of sg
    assert waves(canary="b", wave=2) == ["b", "ac", "d"]
    assert waves(canary=0, wave=4) == ["abcd"]
    assert waves(canary=0, wave=3) == ["acd", "b"]


@pytest.mark.parametrize(
    ("text", "of_19"),
    [
        ("5", 5),
        ("25%", 4),
        ("100%", 19),
        ("0", 0),
        ("5%", 0),
        ("101%", None),
        ("-1", None),
        ("x", None),
        ("%", None),
    ],
)
def test_a_share_of_the_nodes(text: str, of_19: int | None) -> None:
    found = share(text)
    assert (None if found is None else found.of(19)) == of_19
