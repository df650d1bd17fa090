"""A hostile or broken node costs its own word, and nobody else's."""

from __future__ import annotations

import copy
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
from tests.probe.test_hops import VIA_SG, flow, segment
from tests.probe.test_judge import report as made_up

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
