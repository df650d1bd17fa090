"""How `commcli relay serve` ends when it can not begin: wrong words are 2, what stands in a file is 3; one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def serve(*options: str, cwd: Path) -> tuple[int, str]:
    """Exit code and what was said on stderr, of a relay that never starts."""
    done = subprocess.run(
        [sys.executable, "-m", "commcli", "relay", "serve", *options],
        cwd=cwd, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("option", ["--users-file", "--secret-file", "--revoked-file"])
def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path, option: str) -> None:
    user = ["--user", "u:p"] if option == "--revoked-file" else []
    assert serve(*user, option, "absent", cwd=tmp_path) == (3, "absent: No such file or directory\n")


def test_a_bad_line_is_named_and_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("anna:p\nhunter2\n")
    assert serve("--users-file", "users", cwd=tmp_path) == (3, "users:2: a user is NAME:PASSWORD\n")


def test_a_certificate_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    words = ("--user", "u:p", "--tls-port", "5349", "--tls-cert", "typo", "--tls-key", "key")
    assert serve(*words, cwd=tmp_path) == (3, f"{tmp_path}/typo: No such file or directory\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--user", "hunter2"], "a user is NAME:PASSWORD\n"),
        ([], "no user and no secret: nobody could use this relay\n"),
    ],
)
def test_wrong_words_are_wrong_use(tmp_path: Path, options: list[str], says: str) -> None:
    assert serve(*options, cwd=tmp_path) == (2, says)
