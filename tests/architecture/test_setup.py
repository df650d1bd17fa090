"""What a newcomer sees whose machine lacks something: one line that names it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def set_up(path: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    """Run tools/venv.sh where only the programs in `path` exist."""
    command = ["/bin/sh", str(ROOT / "tools/venv.sh"), str(venv)]
    return subprocess.run(command, env={"PATH": str(path)}, cwd=ROOT, capture_output=True, text=True)


def ci_run(path: Path) -> subprocess.CompletedProcess[str]:
    """Run .ci/run where only the programs in `path`, bash and a few plain tools exist: it can install nothing."""
    for tool in ("bash", "dirname", "grep", "head", "id", "sed", "seq", "uname"):
        (path / tool).symlink_to(str(shutil.which(tool)))
    script = [str(path / "bash"), str(ROOT / ".ci/run")]
    return subprocess.run(script, env={"PATH": str(path)}, cwd=ROOT, capture_output=True, text=True)


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


TALKATIVE = 'case "$1" in --version) seq 100000;; *) echo "make $1";; esac'


def test_ci_comes_to_its_tests_whatever_the_tools_say_of_themselves(tmp_path: Path) -> None:
    """Such a text ended CI with SIGPIPE where only its first line was read: `make --version` in 2 runs of 100."""
    program(tmp_path, "make", TALKATIVE)
    for name in ("turnutils_uclient", "irtt", "tshark"):
        program(tmp_path, name, "seq -f 'version %g' 100000")
    done = ci_run(tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["make peers", "make test"]), done.stderr
    assert "version 1\n" in done.stdout
    assert "version 2\n" not in done.stdout


def test_ci_fails_with_its_tests_and_not_with_a_peer(tmp_path: Path) -> None:
    program(tmp_path, "make", 'case "$1" in --version) echo 4.3;; *) echo "make $1"; exit 3;; esac')
    done = ci_run(tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "make test")
    assert "make peers failed" in done.stderr
