"""What a newcomer sees whose machine lacks something: one line that names it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def set_up(path: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    """Run tools/venv.sh where only the programs in `path` exist."""
    command = ["/bin/sh", str(ROOT / "tools/venv.sh"), str(venv)]
    return subprocess.run(command, env={"PATH": str(path)}, cwd=ROOT, capture_output=True, text=True)


def program(path: Path, name: str, body: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{body}\n")
    (path / name).chmod(0o755)


OLD = 'case "$2" in *version_info*) exit 1;; esac'
NO_VENV = 'case "$2" in *ensurepip*) exit 1;; esac'
CASES = {
    "no python": ("", "Python 3.11 or newer is missing: install python3.11 (or newer) and put it on PATH."),
    "an old python": (
        OLD,
        "Python 3.11 or newer is missing: install python3.11 (or newer) and put it on PATH.",
    ),
    "no venv": (
        NO_VENV,
        "python3 lacks the venv module: install its package (Debian, Ubuntu: python3-venv).",
    ),
}


@pytest.mark.parametrize(("python3", "message"), CASES.values(), ids=CASES)
def test_what_is_missing_is_one_line(tmp_path: Path, python3: str, message: str) -> None:
    if python3:
        program(tmp_path, "python3", python3)
    done = set_up(tmp_path, tmp_path / "venv")
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", f"commcli: {message}\n")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_parse(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
