"""`commcli probe edge` as it is typed, on nodes with the real relay and the lab's own CA."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from commcli.lab import control, faults, wan
from commcli.lab.folder import LabFolder, Record
from commcli.store.sqlite import Store
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


def relay_has_taken_it(folder: LabFolder, node: str) -> None:
    """Until the relay's log tells of the new faults file."""
    log, deadline = folder.base(node) / "log/relay.log", time.monotonic() + 20
    while "last_mile=True" not in log.read_text() and '"last_mile": true' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)


def test_every_door_from_here_and_from_a_node_and_of_a_dead_one(lab: tuple[LabFolder, Record]) -> None:
    folder, record = lab
    provision(folder)
    for words in ((), ("--from", "sg-1")):
        code, shown = typed(folder, *words)
        assert (code, shown["verdict"], shown["counts"]["good"]) == (0, "good", 9), shown
        assert {row["tls"]["verify_code"] for row in shown["doors"] if row["tls"]} == {0}
        assert all(row["given_back"] for row in shown["doors"])
    faults.set_last_mile(folder, record, "sg-1", wan.LastMile(delay_ms=100))
    relay_has_taken_it(folder, "sg-1")
    code, shown = typed(folder, "sg")
    # Over a last mile of 100 ms each way nothing can be faster than two round trips; all of it is synthetic.
    assert code == 0 and all(row["total_ms"] >= 400 and row["given_back"] for row in shown["doors"])
    with Store(folder.state / "commcli.sqlite3") as store:
        kept = store.edges_since(0)
    assert len(kept) == 21 and {row["from"] for row in kept} == {None, "sg-1"}
    control.ask(folder, "kill", node="kr-1")
    code, shown = typed(folder, "kr")
    assert (code, {row["state"] for row in shown["doors"]}) == (1, {"unreachable"})
    code, away = typed(folder, "--from", "kr-1")
    assert (code, away["kind"]) == (4, "error")
