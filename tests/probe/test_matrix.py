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
    pairs, closed = matrix.pairs_of(fleet(), ["ae", "sg", "vn", "br"])
    named = {(pair.a, pair.b): pair.markets for pair in pairs}
    assert named == {
        ("ae-1", "sg-1"): (("ae", "sg"), ("ae", "vn")),
        ("sg-1", "sg-1"): (("sg", "vn"),),
    }
    assert closed == {"br": "market br: none of its edges (br-1) is active"}


def test_the_other_way_round_is_the_same_call() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["sg", "ae", "vn"])
    named = {(pair.a, pair.b): pair.markets for pair in pairs}
    assert named[("sg-1", "ae-1")] == (("sg", "ae"), ("vn", "ae"))


def test_never_measured_then_unsettled_then_long_ago_come_first() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"])
    history = [past("ae-1", "kr-1", 3000), past("sg-1", "ae-1", 1000, "warn")]
    order = [pair.key for pair in matrix.ordered(fleet(), pairs, history, NOW)]
    assert order == ["kr-1 sg-1", "ae-1 sg-1", "ae-1 kr-1"]


def test_what_was_no_usual_call_is_no_history() -> None:
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"])
    history = [
        past("ae-1", "kr-1", 10, direct=True), past("ae-1", "kr-1", 10, valid=False), past("ae-1", "sg-1", 10),
        past("kr-1", "sg-1", 20),
    ]  # fmt: skip
    assert matrix.ordered(fleet(), pairs, history, NOW)[0].key == "ae-1 kr-1"


def test_importance_outweighs_age() -> None:
    probes = Probes(pairs=(ProbePair("ae", "kr", None, importance="high"),))
    pairs, _ = matrix.pairs_of(fleet(), ["ae", "kr", "sg"])
    history = [past("ae-1", "kr-1", 1000), past("ae-1", "sg-1", 3000), past("kr-1", "sg-1", 3500)]
    order = matrix.ordered(replace(fleet(), probes=probes), pairs, history, NOW)
    assert order[0].key == "ae-1 kr-1"


def test_one_call_fills_both_directions_of_all_its_markets() -> None:
    (pair, _) = matrix.pairs_of(fleet(), ["ae", "sg", "vn"])[0]
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


ASK = {"profile": "sd", "transport": "udp", "seconds": 4.0}


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
        with pytest.raises(BadInput, match="no matrix was left"):
            rounds.resume(fleet(), store)


async def test_what_the_budget_leaves_is_named_and_no_fault(tmp_path: Path) -> None:
    async def call(_fleet: Fleet, _pool: Pool, _ask: Ask) -> dict[str, Any]:
        return document(valid=False)

    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        work = rounds.begin(fleet(), store, ["ae", "kr", "sg"], ASK, clock=lambda: NOW)
        await work.make(cast(Pool, None), Limits(1000, calls=1), make_call=call)
        doc = work.document()
        assert (len(doc["cells"]), len(doc["left"])) == (2, 2)
        assert "2 pairs of edges are left: commcli probe matrix --resume" in text(draw(doc))
        # What a starved host measured is measured again.
        assert len(rounds.resume(fleet(), store).left) == 3
