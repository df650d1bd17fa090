"""SIGKILL at any moment loses nothing that was reported as done, and leaves nothing half written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.store.lock import exclusive
from commcli.store.sqlite import Store


def _killed_after(lines: int, path: Path) -> list[str]:
    """Run the writer, SIGKILL it once it has reported so many lines; all that it has reported until its death."""
    command = [sys.executable, "-m", "tests.store.writer", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        # What it had said already, in the pipe; the last line may be cut.
        said += child.stdout.readlines()
    assert child.returncode == -9
    return [line for line in said if line.endswith("\n")]


# Odd and even, so that the kill falls now inside an audited change and now after it.
@pytest.mark.parametrize("lines", [1, 2, 7, 30, 61])
def test_what_was_reported_is_there(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "state/commcli.sqlite3"
    said = _killed_after(lines, path)
    done = [int(line.split()[0]) for line in said if not line.startswith("audit")]
    begun = [int(line.split()[1]) for line in said if line.startswith("audit")]
    with Store(path) as store:
        documents = {call["n"] for call in store.calls(limit=10**6)}
        starts = [row["start"] for row in store.mesh()]
        audits = {row["detail"]["serial"]: row for row in store.audits(limit=10**6)}
        tables = {row["serial"]: row for row in store.tables(limit=10**6)}
        assert documents >= set(begun)
        assert all(starts.count(n * 10) == 3 for n in begun)
        assert all(tables[n]["nodes"] == 2 for n in begun)
        assert all(audits[n]["result"] == "done" for n in done)
        assert set(audits) >= set(begun), "a change that was begun has its row"
        assert all(row["nodes"] == 2 for row in tables.values()), "no table without its shards"
        assert set(starts) == {start for start in starts if starts.count(start) == 3}, "no half of a reading"
        # And life goes on.
        assert store.record_mesh("sg-1", []) == 0
        store.record_table(10**6, b"m", "s", {}, "published")
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from commcli.store.lock import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'route apply'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        child.kill()
    assert lock.read_text(), "its name is still in the file, and means nothing"
    with exclusive(lock, "relay drain"):
        pass
