"""One line and a status of 0 to 3, whatever happens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.health.answer import document
from commcli.health.facts import Disk, Facts
from commcli.health.judge import Limits
from commcli.health.plugin import line, unknown
from tests.health.nodes import FLEET, GIB, HEALTHY, VERSION, away, node, relay

LOW = replace(HEALTHY, disk=Disk(GIB - 1, 9 * GIB))
CASES: list[tuple[Sequence[Facts], int, str]] = [
    (
        [HEALTHY, HEALTHY],
        0,
        "OK - example: 2 nodes: 2 ok | ok=2;;;0;2 warn=0;0;;0;2 fail=0;;0;0;2 unreachable=0;;0;0;2",
    ),
    (
        [HEALTHY, LOW],
        1,
        "WARNING - example: 2 nodes: 1 ok, 1 warn; disk nearly full (sg-1)"
        " | ok=1;;;0;2 warn=1;0;;0;2 fail=0;;0;0;2 unreachable=0;;0;0;2",
    ),
    (
        [HEALTHY, relay(reload_refused="no 'realm'")],
        1,
        "WARNING - example: 2 nodes: 1 ok, 1 warn; reload refused: no 'realm' (sg-1)"
        " | ok=1;;;0;2 warn=1;0;;0;2 fail=0;;0;0;2 unreachable=0;;0;0;2",
    ),
    (
        [away("ae-1", "a | bar\nand a line"), LOW],
        2,
        "CRITICAL - example: 2 nodes: 1 warn, 1 unreachable; unreachable: a / bar and a line (ae-1);"
        " disk nearly full (sg-1) | ok=0;;;0;2 warn=1;0;;0;2 fail=0;;0;0;2 unreachable=1;;0;0;2",
    ),
]


@pytest.mark.parametrize(("known", "status", "text"), CASES, ids=["ok", "warning", "refused", "critical"])
def test_line(known: Sequence[Facts], status: int, text: str) -> None:
    nodes = [node(name) for name in ("ae-1", "sg-1")]
    assert line(document(FLEET, nodes, known, Limits(), VERSION)) == (status, text)


def test_no_answer_is_unknown() -> None:
    assert unknown("inventory: a:1: bad\nb:2: worse") == (3, "UNKNOWN - inventory: a:1: bad b:2: worse")


BAD_USE: dict[str, list[str]] = {
    "unknown option": ["health", "check", "--plugin", "--bogus"],
    "unknown command": ["health", "chekc", "--plugin"],
    "no inventory": ["health", "check", "--plugin", "--inventory", "nowhere"],
    "bad selector": ["health", "check", "region:nowhere", "--plugin", "--inventory", "inventory"],
}


@pytest.mark.parametrize("arguments", BAD_USE.values(), ids=BAD_USE)
def test_wrong_use_is_unknown_too(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "commcli", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 3
    assert re.fullmatch(r"UNKNOWN - [^\n|]+\n", done.stdout)


@pytest.mark.parametrize(("arguments", "code"), [(["health", "check", "--plugin"], 3), (["--help"], 70)])
def test_an_installation_that_does_not_start(tmp_path: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('broken wheel')")
    root = Path(__file__).parents[2]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{root}"}
    command = [sys.executable, "-m", "commcli", *arguments]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == ("UNKNOWN - commcli does not start: broken wheel\n" if code == 3 else "")
    assert "broken wheel" in done.stderr
