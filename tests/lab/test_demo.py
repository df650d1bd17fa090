"""The telling of a story: it ends with nothing left, whether it is true, untrue, or interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from commcli.errors import LockHeld
from commcli.lab import ports, processes
from commcli.lab.demo import Step, tell
from commcli.lab.folder import LabFolder
from commcli.lab.stage import Document, NotTrue, Running, Stage, require
from commcli.lab.up import Wish, up
from tests.lab import eight


def assert_gone(folder: LabFolder, network: str) -> None:
    assert processes.find(folder.path) == []
    assert ports.in_use(f"{network}.{number}" for number in (*range(1, 17), 254)) == []
    assert not folder.path.exists()


@pytest.fixture
def stage(empty: LabFolder, network: str) -> Stage:
    return Stage(empty, network, silent=True)


def small_lab(stage: Stage) -> Document:
    up(stage.folder, eight.fleet(), Wish(2, stage.network), lambda text: None)
    return {"nodes": 2}


def lie(stage: Stage) -> Document:
    raise NotTrue("the earth is flat")


def test_a_true_story(stage: Stage, network: str) -> None:
    told = tell(stage, [Step("lab up", small_lab)])
    assert told["true"] and [row["title"] for row in told["steps"]] == ["lab up", "lab down"]
    assert told["steps"][0]["facts"] == {"nodes": 2}
    assert_gone(stage.folder, network)


def test_an_untrue_step_ends_the_story_and_says_why(stage: Stage, network: str) -> None:
    told = tell(stage, [Step("lab up", small_lab), Step("geography", lie), Step("never", small_lab)])
    assert not told["true"] and [row["true"] for row in told["steps"]] == [True, False]
    assert told["steps"][1]["reason"] == "the earth is flat"
    assert_gone(stage.folder, network)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_a_step_takes_everything_down(stage: Stage, network: str, number: signal.Signals) -> None:
    def interrupted(stage: Stage) -> Document:
        small_lab(stage)
        stage.begin("lab", "status", "--folder", str(stage.folder.path))
        os.kill(os.getpid(), number)
        time.sleep(30)
        return {}

    with pytest.raises(KeyboardInterrupt):
        tell(stage, [Step("lab up", interrupted)])
    assert_gone(stage.folder, network)


def test_what_an_earlier_demo_left_is_swept_away(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    small_lab(stage)
    stage.silent = False
    assert tell(stage, [Step("lab up", small_lab)])["true"]
    assert "cut off; its 1 processes" in capsys.readouterr().out
    assert_gone(stage.folder, stage.network)


def test_two_demos_do_not_run_on_one_network(stage: Stage) -> None:
    def again(stage: Stage) -> Document:
        tell(stage, [])
        return {}

    def refused(stage: Stage) -> Document:
        with pytest.raises(LockHeld, match="another demo"):
            again(stage)
        return small_lab(stage)

    assert tell(stage, [Step("lab up", refused)])["true"]


def test_folders_made_for_the_lab_go_with_it(stage: Stage) -> None:
    deep = LabFolder(stage.folder.path / "a" / "b")
    stage = Stage(deep, stage.network, silent=True, made=(deep.path.parent, deep.path.parent.parent))
    assert tell(stage, [Step("lab up", small_lab)])["true"]
    assert not deep.path.parent.parent.exists()


def test_a_command_that_ends_badly_is_not_true(stage: Stage) -> None:
    small_lab(stage)
    with pytest.raises(NotTrue, match="exit 2"):
        stage.run("lab", "explode")
    with pytest.raises(NotTrue, match="no end after"):
        Running(("lab", "status"), stage.environ).finish((0,), 0.001)
    require(1, "never said")


def test_the_real_demo_is_gone_after_sigterm(empty: LabFolder, network: str) -> None:
    command = [
        sys.executable,
        "-m",
        "commcli",
        "lab",
        "demo",
        "--network",
        network,
        "--folder",
        str(empty.path),
    ]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (empty.path / "lab.sock").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.terminate()
    assert child.wait(30) == 143
    assert_gone(empty, network)
