"""From both ends' reports and the relays' counters to the document of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from commcli.fleet import probes
from commcli.probe import judge
from commcli.probe.evidence import Evidence, measured
from commcli.probe.hops import Reading
from commcli.probe.profiles import PROFILES
from commcli.probe.stream import Window, summarize
from tests.probe.test_stream import START, audio, video

A, B = ("127.77.0.1", 50001), ("127.77.0.2", 50002)
PATH = ["ae-1", "sg-1", "kr-1"]


def report(
    delay_s: float,
    *,
    bounds: tuple[float, float] = (-100, 100),
    boot: str = "one",
    valid: bool = True,
    rtt: float = 200,
) -> dict[str, Any]:
    window = Window(START, START + 10)
    spread = {"samples": 100, "min": rtt, "p50": rtt, "p95": rtt, "p99": rtt, "max": rtt}
    return {
        "window": {"start_s": START, "end_s": START + 10},
        "received": {
            "audio": summarize(audio(delay_s), window),
            "video": summarize(video(delay_s), window),
        },
        "pings": {"sent": 100, "answered": 100, "rtt_ms": spread, "offset_bounds_ms": list(bounds)},
        "clock": {"boot_id": boot, "max_error_ms": None},
        "host": {"loop_lag_ms": {"p50": 1.0, "p99": 2.5}, "cpu_steal": None, "cpu_cores": 0.2},
        "sent": {"share": 1.0},
        "valid": valid,
        "reason": None if valid else "event-loop lag p99 90 ms",
    }


def evidence(there: dict[str, Any] | None, back: dict[str, Any] | None, **flows: Any) -> Evidence:
    told = {"ae-1": [], "kr-1": [], "sg-1": [], **flows}
    after = {node: None if rows is None else Reading(rows) for node, rows in told.items()}
    return Evidence(PROFILES["sd"], there, back, (A, B), ("ae-1", "kr-1"), {}, after)


def test_one_clock_gives_plain_delays() -> None:
    got = measured(evidence(report(0.120), report(0.090)))
    assert got["directions"]["there"]["audio"]["one_way_ms"]["p50"] == pytest.approx(120, abs=0.1)
    assert got["directions"]["back"]["video"]["frame_delay_ms"]["p50"] == pytest.approx(91, abs=0.6)
    assert got["clock"] == {"offset_ms": 0.0, "error_ms": 0.0, "method": "one kernel clock"}


def test_two_clocks_are_corrected_in_opposite_directions() -> None:
    # The second end's clock is 1000 ms ahead: "there" looks longer by that, "back" shorter.
    there = report(1.120, boot="b", bounds=(-1100, -900))
    back = report(-0.880, boot="a", bounds=(900, 1100))
    got = measured(evidence(there, back))
    assert got["clock"] == {"offset_ms": 1000.0, "error_ms": 100.0, "method": "pings"}
    for name in ("there", "back"):
        one_way = got["directions"][name]["audio"]["one_way_ms"]
        assert one_way["p50"] == pytest.approx(120, abs=0.1)
        assert one_way["error_ms"] == 100.0


def test_unknown_clocks_leave_one_way_delays_unmeasured_and_mos_from_rtt() -> None:
    there, back = report(0.12, boot="a"), report(0.12, boot="b")
    for each in (there, back):
        each["pings"]["offset_bounds_ms"] = None
    got = measured(evidence(there, back))
    assert got["clock"] is None
    direction = got["directions"]["there"]
    assert direction["audio"]["one_way_ms"] is None
    assert direction["video"]["frame_delay_ms"] is None
    assert (direction["mos"]["network_ms"], direction["mos"]["network_from"]) == (100, "half of RTT p95")


def test_mos_states_its_model_and_inputs() -> None:
    score = measured(evidence(report(0.100), report(0.100)))["directions"]["there"]["mos"]
    assert "G.107" in score["model"] and "Opus" in score["codec"]
    assert score["mouth_to_ear_ms"] == pytest.approx(126.5, abs=0.1)
    assert score["r"] == pytest.approx(93.2 - 10.7, abs=0.1)


def test_an_end_without_a_report_leaves_its_direction_unmeasured() -> None:
    got = measured(evidence(None, report(0.1)))
    assert got["directions"]["there"] == {
        "audio": None, "video": None, "mos": None,
        "counts": dict.fromkeys(
            ("lost", "retransmitted", "repaired_by_rtx", "repaired", "sent_again", "lost_between_relays")
        ),
        "path": ["ae-1", "kr-1"], "straight": True, "paths": [],
    }  # fmt: skip
    assert got["hosts"]["to"] is None
    # One end's pings still bound the clocks.
    assert got["clock"] == {"offset_ms": 0.0, "error_ms": 100.0, "method": "pings"}
    assert got["directions"]["back"]["audio"]["one_way_ms"]["p50"] == pytest.approx(100, abs=0.1)


def test_hops_are_the_relays_word() -> None:
    rows = {
        node: [{
            "src": "127.77.0.1:50001", "dst": "127.77.0.2:50002", "role": "x", "path": PATH, "packets": 10,
            "bytes": 1, "first_unix": 1.0, "last_unix": 2.0,
        }]
        for node in PATH
    }  # fmt: skip
    got = measured(evidence(report(0.1), report(0.1), **rows))["directions"]
    assert (got["there"]["path"], got["there"]["straight"]) == (PATH, False)
    assert (got["back"]["path"], got["back"]["straight"]) == (["kr-1", "ae-1"], True)


def test_an_edge_that_could_not_be_asked_leaves_the_hops_unknown() -> None:
    got = measured(evidence(report(0.1), report(0.1), **{"kr-1": None}))
    assert got["directions"]["there"]["path"] is None
    assert got["directions"]["there"]["straight"] is None
    assert got["unasked"] == ["kr-1"]


# --- verdict --------------------------------------------------------------------------------------------------------


def verdict(there: float, back: float, **reported: Any) -> tuple[str, list[str]]:
    reports = report(there, **reported), report(back, **reported)
    valid, _ = judge.validity([("ae-1", reports[0]), ("kr-1", reports[1])])
    return judged(True, valid, measured(evidence(*reports)))


def judged(connected: bool, valid: bool | None, figures: dict[str, Any]) -> tuple[str, list[str]]:
    whole, _ = judge.verdict(connected, valid, figures)
    return whole.word, list(whole.reasons)


def test_good() -> None:
    assert verdict(0.1, 0.1) == ("good", [])


def test_warn_says_which_limit_and_whose() -> None:
    word, reasons = verdict(0.1, 0.2, rtt=350)
    assert word == "warn"
    assert reasons == [
        "one way 200 ms back, limit 150 ms (ITU-T G.114)",
        "rtt 350 ms, limit 320 ms (VIA)",
    ]


def test_bad_gives_only_what_is_bad() -> None:
    word, reasons = verdict(0.1, 0.45, rtt=350)
    assert word == "bad"
    assert all("limit 400 ms" in reason or "MOS" in reason for reason in reasons)


def test_a_starved_host_is_invalid_and_never_bad() -> None:
    assert verdict(3.0, 3.0, valid=False) == ("invalid", [])
    assert judge.validity([("ae-1", report(3, valid=False)), ("kr-1", None)]) == (
        False,
        "probe host starved: ae-1 (event-loop lag p99 90 ms)",
    )
    assert judge.validity([("ae-1", None)]) == (None, None)


def test_nothing_reported_is_invalid_and_not_bad() -> None:
    assert judged(True, None, measured(evidence(None, None))) == ("invalid", [])


def test_a_lost_end_is_worth_a_look() -> None:
    reports = None, report(0.1)
    valid, _ = judge.validity([("ae-1", reports[0]), ("kr-1", reports[1])])
    word, reasons = judged(True, valid, measured(evidence(*reports)))
    assert (word, reasons) == ("warn", ["no report from the to end"])


def test_a_connection_that_carries_no_audio_is_bad() -> None:
    there = report(0.1)
    there["received"] = {"audio": None, "video": None}
    valid, _ = judge.validity([("kr-1", there), ("ae-1", report(0.1))])
    word, reasons = judged(True, valid, measured(evidence(there, report(0.1))))
    assert (word, reasons) == ("bad", ["no audio arrived there"])


def test_the_longest_gap_is_of_the_audio_and_says_when() -> None:
    there = report(0.1)
    there["received"]["audio"] = summarize(
        audio(0.1, drop=frozenset(range(200, 250))), Window(START, START + 10)
    )
    gap = measured(evidence(there, report(0.1)))["longest_gap"]
    assert (gap["direction"], gap["medium"]) == ("there", "audio")
    assert gap["ms"] == pytest.approx(1020, abs=0.1)
    assert gap["after_s"] == pytest.approx(0.1 + 199 * 0.02, abs=0.001)


def test_not_connected_is_bad() -> None:
    assert judged(False, None, measured(evidence(None, None)))[0] == "bad"


def test_each_direction_has_its_own_verdict_and_its_own_limits() -> None:
    figures = measured(evidence(report(0.1), report(0.2)))
    whole, directions = judge.verdict(True, True, figures)
    assert (whole.word, directions["there"].word, directions["back"].word) == ("warn", "good", "warn")
    patient = judge.limits({"one_way_ms": (250, None), "mos": (1.0, None)})
    assert judge.verdict(True, True, figures, None, judge.LIMITS, patient)[0].word == "good"
    strict = judge.limits({"mos": (None, 4.4)})
    word, _ = judge.verdict(True, True, figures, None, strict, patient)
    assert word.word == "bad" and word.reasons[0].endswith("floor 4.4 (inventory)")


def test_set_up_time_counts_only_where_an_inventory_limits_it() -> None:
    figures = measured(evidence(report(0.1), report(0.1)))
    assert judge.verdict(True, True, figures, 9000.0)[0].word == "good"
    strict = judge.limits({"setup_ms": (2000, 5000)})
    word, directions = judge.verdict(True, True, figures, 9000.0, strict)
    assert (word.word, list(word.reasons)) == ("bad", ["setup 9000 ms, limit 5000 ms (inventory)"])
    assert {direction.word for direction in directions.values()} == {"bad"}


def test_a_limit_for_what_is_not_judged_is_refused() -> None:
    with pytest.raises(KeyError):
        judge.limits({"happiness": (1, 2)})


def test_the_e_model_takes_the_codec_of_the_profile() -> None:
    weak = replace(evidence(report(0.1), report(0.1)), profile=PROFILES["weak"])
    score = measured(weak)["directions"]["there"]["mos"]
    assert score["codec"].startswith("Opus 16 kbit/s") and score["ie"] == 30.2
    assert score["mouth_to_ear_ms"] == pytest.approx(100 + 60 + 6.5, abs=0.1)


def test_a_line_that_is_moved_past_the_other_takes_it_along() -> None:
    moved = judge.limits(
        {"rtt_ms": (700, None), "loss": (None, 0.001), "mos": (2.0, None), "setup_ms": (5, None)}
    )
    lines = {name: (moved[name].warn, moved[name].bad) for name in ("rtt_ms", "loss", "mos", "setup_ms")}
    assert lines == {"rtt_ms": (700, 700), "loss": (0.001, 0.001), "mos": (2.0, 2.0), "setup_ms": (5, None)}


def test_what_an_inventory_may_limit_is_what_is_judged() -> None:
    assert set(probes.FIGURES) == set(judge.LIMITS)
    assert set(probes.FLOORS) == {name for name, limit in judge.LIMITS.items() if limit.is_floor}
