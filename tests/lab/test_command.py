"""`commcli lab` as its users run it: a process of its own, with Ctrl-C and SIGTERM at awkward moments."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from commcli.lab import ports, processes
from commcli.lab.folder import LabFolder


def command(folder: LabFolder, *arguments: str) -> list[str]:
    state = folder.path.parent / "state"
    return [
        sys.executable, "-m", "commcli", "lab", *arguments, "--folder", str(folder.path), "--state", str(state),
    ]  # fmt: skip


def run(folder: LabFolder, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The command's document."""
    done = subprocess.run(
        [*command(folder, *arguments), "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr or done.stdout
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def assert_gone(folder: LabFolder, network: str) -> None:
    assert processes.find(folder.path) == []
    assert ports.in_use(f"{network}.{number}" for number in range(1, 17)) == []
    assert not folder.path.exists()


def up(network: str) -> Sequence[str]:
    return ("up", "--nodes", "3", "--network", network)


def test_the_whole_life_by_commands(empty: LabFolder, network: str) -> None:
    shown = run(empty, *up(network))
    assert shown["kind"] == "lab.up" and shown["changed"] and len(shown["nodes"]) == 3
    assert Path(shown["environment"]["COMMCLI_INVENTORY"], "nodes.yaml").exists()
    assert run(empty, *up(network))["changed"] is False
    assert run(empty, "degrade", "ae-1", "kr-1", "--loss", "0.5")["after"]["loss"] == 0.5
    assert [row["pair"] for row in run(empty, "status")["degraded"]] == [["ae-1", "kr-1"]]
    assert run(empty, "restore")["restored"] == [["ae-1", "kr-1"]]
    mile = run(
        empty, "lastmile", "kr-1", "--kbit-s", "80", "--delay-ms", "150", "--loss", "0.05", "--burst", "3"
    )
    assert (mile["changed"], mile["last_mile"]["rate_kbit"]) == (True, 80.0)
    assert [row["node"] for row in run(empty, "status")["last_miles"]] == ["kr-1"]
    assert run(empty, "restore", "kr-1")["last_miles"] == ["kr-1"]
    assert run(empty, "kill", "kr-1")["node"] == "kr-1"
    assert [row["ssh"] for row in run(empty, "status", code=1)["nodes"]] == [True, False, True]
    assert run(empty, "start", "kr-1")["did"] == "no relay installed"
    assert run(empty, "down")["clean"]
    assert_gone(empty, network)


def test_screens_are_drawn_and_exports_are_talk(empty: LabFolder, network: str) -> None:
    shown = subprocess.run(
        command(empty, *up(network)), capture_output=True, text=True, timeout=60, check=True
    )
    assert "Singapore" in shown.stdout and "synthetic" in shown.stdout and "export" not in shown.stdout
    assert f"export COMMCLI_INVENTORY={empty.inventory}" in shown.stderr
    for words in (
        ["degrade", "ae-1", "kr-1", "--rtt-ms", "9"],
        ["lastmile", "kr-1", "--loss", "0.1"],
        ["status", "--links"],
        ["restore"],
        ["down"],
    ):
        done = subprocess.run(command(empty, *words), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip(), (words, done.stderr)
    quiet = subprocess.run(command(empty, "down", "--quiet"), capture_output=True, text=True, timeout=60)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("up", "--nodes", "1"), 2), (("up", "--network", "10.0.0"), 2), (("status",), 4), (("kill", "sg-1"), 4),
        (("degrade", "ae-1", "kr-1"), 2), (("degrade", "ae-1", "kr-1", "--loss", "2"), 2), (("restore", "a"), 4),
        (("lastmile", "ae-1"), 2), (("lastmile", "ae-1", "--loss", "2"), 2), (("lastmile", "ae-1", "--loss", "1"), 4),
    ],
)  # fmt: skip
def test_wrong_use_is_one_document_and_leaves_nothing(
    empty: LabFolder, words: Sequence[str], code: int
) -> None:
    assert run(empty, *words, code=code)["kind"] == "error"
    assert not empty.path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seen", ["lab.json", "keys/hosts/sg-1.pub", "hosts.log", "lab.sock"])
def test_a_signal_midway_leaves_nothing(
    empty: LabFolder, network: str, seen: str, number: signal.Signals
) -> None:
    child = subprocess.Popen(command(empty, *up(network)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (empty.path / seen).exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(number)
    child.communicate(timeout=30)
    # 0: it was done before the signal arrived. Whatever it was, down ends it and nothing is left.
    assert child.returncode in (0, 130 if number == signal.SIGINT else 143)
    assert run(empty, "down")["clean"]
    assert_gone(empty, network)
