"""`commcli probe edge` as it is typed, on nodes with the real relay and the lab's own CA."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from commcli.lab import control
from commcli.lab.folder import LabFolder, Record
from tests.lab.test_power import provision


def typed(folder: LabFolder, *words: str) -> tuple[int, Any]:
    """Exit code and the JSON document."""
    options = ["--json", "--inventory", str(folder.inventory), "--state", str(folder.state)]
    done = subprocess.run(
        [sys.executable, "-m", "commcli", "probe", "edge", *words, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


def test_every_door_from_here_and_from_a_node_and_of_a_dead_one(lab: tuple[LabFolder, Record]) -> None:
    folder, _ = lab
    provision(folder)
    for words in ((), ("--from", "sg-1")):
        code, shown = typed(folder, *words)
        assert (code, shown["verdict"], shown["counts"]["good"]) == (0, "good", 9), shown
        assert {row["tls"]["verify_code"] for row in shown["doors"] if row["tls"]} == {0}
        assert all(row["given_back"] for row in shown["doors"])
    control.ask(folder, "kill", node="kr-1")
    code, shown = typed(folder, "kr")
    assert (code, {row["state"] for row in shown["doors"]}) == (1, {"unreachable"})
    code, away = typed(folder, "--from", "kr-1")
    assert (code, away["kind"]) == (4, "error")
