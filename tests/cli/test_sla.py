"""`commcli sla`: exit codes and what is said, on a store with calls in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from commcli.cli import execute
from commcli.store.sqlite import Store
from tests.fleet import samples
from tests.store.test_calls import call

PROBES = "pairs:\n  - {between: [sg, de], every: 1h}\nsla: {availability: 0.99}\n"


def answer(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    folder = samples.write(tmp_path)
    (folder / "probes.yaml").write_text(PROBES)
    code = execute(["sla", *arguments, "--inventory", str(folder), "--state", str(tmp_path)])
    out, err = capsys.readouterr()
    return code, out, err


def keep(tmp_path: Path, *verdicts: str) -> None:
    now = time.time()
    with Store(tmp_path / "commcli.sqlite3") as store:
        for at, verdict in enumerate(verdicts):
            ends: dict[str, Any] = {
                "from": {"market": "sg", "node": "sg-1"},
                "to": {"market": "de", "node": "de-1"},
            }
            ways = call()["directions"]
            for way in ways.values():
                way["verdict"] = verdict
            usual = {"transport": "udp", "via": None, "plain": False, "verdict": verdict, "directions": ways}
            store.record_call(call(unix=now - 3600 * at, **ends, **usual))


def test_a_promise_that_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, "good", "warn", "good")
    code, out, err = answer(tmp_path, capsys)
    assert (code, err) == (0, "") and "sg → de" in out and "100.000 %" in out
    assert answer(tmp_path, capsys, "--quiet") == (0, "", "")


def test_a_promise_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, "good", "bad", "good")
    code, out, _ = answer(tmp_path, capsys, "--quiet", "--since", "24h", "--json")
    doc = json.loads(out)
    assert code == 1 and doc["kind"] == "sla.report" and doc["counts"] == {"missed": 2}
    code, out, _ = answer(tmp_path, capsys, "de")
    assert code == 1 and "missed de → sg, sg → de: availability" in out and "promised 99 %" in out


def test_nothing_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(tmp_path, capsys)
    assert code == 4 and "2 unmeasured" in out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--since", "soon"], "--since soon: must be 1h to 400d, such as 24h or 30d"),
        (["--since", "30m"], "--since 30m: must be 1h to 400d, such as 24h or 30d"),
        (["--since", "401d"], "--since 401d: must be 1h to 400d, such as 24h or 30d"),
        (["dee"], 'no market is called "dee"; did you mean "de"?'),
    ],
)
def test_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert answer(tmp_path, capsys, *arguments) == (2, "", error + "\n")
