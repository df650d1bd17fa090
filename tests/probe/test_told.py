"""A hostile or broken node costs its own word, and nobody else's."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from commcli.fleet.secrets import Secret
from commcli.probe import told
from commcli.probe.ask import Ask, check
from commcli.probe.call import _Run
from commcli.probe.credentials import mint
from commcli.remote.outcome import Failed
from commcli.remote.ssh import Pool
from tests.probe import fleets
from tests.probe.test_direction import NOW, window
from tests.probe.test_hops import VIA_SG, flow, segment
from tests.probe.test_judge import report as made_up
from tests.relay import mesh_world

Change = Callable[[dict[str, Any]], object]


def real() -> dict[str, Any]:
    """As it comes over the wire."""
    report: dict[str, Any] = json.loads(json.dumps(made_up(0.1)))
    return report


def test_an_honest_report_is_taken_as_it_is() -> None:
    assert told.report(real()) == real()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.clear(),
        lambda r: r.pop("received"),
        lambda r: r["clock"].update(extra=1),
        lambda r: r.update(valid="yes"),
        lambda r: r["received"]["audio"].update(loss="none"),
        lambda r: r["received"]["audio"].update(jitter_ms=float("nan")),
        lambda r: r["received"]["audio"].update(jitter_ms=float("inf")),
        lambda r: r["received"]["audio"].update(jitter_ms=10**400),
        lambda r: r["received"]["audio"]["longest_gap"].update(at_s=1e300),
        lambda r: r.update(reason="x" * 301),
        lambda r: r.update({str(n): 0 for n in range(3000)}),
    ],
)
def test_a_report_that_can_not_be_is_one_line(change: Change) -> None:
    report = copy.deepcopy(real())
    change(report)
    with pytest.raises(Failed, match=r"its report .{3,80}$"):
        told.report(report)


@pytest.mark.parametrize("report", [None, [1], "x", 7])
def test_what_is_no_report_at_all(report: object) -> None:
    with pytest.raises(Failed):
        told.report(report)


ANSWER: dict[str, Any] = {
    "flows": [flow("transit", VIA_SG, 5)],
    "segments": [segment("ae-1", "sg-1", 10, 1, 1), segment("ae-1", "kr-1", 1000, 900, 0)],
    "sends": [
        {"from": "sg-1", "to": "kr-1", "sent_again": 3},
        {"from": "ae-1", "to": "kr-1", "sent_again": 9},
    ],
}


def test_a_relay_speaks_for_its_own_segments_only() -> None:
    reading = told.reading("sg-1", ANSWER)
    assert [(row["from"], row["to"]) for row in reading.segments] == [("ae-1", "sg-1")]
    assert [(row["from"], row["to"]) for row in reading.sends] == [("sg-1", "kr-1")]
    assert len(reading.flows) == 1


def test_a_relay_of_before_tells_no_segments() -> None:
    assert told.reading("sg-1", {"flows": []}).segments == []


@pytest.mark.parametrize(
    "answer",
    [
        {"flows": [{"a": 1}]},
        {"flows": "none"},
        {"flows": [flow("transit", VIA_SG, 5) | {"packets": -1}]},
        {"flows": [flow("transit", VIA_SG, 5) | {"packets": 1.5}]},
        {"flows": [flow("transit", VIA_SG, 5) | {"path": ["a"] * 5}]},
        {"flows": [flow("transit", VIA_SG, 5) | {"first_unix": float("nan")}]},
        {"flows": [], "segments": [{"from": 1, "to": 2}]},
        {"flows": [], "segments": [dict(segment("a", "sg-1", 1, 1, 1)) | {"lost": "many"}]},
        {"flows": [], "segments": [dict(segment("a", "sg-1", 1, 1, 1)) | {"delay_ms": {"p50": "x"}}]},
        {"flows": [], "sends": [7]},
    ],
)
def test_rows_that_can_not_be(answer: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="relay: its"):
        told.reading("sg-1", answer)


NONSENSE: list[dict[str, Any]] = [
    {"event": "report", "report": {}},
    {"event": "report", "report": "x"},
    {"event": "report"},
    {"event": "connected", "unix": "soon"},
    {"event": "phase", "phase": "ice", "ms": "fast"},
    {"event": "description", "relayed": []},
    {"event": "description", "relayed": ["192.0.2.1", 4], "type": "answer", "sdp": "m=audio 9\r\n" * 4000},
    {"event": "description", "relayed": ["192.0.2.1", 4], "type": "answer", "sdp": None},
    {},
]


@pytest.mark.parametrize("event", NONSENSE)
async def test_an_end_that_tells_nonsense_ends_its_own_part_with_one_line(event: dict[str, Any]) -> None:
    nodes = [fleets.node(name, python="python3") for name in ("aa-1", "bb-1")]
    ask, fleet = Ask("aa-1", "bb-1"), fleets.fleet(*nodes)
    run = _Run(fleet, cast(Pool, None), ask, check(fleet, ask), mint(Secret("key"), expires_unix=5), _ignore)
    with pytest.raises(Failed, match=r"^its "):
        await run._believe("to", event)
    assert run.sides["to"].report is None


async def test_a_report_that_lacks_what_is_reckoned_with() -> None:
    report = real()
    event: dict[str, Any] = {"event": "report", "report": report}
    del report["received"]["audio"]["loss"]
    await test_an_end_that_tells_nonsense_ends_its_own_part_with_one_line(event)


def _ignore(_side: str, _event: object) -> None: ...


# --- mesh windows ---------------------------------------------------------------------------------------------------


def test_honest_windows_are_taken_as_they_are() -> None:
    honest = [window("a", "b", end=9_990), window("a", "c", end=9_900, seconds=300, loss=None)]
    assert told.windows("a", {"windows": honest}, NOW) == (honest, 0.0)


@pytest.mark.parametrize("end", [10_060, 10_061, 96_400, 2**36])
def test_a_clock_that_is_ahead_is_measured_and_its_future_left_out(end: int) -> None:
    past, late = window("a", "b", end=9_990), window("a", "b", end=end // 10 * 10)
    kept, ahead_s = told.windows("a", {"windows": [past, late]}, NOW - (end == 10_061))
    if end == 10_060:
        assert (kept, ahead_s) == ([past, late], 0.0)
    else:
        assert (kept, ahead_s) == ([past], end // 10 * 10 - NOW + (end == 10_061))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"start": start} for start in (10**15, -10, 9_985, 9_980.0, "9980", None, True)),
        *({"seconds": seconds} for seconds in (0, -10, 20, 10**6, 10.0, None)),
        *({"peer": peer} for peer in ("a", "", None, 5, "x" * 400)),
        *({key: count} for key in ("sent", "received") for count in (-1, 1.5, None, 10**12)),
        {"received": 11},
        *(
            {key: loss}
            for key in ("loss", "loss_fwd", "loss_back")
            for loss in (-0.1, 1.1, float("nan"), "0")
        ),
    ],
)
def test_a_window_that_nobody_can_have_counted_costs_all_that_it_came_with(wrong: dict[str, Any]) -> None:
    with pytest.raises(Failed, match=r"^node a: its relay tells of a mesh window that can not be$"):
        told.windows("a", {"windows": [window("a", "b"), {**window("a", "b"), **wrong}]}, NOW)


@pytest.mark.parametrize("windows", [None, {}, [1], "x"])
def test_what_are_no_windows_at_all(windows: object) -> None:
    with pytest.raises(Failed, match="its windows are no rows"):
        told.windows("a", {"windows": windows}, NOW)


@pytest.mark.parametrize("forward", [[0.05], []])
def test_whatever_a_relay_counts_can_be(forward: list[float]) -> None:
    """With losses, duplicates and reordering on the way back, or in an outage."""
    back = itertools.cycle([[0.05], [0.05, 0.2], [], [0.3]])
    pair = mesh_world.Pair(forward=lambda _: forward, back=lambda _: next(back)).run(45)
    rows = mesh_world.windows(pair.mesh)
    assert len(rows) >= 3
    assert told.windows(mesh_world.A, {"windows": rows}, pair.unix) == (rows, 0.0)
