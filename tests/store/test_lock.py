"""The lock: one at a time, its holder named."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.errors import BadInput, LockHeld
from commcli.store.lock import exclusive

NOON = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    with exclusive(lock, "route apply", clock=lambda: NOON), pytest.raises(LockHeld) as caught:  # noqa: SIM117
        with exclusive(lock, "relay drain sg-1"):
            raise AssertionError("both inside")
    who = str(caught.value)
    assert who.startswith("locked by ")
    assert who.endswith(f"(pid {os.getpid()}) since 2026-01-01 12:00:00Z: route apply")


def test_another_process_is_kept_out_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from commcli.store.lock import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'x'): pass"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with exclusive(lock, "route apply"):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "LockHeld: locked by" in refused.stderr and "route apply" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_it_is_free_after_the_body_and_after_its_error(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    for _ in range(2):
        with pytest.raises(KeyError), exclusive(lock, "x"):
            raise KeyError
    with exclusive(lock, "y"):
        pass
    assert lock.read_bytes() == b"", "nobody's name stays in it"


def test_a_holder_that_has_not_signed_yet(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "x"):
        lock.write_bytes(b'{"who": "al')
        with pytest.raises(LockHeld, match="another command that has just begun"), exclusive(lock, "y"):
            raise AssertionError("both inside")


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "lab up"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive(lock, "lab down"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(BadInput, match="can not lock: "), exclusive(tmp_path / "state/lock", "x"):
        raise AssertionError("held")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the disk; Python turns its signal into an error.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            pytest.raises(BadInput, match="lock: can not lock: File too large"),
            exclusive(tmp_path / "lock", "x"),
        ):
            raise AssertionError("it was taken")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with exclusive(tmp_path / "lock", "x"):
        pass
