"""Nodes with the real relay on them, as the real playbook installs it: power off, power on, and all gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from commcli.lab import control, incident, ports, processes
from commcli.lab.down import down
from commcli.lab.folder import LabFolder, Record
from commcli.lab.status import status

PLAYBOOK = Path(__file__).parents[2] / "playbooks/relay.yml"


def provision(folder: LabFolder) -> None:
    words = ["play", "run", str(PLAYBOOK), "--yes", "--json"]
    paths = ["--inventory", str(folder.inventory), "--state", str(folder.state)]
    done = subprocess.run(
        [sys.executable, "-m", "commcli", *words, *paths], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_comes_back_with_its_relay_and_nothing_outlives_the_lab(lab: tuple[LabFolder, Record]) -> None:
    folder, record = lab
    provision(folder)
    assert all(row["relay"] for row in status(folder, record)["nodes"])
    first = incident.ask(folder, "sg-1", "status")["pid"]

    assert control.ask(folder, "kill", node="sg-1")["killed"] >= 2  # the supervisor and its relay
    assert processes.find(folder.path, "sg-1") == []
    assert {port.address for port in ports.in_use(record.addresses.values())} == {
        record.addresses["ae-1"], record.addresses["kr-1"],
    }  # fmt: skip

    assert control.ask(folder, "start", node="sg-1")["did"] == "relay started"
    assert incident.ask_patiently(folder, "sg-1", "status", timeout_s=20)["pid"] != first

    assert down(folder).clean
    assert processes.find(folder.path) == [] and ports.in_use(record.addresses.values()) == []
    assert not folder.path.exists()
