"""Which pairs of markets are called first, what the calls say of them, and how an interrupted matrix goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.errors import BadInput, OutOfReach, Usage
from commcli.fleet.model import Fleet
from commcli.fleet.probing import ProbePair, Probes
from commcli.probe import judge, matrix, rounds
from commcli.probe.ask import Ask
from commcli.probe.batch import Limits
from commcli.probe.evidence import measured
from commcli.remote.ssh import Pool
from commcli.report.probe.matrix import matrix as draw
from commcli.store.sqlite import Store
from tests.probe import fleets
from tests.probe.test_judge import evidence, report
from tests.probe.test_report import text

NOW = 2_000_000_000.0
ASK = {"profile": "sd", "transport": "udp", "seconds": 4.0}


def fleet() -> Fleet:
    nodes = [fleets.node(name, python="python3") for name in ("ae-1", "kr-1", "sg-1")]
    nodes.append(fleets.node("br-1", state="drain"))
    edges: dict[str, tuple[str, ...]] = {
        "ae": ("ae-1",), "kr": ("kr-1",), "sg": ("sg-1",), "vn": ("sg-1",), "br": ("br-1",),
    }  # fmt: skip
    return fleets.fleet(*nodes, markets=edges)


def document(delay_s: float = 0.1, *, valid: bool = True) -> dict[str, Any]:
    there, back = report(delay_s, valid=valid), report(0.1, valid=valid)
    figures = measured(evidence(there, back))
    ok, reason = judge.validity([("kr-1", there), ("ae-1", back)])
    word, by_direction = judge.verdict(True, ok, figures)
    for name, own in by_direction.items():
        figures["directions"][name].update(own.row())
    return {
        "unix": NOW, "connected": True, "valid": ok, "invalid_reason": reason, "setup_ms": 300.0, "seconds": 4.0,
        "from": {"node": "ae-1", "market": "ae"}, "to": {"node": "kr-1", "market": "kr"}, "verdict": word.word,
        **figures,
    }  # fmt: skip


def past(a: str, b: str, age_s: float, verdict: str = "good", **more: Any) -> dict[str, Any]:
    return {
        "from_node": a, "to_node": b, "unix": NOW - age_s, "verdict": verdict, "valid": True, "direct": False,
        "via": None, "plain": False, **more,
    }  # fmt: skip


def test_markets_that_share_their_edges_share_a_call() -> None:
    pairs, closed = matrix.pairs_of(fleet(), ["ae", "sg", "vn", "br"], ASK)
    named = {(pair.a, pair.b): pair.markets for pair in pairs}
    assert named == {
        ("ae-1", "sg-1"): (("ae", "sg"), ("ae", "vn")),
        ("sg-1", "sg-1"): (("sg", "vn"),),
    }
    assert closed == {"br": "market br: none of its edges (br-1) is active"}


def test_the_other_way_round_is_the_same_call() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["sg", "ae", "vn"], ASK)
    named = {(pair.a, pair.b): pair.markets for pair in pairs}
    assert named[("sg-1", "ae-1")] == (("sg", "ae"), ("vn", "ae"))


def test_each_pair_is_called_as_it_is_scheduled_unless_all_are_wished_otherwise() -> None:
    probes = Probes(pairs=(ProbePair("sg", "ae", None, "weak", 5.0, "tcp"),))
    scheduled = replace(fleet(), probing=probes)
    pairs, _ = matrix.pairs_of(scheduled, ["ae", "kr", "sg"], {})
    asked = {pair.key: (pair.ask.profile, pair.ask.seconds, pair.ask.transport) for pair in pairs}
    assert asked == {"ae-kr": ("sd", 8.0, "udp"), "ae-sg": ("weak", 5.0, "tcp"), "kr-sg": ("sd", 8.0, "udp")}
    pairs, _ = matrix.pairs_of(scheduled, ["ae", "kr", "sg"], {"profile": "audio"})
    assert {pair.ask.profile for pair in pairs} == {"audio"}
    assert {pair.ask.transport for pair in pairs} == {"udp", "tcp"}


def test_what_is_called_or_judged_otherwise_is_another_call() -> None:
    for other in (
        ProbePair("ae", "vn", None, "audio"),
        ProbePair("ae", "vn", None, verdict={"rtt_ms": (1.0, 2.0)}),
    ):
        own = replace(fleet(), probing=Probes(pairs=(other,)))
        pairs, _ = matrix.pairs_of(own, ["ae", "sg", "vn"], {})
        assert {pair.key for pair in pairs} == {"ae-sg", "ae-vn", "sg-vn"}


def test_never_measured_then_unsettled_then_long_ago_come_first() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"], ASK)
    history = [past("ae-1", "kr-1", 3000), past("sg-1", "ae-1", 1000, "warn")]
    order = [pair.key for pair in matrix.ordered(fleet(), pairs, history, NOW)]
    assert order == ["kr-sg", "ae-sg", "ae-kr"]


def test_what_was_no_usual_call_is_no_history() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"], ASK)
    history = [
        past("ae-1", "kr-1", 10, direct=True), past("ae-1", "kr-1", 10, valid=False), past("ae-1", "sg-1", 10),
        past("kr-1", "sg-1", 20),
    ]  # fmt: skip
    assert matrix.ordered(fleet(), pairs, history, NOW)[0].key == "ae-kr"


def test_importance_outweighs_age() -> None:
    probes = Probes(pairs=(ProbePair("ae", "kr", None, importance="high"),))
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"], ASK)
    history = [past("ae-1", "kr-1", 1000), past("ae-1", "sg-1", 3000), past("kr-1", "sg-1", 3500)]
    order = matrix.ordered(replace(fleet(), probing=probes), pairs, history, NOW)
    assert order[0].key == "ae-kr"


def test_one_call_fills_both_directions_of_all_its_markets() -> None:
    (pair, _) = matrix.pairs_of(fleet(), ["ae", "sg", "vn"], ASK)[0]
    cells = matrix.cells(pair, document(0.45))
    assert {(cell["from"], cell["to"]): cell["verdict"] for cell in cells} == {
        ("ae", "sg"): "bad", ("ae", "vn"): "bad", ("sg", "ae"): "good", ("vn", "ae"): "good",
    }  # fmt: skip
    assert matrix.exit_code(cells, []) == 1
    invalid = matrix.cells(pair, document(valid=False))
    assert matrix.exit_code(invalid, []) == OutOfReach.exit_code


def test_what_can_not_be_a_matrix() -> None:
    with pytest.raises(Usage, match="no market is called 'zz'"):
        matrix.chosen(fleet(), ["ae", "zz"])
    with pytest.raises(Usage, match="two markets or more"):
        matrix.chosen(fleet(), ["ae", "ae"])


async def test_an_interrupted_matrix_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: list[str] = []

    async def call(_fleet: Fleet, _pool: Pool, ask: Ask) -> dict[str, Any]:
        calls.append(f"{ask.a} {ask.b}")
        if len(calls) == 2:
            raise asyncio.CancelledError
        if len(calls) == 3:
            raise OutOfReach("sg-1: no route")
        return document()

    pool = cast(Pool, None)
    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        work = rounds.begin(fleet(), store, ["ae", "kr", "sg"], ASK, clock=lambda: NOW)
        with pytest.raises(asyncio.CancelledError):
            await work.make(pool, Limits(1000), make_call=call)
        assert (len(work.document()["cells"]), len(work.left)) == (2, 2)
        assert len(store.calls_of(work.run)) == 1
        again = rounds.resume(fleet(), store)
        assert [pair.key for pair in again.left] == [pair.key for pair in work.left]
        await again.make(pool, Limits(1000), make_call=call)
        doc = again.document()
        assert (len(doc["cells"]), len(doc["failed"]), doc["left"]) == (4, 1, [])
        assert doc["exit_code"] == OutOfReach.exit_code
        assert "not tried" in text(draw(doc)) and "sg-1: no route" in text(draw(doc))
        last = rounds.resume(fleet(), store)
        assert [pair.key for pair in last.left] == ["-".join(row["markets"][0]) for row in doc["failed"]], (
            "what told nothing"
        )
        await last.make(pool, Limits(1000), make_call=call)
        assert (len(last.cells), last.failed, last.document()["exit_code"]) == (6, [], 0)
        with pytest.raises(BadInput, match="no matrix was left"):
            rounds.resume(fleet(), store)


async def test_what_the_inventory_lacks_is_the_trouble_of_that_pair(tmp_path: Path) -> None:
    async def call(_fleet: Fleet, _pool: Pool, _ask: Ask) -> dict[str, Any]:
        return document()

    nodes = {**fleet().nodes, "kr-1": fleets.node("kr-1")}
    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        work = rounds.begin(replace(fleet(), nodes=nodes), store, ["ae", "kr", "sg"], ASK)
        await work.make(cast(Pool, None), Limits(1000), make_call=call)
        doc = work.document()
        assert (len(doc["cells"]), len(doc["failed"]), doc["exit_code"]) == (2, 2, 3)
        assert "failed not tried: ae-kr, kr-sg: node kr-1: no probe_python" in text(draw(doc))


def test_what_no_call_can_be_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        with pytest.raises(Usage, match="no profile is called '8k'"):
            rounds.begin(fleet(), store, [], {"profile": "8k"})
        with pytest.raises(BadInput, match="market br: none of its edges"):
            rounds.begin(fleet(), store, ["br", "ae"], {})
        work = rounds.begin(fleet(), store, ["ae", "kr"], ASK)
        with pytest.raises(
            Usage, match=r"the budget holds not one call: one takes 10 s and 2\.2 CPU seconds"
        ):
            asyncio.run(work.make(cast(Pool, None), Limits(10)))
        with pytest.raises(BadInput, match="no matrix was left"):
            rounds.resume(fleet(), store)


def many(count: int) -> dict[str, Any]:
    markets = [f"{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(count)]
    cells = [
        {"from": one, "to": other, "verdict": "bad" if one == "aa" else "good", "reasons": ["loss"], "mos": 4.11,
         "rtt_ms": 231.0, "loss": 0.08, "path": None, "edges": [one, other], "invalid_reason": None}
        for one in markets for other in markets if one != other
    ]  # fmt: skip
    return {
        "id": 7, "markets": markets, "wish": {}, "cells": cells, "failed": [], "left": [], "calls": 3,
        "markets_without_edge": {}, "cpu_seconds": 9.0,
    }  # fmt: skip


@pytest.mark.parametrize(("count", "cell"), [(11, "4.11 231"), (22, "4.11"), (38, "g")])
def test_however_many_markets_a_row_is_a_line(count: int, cell: str) -> None:
    rows = text(draw(many(count)), width=120).splitlines()
    assert rows[2].startswith("aa ")
    body = rows[2 : 2 + count]
    assert [row.split()[0] for row in body] == many(count)["markets"]
    assert body[1].rstrip().endswith(cell)


async def test_what_the_budget_leaves_is_named_and_no_fault(tmp_path: Path) -> None:
    async def call(_fleet: Fleet, _pool: Pool, _ask: Ask) -> dict[str, Any]:
        return document(valid=False)

    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        work = rounds.begin(fleet(), store, ["ae", "kr", "sg"], ASK, clock=lambda: NOW)
        await work.make(cast(Pool, None), Limits(1000, calls=1), make_call=call)
        doc = work.document()
        assert (len(doc["cells"]), len(doc["left"])) == (2, 2)
        assert "2 calls are left and some told nothing: commcli probe matrix --resume" in text(draw(doc))
        # What a starved host measured is measured again.
        assert len(rounds.resume(fleet(), store).left) == 3
