"""Gauges for Prometheus: the format, one rename, and what stays when a run fails. The log beside it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput
from commcli.probe import runlog
from commcli.report import textfile
from commcli.report.probe.run import RUN, line, text
from commcli.report.textfile import Metric

NOON = 1_767_268_800.0
SUCCESS = f"{RUN}last_success_timestamp_seconds"
# Text format 0.0.4, without the timestamps that the collector refuses.
COMMENT = re.compile(r"# (HELP|TYPE) ([a-z_:][a-z0-9_:]*) .+")
SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(\{([a-z_]+="(\\.|[^"\\\n])*",?)*\})? -?[0-9.e+-]+')


def doc(**more: Any) -> dict[str, Any]:
    pair: dict[str, Any] = {
        "unix": NOON - 60, "verdict": "warn", "mos": 3.5, "rtt_ms": 231.5, "loss": 0.012, "jitter_ms": 4.0,
        "one_way_ms": None, "setup_ms": 800.0,
    }  # fmt: skip
    jobs = [
        {"job": "mesh", "state": "away", "code": 4, "reason": "1 of 2 nodes away", "late": 0.1, "away": 1},
        {"job": "edges", "state": "good", "code": 0, "reason": "", "late": 0.1, "doors": {"bad": 0, "good": 4}},
        {"job": "call ae-kr", "from": "ae", "to": "kr", "state": "warn", "code": 0, "reason": "", "late": 0.2},
    ]  # fmt: skip
    return {
        "jobs": jobs, "waiting": [{"job": "call br-cn", "late": 2.5}], "exit_code": 4,
        "pairs": [{"from": "ae", "to": "kr", **pair}, {"from": "kr", "to": "ae", **pair, "verdict": "good"}],
        **more,
    }  # fmt: skip


def samples(told: str) -> dict[str, float]:
    rows = [line.rpartition(" ") for line in told.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def test_every_line_is_of_the_format_and_every_metric_is_explained_once() -> None:
    told = text(doc(), 4, NOON, 12.5, "")
    explained: list[tuple[str, str]] = []
    for row in told.splitlines():
        match = COMMENT.fullmatch(row) or SAMPLE.fullmatch(row)
        assert match is not None, row
        if row.startswith("#"):
            explained.append((match[1], match[2]))
        else:
            assert explained[-2:] == [("HELP", match[1]), ("TYPE", match[1])]
    assert len(explained) == len(set(explained))
    assert told.endswith("\n")


def test_what_a_run_says() -> None:
    told = samples(text(doc(), 4, NOON, 12.5, f"{SUCCESS} {NOON - 120}\n"))
    assert told[f"{RUN}last_timestamp_seconds"] == NOON
    assert told[SUCCESS] == NOON - 120
    assert (told[f"{RUN}exit_code"], told[f"{RUN}duration_seconds"]) == (4, 12.5)
    assert told[f"{RUN}calls_waiting"] == 1 and told[f"{RUN}calls_late_periods"] == 2.5
    assert told[f"{RUN}nodes_away"] == 1
    assert told[f'{RUN}doors{{verdict="good"}}'] == 4
    assert told['commcli_probe_call_verdict{from="ae",to="kr"}'] == 1
    assert told['commcli_probe_call_verdict{from="kr",to="ae"}'] == 0
    assert told['commcli_probe_call_rtt_seconds{from="ae",to="kr"}'] == 0.2315
    assert not [name for name in told if "one_way" in name], "unmeasured is no line, and never 0"


def test_a_success_is_remembered_and_none_is_not_invented() -> None:
    assert samples(text(doc(), 0, NOON, 1.0, ""))[SUCCESS] == NOON
    assert SUCCESS not in samples(text(doc(), 1, NOON, 1.0, ""))
    assert SUCCESS not in samples(text(doc(), 1, NOON, 1.0, f"{SUCCESS} junk\n"))


def test_a_run_that_failed_before_it_measured_keeps_what_is_known_of_the_pairs() -> None:
    good = text(doc(), 0, NOON, 1.0, "")
    failed = text(None, 3, NOON + 60, 0.1, good)
    assert samples(failed)[f"{RUN}exit_code"] == 3
    assert samples(failed)[SUCCESS] == NOON
    assert f"{RUN}calls_waiting" not in samples(failed)
    pairs = [row for row in good.splitlines() if "probe_call_" in row]
    assert pairs and [row for row in failed.splitlines() if "probe_call_" in row] == pairs
    assert text(None, 3, NOON + 60, 0.1, failed) == failed


def test_labels_are_escaped() -> None:
    told = textfile.render([Metric("m", 'a "b" \\', [({"x": 'a"b\\c\nd'}, 1.0)])])
    assert told == '# HELP m a "b" \\\\\n# TYPE m gauge\nm{x="a\\"b\\\\c\\nd"} 1\n'


def test_the_file_is_replaced_for_everybody_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "commcli.prom"
    textfile.write(path, "old 1\n")
    reader = path.open()
    textfile.write(path, "new 2\n")
    assert reader.read() == "old 1\n"  # whoever had begun to read goes on in the old one
    reader.close()
    assert textfile.read(path) == "new 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["commcli.prom"]


def test_what_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere/x\.prom: can not write: No such file or directory"):
        textfile.write(tmp_path / "nowhere" / "x.prom", "")
    folder = tmp_path / "x.prom"
    folder.mkdir()
    with pytest.raises(BadInput, match="is no regular file"):
        textfile.write(folder, "")
    assert textfile.read(folder) == ""
    assert [each.name for each in tmp_path.iterdir()] == ["x.prom"]


def test_a_pipe_or_a_device_is_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "x.prom"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert textfile.read(path) == ""
        with pytest.raises(BadInput, match="is no regular file"):
            textfile.write(path, "")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_the_line_is_one_line_however_much_is_wrong() -> None:
    jobs = [
        {"job": f"call a-{number}", "state": "bad", "code": 1, "reason": f"{'x' * 200}\nmore", "late": 0.0}
        for number in range(9)
    ]
    told = line(doc(jobs=jobs, exit_code=1), Path("/var/log"))
    assert "\n" not in told and len(told) < 800
    assert "9 of 9 not good" in told and "and 5 more" in told


def test_the_log_is_kept_short(tmp_path: Path) -> None:
    log = tmp_path / "probe-run.log"
    for number in range(5):
        runlog.append(log, {"n": number, "text": "x" * 40}, most_bytes=100)
    older = log.with_name("probe-run.log.1")
    found = [json.loads(row)["n"] for path in (older, log) for row in path.read_text().splitlines()]
    assert found == [2, 3, 4]
    with pytest.raises(BadInput, match="can not write"):
        runlog.append(tmp_path / "no" / "log", {})


def test_what_is_not_finite_is_no_line() -> None:
    wild = [({"x": str(value)}, value) for value in (float("nan"), float("inf"), -float("inf"), None)]
    assert textfile.render([Metric("m", "wild", wild)]) == ""
    assert textfile.render([Metric("m", "one", [*wild, ({}, 2.0)])]).splitlines()[2:] == ["m 2"]


def test_links_that_lie_in_wait_are_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "x.prom", tmp_path / "victim"
    victim.write_text("precious")
    traps = [tmp_path / f".x.prom.{os.getpid()}", path]
    for trap in traps:
        trap.symlink_to(victim)
    textfile.write(path, "m 1\n")
    assert victim.read_text() == "precious"
    assert path.read_text() == "m 1\n" and not path.is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"victim", "x.prom", traps[0].name}
