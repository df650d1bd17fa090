"""Becoming root: a sudo that asks, one that does not, and those that refuse. On a shell, with a stand-in for sudo."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from commcli.fleet.secrets import Secret
from commcli.remote.sudo import Sudo, refusal

# As sudo 1.9 does: -S reads the password from stdin, three times at most; -n never asks.
SUDO = """\
#!/bin/sh
asks=%s
while [ "$1" != -- ]; do [ "$1" = -n ] && mute=1; shift; done; shift
if [ $asks = yes ]; then
    [ -n "$mute" ] && { echo 'sudo: a password is required' >&2; exit 1; }
    for tries in 1 2 3; do
        IFS= read -r word || { echo 'sudo: no password was provided' >&2; exit 1; }
        [ "$word" = 'open sesame' ] && exec "$@"
        echo 'Sorry, try again.' >&2
    done
    echo 'sudo: 3 incorrect password attempts' >&2; exit 1
fi
exec "$@"
"""


def run(
    folder: Path, sudo: Sudo, *, asks: str, line: str = "cat", given: bytes = b"data\n\n"
) -> subprocess.CompletedProcess[bytes]:
    """What a login shell makes of the command, with `given` on its stdin."""
    program = folder / "sudo"
    program.write_text(SUDO % asks)
    program.chmod(0o755)
    command, preface = sudo.command(line)
    assert b"open sesame" not in command.encode()
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command], input=preface + given, capture_output=True, env={"PATH": path}
    )


@pytest.mark.parametrize("asks", ["yes", "no"])
def test_the_password_reaches_sudo_or_nobody(tmp_path: Path, asks: str) -> None:
    done = run(tmp_path, Sudo(Secret("open sesame")), asks=asks)
    assert (done.returncode, done.stdout) == (0, b"data\n\n")


def test_without_a_password_sudo_is_not_to_ask(tmp_path: Path) -> None:
    assert run(tmp_path, Sudo(), asks="no").stdout == b"data\n\n"
    done = run(tmp_path, Sudo(), asks="yes")
    assert refusal(done.returncode, done.stderr.decode()) == "a password is required"


def test_a_wrong_password_is_told_and_nothing_runs(tmp_path: Path) -> None:
    done = run(tmp_path, Sudo(Secret("guess")), asks="yes", line="echo ran")
    assert done.stdout == b""
    assert refusal(done.returncode, done.stderr.decode()) == "3 incorrect password attempts"


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (1, "sudo: sorry, you must have a tty to run sudo", "sorry, you must have a tty to run sudo"),
        (1, "ops is not in the sudoers file.", "ops is not in the sudoers file."),
        (1, "Sorry, user ops may not run sudo on kr-1.", "Sorry, user ops may not run sudo on kr-1."),
        (127, "sh: 1: sudo: not found", "sh: 1: sudo: not found"),
        (1, "cat: nothing: No such file or directory", ""),
        (0, "sudo: unable to resolve host kr-1", ""),
        (None, "sudo: 3 incorrect password attempts", ""),
    ],
)  # fmt: skip
def test_only_what_sudo_says_is_its_refusal(status: int | None, said: str, why: str) -> None:
    assert refusal(status, said) == why
