"""Cron and a person at once: both are served, nothing twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from commcli.store.sqlite import Store

READER = """
import sys
from pathlib import Path
from commcli.store.sqlite import Store
from tests.store.writer import window
sys.stdin.readline()
new = 0
for start in range(0, 400, 10):
    with Store(Path(sys.argv[1]), clock=lambda: 1000.0) as store:
        new += store.record_mesh("sg-1", [window("hk-1", start), window("de-1", start)])
        store.audit("probe mesh", None, "done", {"start": start})
print(new)
"""


def test_two_processes_that_read_the_same_windows(tmp_path: Path) -> None:
    path = tmp_path / "commcli.sqlite3"
    command = [sys.executable, "-c", READER, str(path)]
    pair = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [int(child.communicate()[0]) for child in pair]
    assert [child.returncode for child in pair] == [0, 0]
    assert sum(told) == 80, "each window was new to exactly one of them"
    with Store(path) as store:
        assert len(store.mesh()) == 80
        assert len(store.audits(limit=1000)) == 80


def test_what_is_done_outlives_a_power_cut_too(tmp_path: Path) -> None:
    with Store(tmp_path / "commcli.sqlite3") as store:
        pragmas = [
            store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    assert pragmas == ["wal", 2], "WAL, and a sync at every commit (FULL)"
