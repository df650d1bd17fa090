"""The record, the audit row and the log of a run, under one name."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput, LockHeld, Usage
from commcli.settings import Settings
from commcli.store import runs
from commcli.store.recorded import recorded
from commcli.store.runlog import RunLog, last_words, read
from commcli.store.runs import only
from commcli.store.schema import MIGRATIONS, migrate
from commcli.store.sqlite import Store

RUN = "20261123T094500Z-ab12"
LATER = "20261123T101500Z-cd34"


@dataclass(frozen=True)
class Said:
    """A word about a node."""

    node: str
    text: str
    state: str = ""
    ended: Any = None


@dataclass(frozen=True)
class Ended:
    """A step that has come to its end."""

    section: str = "steps"
    state: str = "changed"
    text: str = "create"
    seconds: float = 0.5


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "inventory", tmp_path / "state")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_name_in_record_audit_and_log(settings: Settings) -> None:
    with recorded(settings, RUN, "play run relay", "INC-1", {"nodes": ["sg-1"]}) as recording:
        with Store(settings.database) as store:
            [row] = store.runs()
            assert (row["run"], row["ended"], row["result"]) == (RUN, None, "started")
            assert row["document"] == {"nodes": ["sg-1"]}
        recording.take(Said("sg-1", "login"))
        recording.take(Said("sg-1", "config", ended=Ended()))
        recording.take(Said("sg-1", "", "done"))
        recording.end({"kind": "play.run", "exit_code": 1, "counts": {"done": 1}, "changed": 1})
    with Store(settings.database) as store:
        [row], [audit] = store.runs(), store.audits()
    assert (row["result"], row["document"]["changed"]) == ("exit 1", 1) and "@" in row["who"]
    assert audit["detail"] == {"run": RUN, "nodes": ["sg-1"], "counts": {"done": 1}, "changed": 1}
    assert (audit["result"], audit["reason"]) == ("exit 1", "INC-1")
    first, step, node, last = lines(recording.log)
    assert (first["run"], first["command"], first["reason"]) == (RUN, "play run relay", "INC-1")
    assert step == {"at": step["at"], "node": "sg-1", "step": "config", "section": "steps", "state": "changed",
                    "text": "create", "seconds": 0.5}  # fmt: skip
    assert (node["state"], last["result"]) == ("done", "exit 1")
    assert recording.log.stat().st_mode & 0o777 == 0o600


def test_of_a_run_that_was_killed_the_log_says_how_far_it_came(settings: Settings) -> None:
    log = RunLog(settings.runs, RUN, clock=lambda: 1795427100.25)
    for event in (
        Said("sg-1", "a", ended=Ended()),
        Said("sg-1", "b", ended=Ended(text="edit")),
        Said("hk-1", "login"),
    ):
        log.take(event)
    log.take(Said("de-1", "no route", "unreachable"))
    log.close()
    with log.path.open("a") as file:
        file.write('{"at": "2026-11-2')
    at = "2026-11-23T09:45:00.250Z"
    assert last_words(read(log.path)) == [
        {"node": "sg-1", "at": at, "step": "b", "state": "changed", "text": "edit"},
        {"node": "de-1", "at": at, "step": None, "state": "unreachable", "text": "no route"},
    ]
    assert read(settings.runs / "nothing.jsonl") == []


def test_an_interrupted_run_says_where_it_was_to_be(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt), recorded(settings, RUN, "play run x", None, {"nodes": ["a", "b"]}):
        raise KeyboardInterrupt
    with Store(settings.database) as store:
        [row] = store.runs()
    assert (row["result"], row["document"]) == ("interrupted", {"nodes": ["a", "b"]}) and row["ended"]


def test_a_run_that_does_not_get_the_lock_leaves_nothing(settings: Settings) -> None:
    with recorded(settings, RUN, "play run x", None, {}):
        with pytest.raises(LockHeld), recorded(settings, LATER, "play run x", None, {}):
            pytest.fail("two at once")
        assert [path.stem for path in settings.runs.iterdir()] == [RUN]


def test_a_run_is_found_by_how_its_name_begins(settings: Settings) -> None:
    with Store(settings.database) as store:
        for name in (RUN, LATER):
            store.record_run(name, "play run x", {"exit_code": 0})
        assert [row["run"] for row in store.runs()] == [LATER, RUN]
        assert only(store.runs_named("last"), "last")["run"] == LATER
        assert only(store.runs_named("20261123T09"), "")["result"] == "done"
        with pytest.raises(Usage, match=f"the beginning of 2 runs: {LATER}, {RUN}"):
            only(store.runs_named("2026"), "2026")
        with pytest.raises(BadInput, match='no run "%" is kept here'):
            only(store.runs_named("%"), "%")


def test_a_sensible_number_is_kept(settings: Settings) -> None:
    with Store(settings.database) as store:
        for number in range(runs.KEPT + 2):
            store.record_run(f"r{number:04d}", "play run x", {})
        assert len(store.runs(1000)) == runs.KEPT and store.runs_named("r0001") == []
    settings.runs.mkdir()
    for number in range(runs.KEPT + 2):
        (settings.runs / f"r{number:04d}.jsonl").touch()
    RunLog(settings.runs, "r9999").close()
    kept = sorted(path.stem for path in settings.runs.iterdir())
    assert (len(kept), kept[0], kept[-1]) == (runs.KEPT, "r0003", "r9999")


def test_a_log_that_can_not_be_kept_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(BadInput, match=r"runs/r\.jsonl"):
        RunLog(tmp_path / "runs", "r")


def test_a_disk_that_fills_up_stops_no_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "r")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    log.write(node="sg-1")
    log.close()


def test_runs_of_an_older_commcli_get_names(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "commcli.sqlite3", isolation_level=None)
    migrate(old, MIGRATIONS[:3])
    for number, code in ((1, 0), (2, 4)):
        values = (number, 1795427100.0, "play run", json.dumps({"exit_code": code}))
        old.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", values)
    old.close()
    with Store(tmp_path / "commcli.sqlite3") as store:
        found = [(row["run"], row["result"], row["who"], row["ended"]) for row in store.runs()]
    assert found == [
        ("20261123T094500Z-0002", "exit 4", None, 1795427100.0),
        ("20261123T094500Z-0001", "done", None, 1795427100.0),
    ]


def test_the_last_that_is_no_rollback(settings: Settings) -> None:
    with Store(settings.database) as store:
        store.record_run(RUN, "play run x", {})
        store.record_run(LATER, f"rollback {RUN}", {})
        assert only(store.runs_named("last", last_but="rollback "), "last")["run"] == RUN
