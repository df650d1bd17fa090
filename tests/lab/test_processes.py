from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from commcli.lab import processes


def start(
    folder: Path, command: str, node: str | None = None, *, first: str = ":"
) -> subprocess.Popen[bytes]:
    """A marked shell process that has done `first` and said so."""
    environ = processes.environment(folder, node, {"PATH": os.environ["PATH"]})
    line = f"{first}; echo ready; {command}"
    child = subprocess.Popen(["/bin/sh", "-c", line], stdout=subprocess.PIPE, env=environ)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    return child


def ended(child: subprocess.Popen[bytes]) -> int:
    assert child.stdout is not None
    child.stdout.close()
    return child.wait(10)


def test_finds_the_processes_of_one_lab_and_one_node(tmp_path: Path) -> None:
    children = [
        start(tmp_path / "a", "sleep 60", "sg-1"),
        start(tmp_path / "a", "sleep 60"),
        start(tmp_path / "ab", "sleep 60", "sg-1"),
    ]
    try:
        assert {found.node for found in processes.find(tmp_path / "a")} == {"sg-1", processes.HOSTS}
        assert {found.folder for found in processes.find(tmp_path / "a", "sg-1")} == {str(tmp_path / "a")}
        assert processes.find(tmp_path / "a", "hk-1") == []
        ours = {str(tmp_path / "a"), str(tmp_path / "ab")}
        assert ours <= {found.folder for found in processes.find()}
    finally:
        for folder in ("a", "ab"):
            processes.end(tmp_path / folder, grace_s=0)
        for child in children:
            ended(child)


def test_ending_one_lab_leaves_the_other_alone(tmp_path: Path) -> None:
    one, other = start(tmp_path / "a", "sleep 60"), start(tmp_path / "ab", "sleep 60")
    assert processes.end(tmp_path / "a") == []
    assert ended(one) == -15
    assert other.poll() is None
    assert processes.end(tmp_path / "ab", grace_s=0) == []
    ended(other)


def test_who_ignores_term_is_killed(tmp_path: Path) -> None:
    child = start(tmp_path, "while :; do sleep 60; done", first="trap '' TERM")
    assert processes.end(tmp_path, grace_s=0.2) == []
    assert ended(child) == -9


def test_a_stopped_process_is_killed_too(tmp_path: Path) -> None:
    child = start(tmp_path, "kill -STOP $$")
    while "State:\tT" not in Path(f"/proc/{child.pid}/status").read_text():
        assert child.poll() is None
    assert processes.end(tmp_path, grace_s=0.2) == []
    assert ended(child) == -9


def test_a_supervisor_that_starts_again_does_not_get_away(tmp_path: Path) -> None:
    # On TERM it starts another process and leaves: one look and one signal would miss the new one.
    child = start(tmp_path, "sleep 60 & wait", first="trap 'sleep 61 & exit' TERM")
    assert processes.end(tmp_path, grace_s=0.5) == []
    ended(child)
    assert processes.find(tmp_path) == []


def test_a_daemon_is_found_by_its_marker(tmp_path: Path) -> None:
    child = start(tmp_path, "setsid -f sleep 60 >/dev/null 2>&1", "sg-1")
    ended(child)
    (daemon,) = processes.find(tmp_path, "sg-1")
    assert daemon.command.endswith("sleep 60")
    assert processes.end(tmp_path) == []
    assert processes.find(tmp_path) == []


def test_the_caller_is_never_a_match(tmp_path: Path) -> None:
    script = "import sys, pathlib; from commcli.lab import processes; print(processes.find(pathlib.Path(sys.argv[1])))"
    environ = processes.environment(tmp_path, None, os.environ)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
