"""What is drawn, as the text that an operator reads."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import pytest
from rich.console import Console, RenderableType

from commcli.probe import judge
from commcli.probe.ask import Ask
from commcli.probe.evidence import measured
from commcli.report import probe
from tests.probe.test_judge import PATH, evidence, report


def text(renderable: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def call_document(there: Any, back: Any, **more: Any) -> dict[str, Any]:
    rows = [
        {"src": "127.77.0.1:50001", "dst": "127.77.0.2:50002", "role": "x", "path": path, "packets": count,
         "bytes": 1, "first_unix": 1.0, "last_unix": 2.0}
        for path, count in ((PATH, 10), (["ae-1", "hk-1", "kr-1"], 30))
    ]  # fmt: skip
    flows = {"ae-1": rows, "sg-1": None, "hk-1": rows[1:], "kr-1": rows}
    figures = measured(evidence(there, back, **flows))
    valid, reason = judge.validity([("kr-1", there), ("ae-1", back)])
    word, by_direction = judge.verdict(True, valid, figures)
    for name, own in by_direction.items():
        figures["directions"][name].update(own.row())
    return {
        "from": {"asked": "ae", "market": "ae", "node": "ae-1"},
        "to": {"asked": "kr-1", "market": None, "node": "kr-1"},
        **Ask("ae", "kr-1", seconds=10).row(), "connected": True, "problems": [], "valid": valid,
        "invalid_reason": reason, "verdict": word.word, "reasons": list(word.reasons), "setup_ms": 321.0,
        "phases_ms": {"from": {"ssh": 5.0, "ice": 7.0, "first_frame": None}, "to": {}}, **figures, **more,
    }  # fmt: skip


def test_a_call_shows_every_path_with_the_relays_own_counts() -> None:
    shown = text(probe.call(call_document(report(0.1), report(0.1))))
    assert "hops there ae-1 → hk-1 → kr-1  (30 / 30 / 30 packets counted)" in shown
    assert "hops there ae-1 → sg-1 → kr-1  (10 / ? / 10 packets counted)" in shown
    assert "hops back  kr-1 → ae-1  (straight" in shown
    assert "ae (ae-1) → kr-1" in shown
    assert "ITU-T G.107" in shown and "one kernel clock" in shown
    assert "first frame -" in shown  # unmeasured is a dash
    assert "loop lag p99 2.5 / 2.5 ms, CPU 0.20 / 0.20 cores, steal - / -, sent 100 % / 100 %" in shown


def test_a_call_that_gave_nothing_says_why() -> None:
    doc = call_document(None, None, problems=["kr-1: connection lost"], invalid_reason="no end sent a report")
    shown = text(probe.call(doc))
    assert "invalid" in shown and "no end sent a report" in shown and "kr-1: connection lost" in shown


def test_compare_shows_gains_with_their_sign() -> None:
    before = call_document(report(0.2, rtt=400), report(0.2, rtt=400))
    after = call_document(report(0.1, rtt=200), report(0.1, rtt=200))
    lines = [re.split(r" {2,}", line.strip()) for line in text(probe.compare(before, after)).splitlines()]
    rows = {cells[0]: cells[1:4] for cells in lines}
    assert [cell.strip() for cell in rows["RTT"]] == ["400.0 ms", "200.0 ms", "-200.0 ms"]
    assert rows["MOS, worse direction"][2].strip().startswith("+")
    assert rows["loss, worse direction"][2].strip() == "="
    assert rows["hops there"][1].strip() == "ae-1 → hk-1 → kr-1"


def test_compare_leaves_unmeasured_a_dash_and_claims_no_gain() -> None:
    before = call_document(report(0.2), report(0.2))
    after = copy.deepcopy(before)
    after["rtt_ms"] = None
    line = next(line for line in text(probe.compare(before, after)).splitlines() if line.startswith("RTT "))
    assert re.split(r" {2,}", line.strip())[2:] == ["-", "-"]


def mesh_document(**more: Any) -> dict[str, Any]:
    pairs = [
        {"from": a, "to": b, "rtt_ms": 123.4 if a == "ae-1" else None, "loss": 0.02, "jitter_ms": None,
         "samples": 5, "unanswered_s": 0, "age_s": 7.0}
        for a, b in (("ae-1", "kr-1"), ("kr-1", "ae-1"))
    ]  # fmt: skip
    return {
        "unix": 200_000.0, "nodes": ["ae-1", "kr-1", "sg-1"], "pairs": pairs, "new_windows": 4, "market_pairs": [],
        "markets": [{"market": "ae", "name": "", "edge": "ae-1"}, {"market": "kr", "name": "", "edge": "kr-1"},
                    {"market": "kp", "name": "", "edge": "kr-1"}],
        "markets_without_edge": ["zz"],
        "away": [{"node": "sg-1", "state": "unreachable", "reason": "connection refused", "last_unix": None,
                  "answered_unix": 199_700.0}],
        **more,
    }  # fmt: skip


def test_mesh_groups_markets_by_edge_and_says_who_is_away() -> None:
    shown = text(probe.mesh(mesh_document()))
    assert "kr kp (kr-1)" in shown
    assert "123 2.0%" in shown
    assert (
        "away: sg-1 unreachable connection refused (never read; heard by its peers 07:28:20Z, 5 min ago)"
        in shown
    )
    assert "no active edge: zz" in shown
    assert "2 directions, 10 packets, newest 7 s and oldest 7 s old; 4 new windows kept" in shown


def wide_mesh(count: int, **view: Any) -> dict[str, Any]:
    nodes = [f"n-{number:02}" for number in range(count)]
    pairs = [
        {"from": a, "to": b, "rtt_ms": 100.0 + nodes.index(b), "rtt_p95_ms": 300.0, "loss": 0.0, "samples": 50,
         "unanswered_s": 10 * (b == "n-01"), "age_s": 7.0, "reordered": 0}
        for a in nodes for b in nodes if a != b
    ]  # fmt: skip
    asked = {"by": None, "figure": "rtt", "percentile": "p50"} | view
    return mesh_document(nodes=nodes, pairs=pairs, markets=[], markets_without_edge=[], away=[], view=asked)


def test_columns_that_find_no_room_go_on_below() -> None:
    lines = text(probe.mesh(wide_mesh(20)), width=60).splitlines()
    heads = [line.split()[3:] for line in lines if line.startswith("from")]
    assert len(heads) > 2
    assert [name for names in heads for name in names] == [f"n-{number:02}" for number in range(20)]
    assert max(map(len, lines)) <= 60
    assert sum(line.startswith("n-19 ") for line in lines) == len(heads)


def test_of_too_many_nodes_the_worst_directions_are_shown_and_the_lost_ones_first() -> None:
    lines = text(probe.mesh(wide_mesh(41))).splitlines()
    assert "the 20 worst directions" in lines[1]
    assert lines[3].split()[:3] == ["n-00", "n-01", "lost"]
    assert any("and 1620 more (--json has all)" in line for line in lines)


def test_a_figure_and_a_percentile_are_what_was_asked_for() -> None:
    shown = text(probe.mesh(wide_mesh(3, percentile="p95")))
    assert "RTT, ms, p95 between nodes" in shown and " 300 " in shown and "lost" in shown
    shown = text(probe.mesh(wide_mesh(3, figure="reordered", percentile="p95")))
    assert "reordered packets between nodes" in shown and "p95" not in shown
    shown = text(probe.mesh(wide_mesh(3, figure="age")))
    assert "lost" not in shown


def test_of_a_selection_both_directions_are_shown() -> None:
    doc = {**wide_mesh(3), "nodes": ["n-00"], "peers": ["n-01", "n-02"]}
    lines = text(probe.mesh(doc)).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["from", "n-00", "from", "n-01", "n-02"]


def test_who_answers_and_measures_nothing_is_named() -> None:
    doc = mesh_document(silent=[{"node": "kr-1", "last_unix": 100.0}, {"node": "ae-1", "last_unix": None}])
    shown = text(probe.mesh(doc))
    assert "silent: kr-1 answers, but its newest window ended 1970-01-01 00:01:40Z, 2 d ago" in shown
    assert "silent: ae-1 answers, but it never measured anything" in shown


def test_mesh_without_any_figure() -> None:
    assert "nothing measured in the last 15 minutes" in text(probe.mesh(mesh_document(pairs=[], markets=[])))


@pytest.mark.parametrize("unix", [10**15, -(10**15), 10**300, float("inf")])
def test_no_date_stops_the_mesh(unix: float) -> None:
    away = {"node": "sg-1", "state": "lost", "reason": "gone", "last_unix": unix, "answered_unix": unix}
    shown = text(probe.mesh(mesh_document(away=[away], silent=[{"node": "kr-1", "last_unix": unix}])))
    assert shown.count("at an impossible time") == 3
