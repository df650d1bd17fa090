"""A run that skips something says so, loudly, at its end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOME_TESTS = """
import pytest

def test_here(): pass

@pytest.mark.skipif(True, reason="no coturn: apt install coturn")
def test_elsewhere(): pass

def test_also_elsewhere(): pytest.skip("no coturn: apt install coturn")
"""


def run(folder: Path) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(folder),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_skip_is_named_with_its_reason(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    lines = run(tmp_path).splitlines()
    start = next(
        number for number, line in enumerate(lines) if "2 SKIPPED: these were NOT tested here" in line
    )
    assert lines[start + 1 : start + 4] == [
        "SKIPPED (2): no coturn: apt install coturn",
        "    test_some.py::test_elsewhere",
        "    test_some.py::test_also_elsewhere",
    ]
    assert "1 passed, 2 skipped" in lines[-1], "pytest's own summary stays the last line"


def test_nothing_is_said_when_nothing_is_skipped(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text("def test_here(): pass\n")
    assert "SKIPPED" not in run(tmp_path)
