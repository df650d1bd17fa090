"""Secrets print as *** wherever they land, and are read from where they are."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import Secret, SecretRef

VALUE = "hunter2"


@dataclass
class Holder:
    secret: Secret


def test_it_shows_itself_nowhere() -> None:
    secret = Secret(VALUE)
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>9}",
        "%s" % secret,  # noqa: UP031  # what others' logging does
        f"{[secret]}",
    ]
    shown += [repr(Holder(secret)), str({"a": (secret,)}), f"{secret:<5}"]
    shown.append(logging.LogRecord("n", 0, "f", 1, "%s", (secret,), None).getMessage())
    assert all(VALUE not in text and "***" in text for text in shown)
    assert secret.reveal() == VALUE


def test_it_does_not_leave_by_accident() -> None:
    secret = Secret(VALUE)
    with pytest.raises(TypeError):
        json.dumps({"a": secret})
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert copy.deepcopy({"a": secret})["a"] is secret


def test_equality_is_that_of_the_values() -> None:
    assert Secret("ä") == Secret("ä") and hash(Secret("ä")) == hash(Secret("ä"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_read_from_a_file_without_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "turn"
    file.write_text(" two words \n")
    assert SecretRef("turn", file=file).read().reveal() == " two words "


def test_read_from_the_environment() -> None:
    assert SecretRef("turn", env="PATH").read() == Secret(os.environ["PATH"])


def test_read_from_a_command_that_no_shell_sees() -> None:
    command = (sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; `id`")
    assert SecretRef("turn", command=command).read().reveal() == "$HOME; `id`"


def _fails(code: str) -> SecretRef:
    return SecretRef("turn", command=(sys.executable, "-c", code, VALUE))


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (
            SecretRef("turn", file=Path("/nowhere/turn")),
            "secret turn: file /nowhere/turn: No such file or directory",
        ),
        (SecretRef("turn", file=Path("/")), "secret turn: file /: Is a directory"),
        (
            SecretRef("turn", env="COMMCLI_UNSET_"),
            "secret turn: environment variable COMMCLI_UNSET_ is not set",
        ),
        (
            SecretRef("turn", command=("/nowhere/pass",)),
            "secret turn: command /nowhere/pass: No such file or directory",
        ),
        (_fails(f"print('{VALUE}'); exit(4)"), f"secret turn: command {sys.executable} ended with status 4"),
        (_fails("print()"), f"secret turn: command {sys.executable} is empty"),
        (
            _fails(r"import os; os.write(1, b'\xff')"),
            f"secret turn: command {sys.executable} did not print UTF-8 text",
        ),
        (SecretRef("turn"), "secret turn: neither file nor env nor command is given"),
    ],
)
def test_what_can_not_be_read_is_told_without_arguments_or_values(ref: SecretRef, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        ref.read()
    assert str(caught.value) == reason
    assert VALUE not in "".join(traceback.format_exception(caught.value))
