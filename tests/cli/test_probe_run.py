"""`commcli probe run` as cron starts it: no terminal, no HOME, a bare PATH. What is due there needs no node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commcli.report.probe.run import RUN
from commcli.report.textfile import value_of
from commcli.store.lock import exclusive
from tests.fleet import samples


class Cron:
    """Starts `commcli probe run` in an environment of almost nothing."""

    def __init__(self, folder: Path, probes: str) -> None:
        self.inventory, self.state, self.gauges = samples.write(folder), folder / "state", folder / "x.prom"
        for name in ("ssh/known_hosts", "secrets/turn"):
            (self.inventory / name).parent.mkdir(exist_ok=True)
            (self.inventory / name).write_text("x\n" if "turn" in name else "")
        (self.inventory / "probes.yaml").write_text(probes)

    def command(self, *words: str) -> list[str]:
        paths = ["--inventory", str(self.inventory), "--state", str(self.state)]
        return [
            sys.executable,
            "-m",
            "commcli",
            "probe",
            "run",
            *paths,
            "--textfile",
            str(self.gauges),
            *words,
        ]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env={"PATH": "/usr/bin:/bin", "LANG": "C"},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def gauge(self, name: str) -> float | None:
        return value_of(self.gauges.read_text(), f"{RUN}{name}")


# In the sample fleet br-1 drains, and no node has a probe_python.
NOTHING_DUE = "pairs: [{between: [sg, br]}]\n"
BAD = "pairs: [{between: [sg, de]}]\n"


def test_silent_when_good(tmp_path: Path) -> None:
    cron = Cron(tmp_path, NOTHING_DUE)
    done = cron()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert cron.gauge("exit_code") == 0
    assert cron.gauge("last_success_timestamp_seconds") == cron.gauge("last_timestamp_seconds")
    assert not (cron.state / "probe-run.log").exists()


def test_one_line_when_not_and_all_of_it_in_the_log(tmp_path: Path) -> None:
    cron = Cron(tmp_path, BAD)
    done = cron()
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.count("\n") == 1
    assert "call de-sg failed: node" in done.stdout and str(cron.state / "probe-run.log") in done.stdout
    (row,) = (cron.state / "probe-run.log").read_text().splitlines()
    assert json.loads(row)["jobs"][0]["job"] == "call de-sg"
    assert cron.gauge("exit_code") == 3
    assert cron.gauge("last_success_timestamp_seconds") is None


def test_as_json(tmp_path: Path) -> None:
    done = Cron(tmp_path, BAD)("--json")
    document = json.loads(done.stdout)
    assert (document["schema"], document["kind"], document["exit_code"]) == (1, "probe.run", 3)


def test_a_broken_inventory_is_told_and_the_textfile_says_so(tmp_path: Path) -> None:
    cron = Cron(tmp_path, NOTHING_DUE)
    assert cron().returncode == 0
    good = cron.gauge("last_success_timestamp_seconds")
    (cron.inventory / "probes.yaml").write_text("pairs: [{between: [sg, zz]}]\n")
    done = cron()
    assert (done.returncode, done.stdout) == (3, "")
    assert "probes.yaml:1: " in done.stderr and done.stderr.count("\n") == 1
    assert (cron.gauge("exit_code"), cron.gauge("last_success_timestamp_seconds")) == (3, good)


@pytest.mark.parametrize("probes", [None, "{}\n"])
def test_a_schedule_that_was_lost_is_not_a_fleet_that_is_well(tmp_path: Path, probes: str | None) -> None:
    cron = Cron(tmp_path, probes or "")
    if probes is None:
        (cron.inventory / "probes.yaml").unlink()
    done = cron()
    assert (done.returncode, done.stdout) == (3, "") and "nothing is scheduled" in done.stderr
    assert (cron.gauge("exit_code"), cron.gauge("last_success_timestamp_seconds")) == (3, None)


def test_without_a_place_for_its_state_the_textfile_says_so(tmp_path: Path) -> None:
    cron = Cron(tmp_path, NOTHING_DUE)
    cron.state.write_text("no folder")
    done = cron()
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert cron.gauge("exit_code") == 3


def test_a_second_run_is_refused_and_leaves_the_textfile_alone(tmp_path: Path) -> None:
    cron = Cron(tmp_path, NOTHING_DUE)
    with exclusive(cron.state / "probe-run.lock", "probe run"):
        done = cron()
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith("locked by ") and done.stderr.count("\n") == 1
    assert not cron.gauges.exists()


def test_a_textfile_that_can_not_be_written_is_bad_input_and_the_run_counts(tmp_path: Path) -> None:
    cron = Cron(tmp_path, NOTHING_DUE)
    cron.gauges = tmp_path / "nowhere" / "x.prom"
    done = cron()
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"{cron.gauges}: can not write: No such file or directory\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ended_early_the_textfile_says_so(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The mesh of nodes behind a name server that never answers: a run that lasts."""
    cron = Cron(tmp_path, "mesh: {every: 1m}\n")
    program = (
        "import sys, commcli.__main__ as entry\n"
        "from commcli.remote.ssh import Pool\n"
        "async def connect(self, node):\n"
        "    import asyncio\n"
        f"    open({str(tmp_path / 'busy')!r}, 'w').close()\n"
        "    await asyncio.get_running_loop().create_future()\n"
        "Pool.connect = connect\n"
        "sys.argv[0] = 'commcli'\n"
        "entry.main()\n"
    )
    words = [sys.executable, "-c", program, *cron.command()[3:]]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "busy").exists():
        time.sleep(0.02)
    os.kill(running.pid, number)
    _, said = running.communicate()
    assert running.returncode == code
    assert said.count("\n") == 1
    assert cron.gauge("exit_code") == code
