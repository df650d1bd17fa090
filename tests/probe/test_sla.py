"""Promises and what became of them: arithmetic by hand, and what counts neither way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.fleet.model import Fleet
from commcli.fleet.probing import Objective, ProbePair, Probes
from commcli.probe import sla
from commcli.report.sla import DRAW
from commcli.store.sqlite import Store
from tests.probe.fleets import fleet, node
from tests.probe.test_judge import report
from tests.probe.test_report import call_document, text

H = 3600
START = H * 1000
DAY = START + 24 * H


NINE_IN_TEN = Objective(availability=0.9)


def of(promised: Objective = NINE_IN_TEN, *pairs: ProbePair) -> Fleet:
    found = fleet(
        node("ae-1"), node("kr-1"), node("br-1", state="drain"), node("br-2"),
        markets={"ae": ("ae-1",), "kr": ("kr-1",), "br": ("br-1", "br-2")},
    )  # fmt: skip
    return replace(found, probing=Probes(objective=promised, pairs=pairs))


def call(number: int, unix: float, **changed: Any) -> dict[str, Any]:
    """A row of store.calls_since."""
    row: dict[str, Any] = {
        "id": number, "unix": unix, "from_market": "ae", "to_market": "kr", "direct": False, "plain": False,
        "via": None, "profile": "sd", "transport": "udp",
        "verdict": "good", "verdict_there": "good", "verdict_back": "good",
        "valid": True, "connected": True, "rtt_ms": 170.0, "setup_ms": 700.0,
    }  # fmt: skip
    for way in ("there", "back"):
        row |= {f"loss_{way}": 0.0, f"jitter_{way}_ms": 2.0, f"one_way_{way}_ms": 85.0, f"mos_{way}": 4.0}
    return row | changed


def hour(at: int, src: str = "ae-1", dst: str = "kr-1", **changed: Any) -> dict[str, Any]:
    """A row of store.mesh_hours."""
    row: dict[str, Any] = {
        "src": src, "dst": dst, "hour": START + at * H, "windows": 360, "seconds": H, "down_seconds": 0,
        "sent": 18_000, "received": 18_000, "rtt_min_ms": 99.0, "rtt_p50_ms": 100.0, "rtt_p95_ms": 110.0,
        "rtt_p99_ms": 120.0, "loss": 0.0, "loss_fwd": 0.0, "loss_back": 0.0, "worst_loss": 0.0,
        "jitter_fwd_ms": 1.0, "jitter_back_ms": 1.0,
    }  # fmt: skip
    return row | changed


def told(
    calls: list[dict[str, Any]],
    mesh: list[dict[str, Any]] | None = None,
    the_fleet: Fleet | None = None,
    until: float = DAY,
    markets: tuple[str, ...] = (),
) -> dict[str, Any]:
    return sla.document(the_fleet or of(), calls, mesh or [], since=START, until=until, markets=markets)


def pair(doc: dict[str, Any], src: str = "ae", dst: str = "kr") -> dict[str, Any]:
    (row,) = [row for row in doc["pairs"] if (row["from"], row["to"]) == (src, dst)]
    return dict(row)


def test_an_hour_is_up_by_the_share_of_its_calls_and_no_more_often_for_more_of_them() -> None:
    hours = [[True], [True, True, True, False], [True] * 50]
    calls = [
        call(at * 100 + n, START + at * H + n, verdict_there="good" if is_good else "bad")
        for at, own in enumerate(hours)
        for n, is_good in enumerate(own)
    ]
    row = pair(told(calls))
    assert (row["measured_s"], row["down_s"]) == (3 * H, H / 4)
    assert row["availability"] == pytest.approx(11 / 12)
    assert row["coverage"] == 3 / 24, "what nobody measured is not up"
    assert (row["calls"], row["calls_down"], row["verdict"]) == (55, 1, "met")
    assert pair(told(calls), "kr", "ae")["availability"] == 1, "the way back was good"


def test_the_budget_and_how_fast_it_burns() -> None:
    calls = [
        call(at, START + at * H, connected=at != 23, verdict="bad" if at == 23 else "good")
        for at in range(24)
    ]
    budget = pair(told([each | {"verdict_there": None} for each in calls]))["budget"]
    assert budget["allowed_s"] == pytest.approx(2.4 * H) and budget["left_s"] == pytest.approx(1.4 * H)
    assert budget["spent"] == pytest.approx(1 / 2.4) and budget["left"] == pytest.approx(1 - 1 / 2.4)
    burn = {span: round(value, 6) for span, value in budget["burn"].items()}
    assert burn == {"1h": 10.0, "6h": round(10 / 6, 6), "24h": round(10 / 24, 6), "72h": round(10 / 24, 6)}


def test_a_budget_can_be_overdrawn_and_then_the_promise_is_broken() -> None:
    row = pair(told([call(n, START + n * H, verdict_there="bad" if n < 2 else "good") for n in range(10)]))
    assert row["verdict"] == "missed" and row["budget"]["left"] == pytest.approx(-1)
    assert row["objectives"][0] == {
        "name": "availability", "objective": 0.9, "value": pytest.approx(0.8), "met": False,
    }  # fmt: skip


def test_a_starved_host_counts_neither_way() -> None:
    good = [call(n, START + n * H) for n in range(3)]
    starved = [
        call(10, START, valid=False, verdict="invalid", mos_there=1.0),
        # It did not even connect; why, nobody knows.
        call(11, START + 5 * H, valid=False, connected=False, verdict="bad", verdict_there="bad"),
    ]
    doc = told(good + starved)
    assert pair(doc) == pair(told(good)) and doc["calls"] == {"counted": 3, "left_out": {"invalid": 2}}


def test_a_call_that_did_not_connect_is_down_though_it_has_no_figures() -> None:
    nothing = dict.fromkeys(
        name for name in call(1, 0.0) if name.startswith(("rtt", "loss", "jitter", "one", "mos"))
    )
    row = pair(told([call(1, START, connected=False, valid=None, verdict="bad", **nothing)]))
    assert row["availability"] == 0 and row["figures"]["rtt_ms"] is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"direct": True}, "direct"), ({"plain": True}, "plain"), ({"via": "sg-1"}, "via"),
        ({"from_market": None}, "between nodes"), ({"to_market": "ae"}, "within a market"),
        ({"profile": "weak"}, "another profile or transport"), ({"transport": "tls"}, "another profile or transport"),
    ],
)  # fmt: skip
def test_calls_that_went_another_way_are_left_out(changed: dict[str, Any], why: str) -> None:
    doc = told([call(1, START, **changed)])
    assert doc["pairs"] == [] and doc["calls"] == {"counted": 0, "left_out": {why: 1}}
    assert doc["availability"] is None


def test_the_mesh_speaks_where_there_was_no_call() -> None:
    mesh = [hour(0, down_seconds=H), hour(1, seconds=1800, down_seconds=900, received=9000)]
    row = pair(told([call(1, START)], mesh))
    assert (row["measured_s"], row["down_s"]) == (1.5 * H, 900), "a call that went well outweighs the mesh"
    assert row["measured_by_mesh_s"] == 1800
    assert row["figures"]["rtt_ms"]["source"] == "calls"


def test_of_both_ends_the_one_that_measured_longer_is_heard() -> None:
    mesh = [hour(0, seconds=600), hour(0, "kr-1", "ae-1", down_seconds=3000, loss_back=0.25)]
    row = pair(told([], mesh))
    assert row["down_s"] == 3000, "who was away has not measured it"
    assert row["figures"]["loss"] == {"p50": 0.25, "p95": 0.25, "p99": 0.25, "samples": 1, "source": "mesh"}


def test_the_mesh_is_that_of_the_first_active_edges() -> None:
    doc = told([], [hour(0, "ae-1", "br-2"), hour(0, "ae-1", "br-1")])
    assert {(row["from"], row["to"]) for row in doc["pairs"]} == {("ae", "br"), ("br", "ae")}
    assert pair(doc, "ae", "br")["figures"]["rtt_ms"] == {
        "p50": 100.0, "p95": 110.0, "p99": 120.0, "samples": 18_000, "source": "mesh",
    }  # fmt: skip


def test_percentiles_are_of_the_bad_side() -> None:
    calls = [
        call(n, START + n, rtt_ms=float(n), mos_there=4 - n / 100, loss_there=n / 1000) for n in range(1, 101)
    ]
    figures = pair(told(calls))["figures"]
    assert [figures["rtt_ms"][rank] for rank in ("p50", "p95", "p99")] == [50, 95, 99]
    assert [figures["loss"][rank] for rank in ("p50", "p95", "p99")] == [0.05, 0.095, 0.099]
    assert [figures["mos"][rank] for rank in ("p50", "p95", "p99")] == [3.5, 3.05, 3.01]
    assert figures["mos"]["samples"] == 100


def test_a_percentile_is_promised_of_enough_calls_only() -> None:
    promised = Objective(availability=0.9, p95={"rtt_ms": 150.0, "mos": 4.2})
    few = told([call(n, START + n * H) for n in range(19)], the_fleet=of(promised))
    assert pair(few)["verdict"] == "met"
    assert [each["met"] for each in pair(few)["objectives"]] == [True, None, None]
    enough = pair(told([call(n, START + n * H) for n in range(20)], the_fleet=of(promised)))
    assert [each["met"] for each in enough["objectives"]] == [True, False, False]
    assert enough["verdict"] == "missed"


def test_coverage_can_be_promised_and_is_broken_by_silence() -> None:
    promised = Objective(availability=0.9, coverage=0.5)
    watched = ProbePair("kr", "ae", every_s=300, objective=promised)
    row = pair(told([], the_fleet=of(Objective(), watched)))
    assert row["verdict"] == "missed" and row["availability"] is None
    assert [(each["name"], each["met"]) for each in row["objectives"]] == [
        ("availability", None),
        ("coverage", False),
    ]


def test_what_is_scheduled_and_silent_is_named_and_what_is_neither_is_counted() -> None:
    doc = told([call(1, START)], the_fleet=of(Objective(), ProbePair("ae", "br", every_s=60)))
    assert doc["counts"] == {"met": 2, "unmeasured": 2} and doc["unwatched"] == 2
    assert pair(doc)["objectives"][0]["objective"] == sla.AVAILABILITY
    assert "scheduled and never measured: ae → br, br → ae" in text(DRAW["report"](doc))


def test_only_some_markets() -> None:
    mesh = [hour(0), hour(0, "ae-1", "br-2"), hour(0, "br-2", "kr-1")]
    assert len(told([], mesh)["pairs"]) == 6
    assert {(row["from"], row["to"]) for row in told([], mesh, markets=("br",))["pairs"]} == {
        ("ae", "br"), ("br", "ae"), ("kr", "br"), ("br", "kr"),
    }  # fmt: skip
    assert len(told([], mesh, markets=("ae", "kr"))["pairs"]) == 2


def test_down_hours_in_a_row_are_one_window_and_the_same_hours_of_many_pairs_are_told_once() -> None:
    bad = (3, 4, 5, 9)
    calls = [
        call(
            at,
            START + at * H,
            verdict_there="bad" if at in bad else "good",
            mos_there=1.5 if at == 4 else 4.0,
        )
        for at in range(12)
    ]
    mesh = [
        hour(at, "br-2", "kr-1", down_seconds=1200 if at in (3, 4, 5) else 0, received=9) for at in range(8)
    ]
    doc = told(calls, mesh)
    first, second, third = pair(doc)["worst"]
    assert (first["start"], first["seconds"], first["down_s"]) == (START + 3 * H, 3 * H, 3 * H)
    assert (first["calls_down"], first["mos"]) == ([3, 4, 5], 1.5)
    assert (second["start"], second["down_s"]) == (START + 9 * H, H)
    assert third["down_s"] == 0
    together = doc["worst"][0]
    assert together["pairs"] == [["ae", "kr"], ["br", "kr"], ["kr", "br"]]
    assert (together["down_s"], together["sources"]) == (3 * H, ["calls", "mesh"])
    assert "ae → kr, br → kr, kr → br" in text(DRAW["report"](doc))


def test_the_last_hour_counts_as_far_as_it_went() -> None:
    row = pair(told([call(1, START + H + 60)], until=START + H + 600))
    assert (row["measured_s"], row["coverage"]) == (600, 600 / (H + 600))


calls_of_a_day = st.lists(
    st.builds(
        call,
        st.integers(1, 10**6),
        st.floats(START, DAY - 1),
        valid=st.sampled_from([True, False, None]),
        verdict_there=st.sampled_from(["good", "warn", "bad"]),
        verdict_back=st.sampled_from(["good", "bad", None]),
        connected=st.booleans(),
    ),
    max_size=30,
)
hours_of_a_day = st.lists(
    st.builds(
        lambda at, seconds, share, far: hour(
            at, *(("kr-1", "ae-1") if far else ("ae-1", "kr-1")), seconds=seconds, down_seconds=int(seconds * share)
        ),
        st.integers(0, 23), st.integers(10, H), st.floats(0, 1), st.booleans(),
    ),
    max_size=30,
)  # fmt: skip


@given(calls_of_a_day, hours_of_a_day)
def test_time_adds_up_whatever_was_measured(calls: list[dict[str, Any]], mesh: list[dict[str, Any]]) -> None:
    doc = told(calls, mesh)
    for row in doc["pairs"]:
        assert 0 <= row["down_s"] <= row["measured_s"] + 1e-6 <= 24 * H + 1e-3
        assert row["availability"] is None or -1e-9 <= row["availability"] <= 1
        assert row["availability"] is None or row["measured_s"] > 0
        assert sum(window["down_s"] for window in row["worst"]) <= row["down_s"] + 1e-6
        assert row["verdict"] != "missed" or row["budget"]["left"] < 1e-9
    assert doc["calls"]["counted"] + sum(doc["calls"]["left_out"].values()) <= len(calls)
    text(DRAW["report"](doc))


def test_the_figures_that_are_kept_are_those_of_a_calls_document(tmp_path: Path) -> None:
    document = call_document(report(0.1), report(0.1)) | {"kind": "probe.call", "unix": float(START)}
    document["to"] |= {"market": "kr"}
    with Store(tmp_path / "commcli.sqlite3", clock=lambda: float(DAY)) as store:
        store.record_call(document)
        rows = store.calls_since(START)
    unmeasured = {name for name, value in rows[0].items() if value is None}
    assert unmeasured == {"run", "via"}
    row = pair(told(rows))
    assert row["calls"] == 1 and [name for name, found in row["figures"].items() if found is None] == []


def test_an_hour_of_windows_without_length_is_unmeasured() -> None:
    row = pair(told([], [hour(0, seconds=0), hour(1, seconds=0, down_seconds=5), hour(2)]))
    assert (row["measured_s"], row["down_s"]) == (H, 0)


def test_an_hour_counts_for_an_hour_however_many_windows_were_told_of_it() -> None:
    down = hour(0, down_seconds=H)
    boasts: list[dict[str, Any]] = [{"seconds": 10**6}, {"seconds": 10**6, "down_seconds": 10**7}]
    for boast in boasts:
        row = pair(told([], [down, hour(0, "kr-1", "ae-1", **boast)]))
        assert (row["measured_s"], row["down_s"]) == (H, H), "a longer hour is no better word"
        alone = pair(told([], [hour(0, **boast)]))
        assert alone["measured_s"] == H and 0 <= alone["down_s"] <= H
