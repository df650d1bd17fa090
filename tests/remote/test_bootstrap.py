"""A node without python3 gets one by shell, where the play says so."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from commcli.errors import BadInput
from commcli.remote import answer
from commcli.remote.outcome import Outcome
from commcli.remote.run import PlayResult
from commcli.report.play import DRAW
from tests.remote import plays
from tests.remote.asyncserver import Server

STEPS = """
steps:
  - name: one
    file: {path: "{{ base }}/one", content: "1"}
"""


async def ran(server: Server, tmp_path: Path, *lines: str, check: bool = False) -> Outcome[PlayResult]:
    """A play with this bootstrap, on a node whose python3 is to be `tmp_path`/python3."""
    node = server.host.node(python=str(tmp_path / "python3"))
    Path(node.base).mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    text = "name: bare\nbootstrap:\n" + "".join(f"  - '{line}'\n" for line in lines) + STEPS
    [outcome] = await plays.run(server.host.fleet(node), plays.play(tmp_path, text), check=check)
    return outcome


def install(tmp_path: Path) -> str:
    return f"ln -s {sys.executable} {tmp_path}/python3"


async def test_a_bare_node_gets_its_python_and_then_the_play(server: Server, tmp_path: Path) -> None:
    [first, again] = [await ran(server, tmp_path, "true", install(tmp_path)) for _ in range(2)]
    assert plays.states(first) == {"bootstrap": "changed", "one": "changed"}
    assert plays.states(again) == {"one": "ok"}, again.reason


async def test_check_only_says_that_it_would(server: Server, tmp_path: Path) -> None:
    outcome = await ran(server, tmp_path, install(tmp_path), check=True)
    assert (outcome.state, plays.states(outcome)) == ("done", {"bootstrap": "changed"})
    assert outcome.value is not None and install(tmp_path) in outcome.value.steps[0].text
    assert not (tmp_path / "python3").exists()


async def test_the_first_line_that_fails_ends_it(server: Server, tmp_path: Path) -> None:
    outcome = await ran(server, tmp_path, "echo no such package >&2; exit 100", install(tmp_path))
    assert (outcome.state, outcome.code) == ("failed", 1)
    assert outcome.reason == "bootstrap: exit status 100: no such package"
    assert plays.states(outcome) == {"bootstrap": "failed"}
    assert not (tmp_path / "python3").is_symlink()


async def test_one_that_brings_no_python_is_told(server: Server, tmp_path: Path) -> None:
    outcome = await ran(server, tmp_path, "true")
    assert outcome.reason == f"no python3 on the node (looked at {tmp_path}/python3)"


def test_show_tells_it(tmp_path: Path) -> None:
    play = plays.play(tmp_path, "name: bare\nbootstrap: [apk add python3]\n" + STEPS)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(DRAW["show"](answer.shown(play)))
    assert "where there is no python3: apk add python3" in console.export_text()


def test_nothing_in_it_is_rendered(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"play\.yml:2: bootstrap is shell as it stands"):
        plays.play(tmp_path, 'name: bare\nbootstrap: ["touch {{ base }}"]\n' + STEPS)
