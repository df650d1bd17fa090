"""`commcli audit list`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.cli import execute
from commcli.store.sqlite import Store

NOON = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC


# A command that is killed in the middle of its change.
KILLED = """
import os, pathlib, signal, sys
from commcli.store.sqlite import Store
with Store(pathlib.Path(sys.argv[1]), clock=lambda: float(sys.argv[2])) as store:
    with store.audited("route apply", None, {"serial": 7}):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = execute(["audit", "list", *arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--state", str(tmp_path)) == (0, "nobody has changed anything yet\n")


def test_rows_newest_first_and_the_killed_one_stands_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "commcli.sqlite3"
    with Store(database, clock=lambda: NOON) as store:
        store.audit("relay drain", "INC-1", "done", {"selector": "[sg]-1"}, who="alice@jump")
    subprocess.run([sys.executable, "-c", KILLED, str(database), str(NOON)], check=False)
    code, out = said(capsys, "--state", str(tmp_path))
    head, killed, drained = (line.split() for line in out.splitlines())
    assert code == 0
    assert head[:4] == ["when", "(UTC)", "who", "command"]
    assert killed[:2] == ["2026-01-01", "12:00:00"] and killed[3:] == [
        "route",
        "apply",
        "unfinished",
        "-",
        "-",
        "serial=7",
    ]
    assert drained[2:] == ["alice@jump", "relay", "drain", "done", "0.0", "s", "INC-1", "selector=[sg]-1"]


def test_as_json_and_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path / "commcli.sqlite3") as store:
        for serial in (1, 2, 3):
            store.audit("route apply", None, "done", {"serial": serial})
    code, out = said(capsys, "--state", str(tmp_path), "--json", "--limit", "2")
    document = json.loads(out)
    assert (code, document["schema"], document["kind"]) == (0, 1, "audit.list")
    assert [row["detail"]["serial"] for row in document["rows"]] == [3, 2]


def test_the_detail_is_short_on_the_screen_and_whole_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    detail = {"nodes": ["ae-1", "kr-1", "sg-1", "hk-1"], "counts": {"done": 4}, "trouble": {}, "back": None}
    with Store(tmp_path / "commcli.sqlite3") as store:
        store.audit("play run relay", None, "done", detail)
    _, out = said(capsys, "--state", str(tmp_path))
    assert "nodes=ae-1; kr-1; sg-1 and 1 more, counts=done 4" in " ".join(out.split())
    assert "trouble" not in out
    _, out = said(capsys, "--state", str(tmp_path), "--json")
    assert json.loads(out)["rows"][0]["detail"] == detail
