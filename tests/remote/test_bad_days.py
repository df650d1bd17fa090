"""Streams that break off at any byte, noise before the hello, old pythons: never a success, never a hang."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from commcli.remote import program
from commcli.remote.outcome import Outcome
from commcli.remote.run import PlayResult
from tests.architecture import node_python
from tests.remote import plays
from tests.remote.asyncserver import Server

PLAY = """
name: small
steps:
  - name: one
    file: {path: "{{ base }}/one", content: "1"}
  - name: two
    command: {argv: [cat, "{{ base }}/one"], changed_when: "false"}
"""


async def ran(server: Server, tmp_path: Path, python: str | None = None) -> Outcome[PlayResult]:
    node = server.host.node(python=python) if python else server.host.node()
    Path(node.base).mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    [outcome] = await plays.run(server.host.fleet(node), plays.play(tmp_path, PLAY))
    return outcome


async def test_the_whole_stream_is_a_success(server: Server, tmp_path: Path) -> None:
    outcome = await ran(server, tmp_path)
    assert (outcome.state, plays.states(outcome)) == ("done", {"one": "changed", "two": "ok"})


async def test_a_stream_cut_at_any_byte_is_lost(server: Server, tmp_path: Path) -> None:
    for cut in (0, 1, 80, 300, 600, 750, 800, 850, 900, 950):
        server.cut_after = cut
        outcome = await ran(server, tmp_path)
        if outcome.state == "done":  # the stream was shorter than this
            assert cut > 600
            break
        assert outcome.state == "lost", (cut, outcome)


HANDLED = """
name: handled
steps:
  - name: folder
    directory: {path: "{{ base }}/etc"}
  - name: one
    file: {path: "{{ base }}/etc/one", content: "{{ content }}"}
    notify: note it
  - name: two
    file: {path: "{{ base }}/etc/two", content: "{{ content }}"}
handlers:
  - name: note it
    command: {argv: [cp, "{{ base }}/etc/one", "{{ base }}/etc/noted"]}
"""


async def test_a_play_cut_at_any_line_is_lost_and_a_rerun_completes(server: Server, tmp_path: Path) -> None:
    node = server.host.node()
    etc, play = Path(node.base) / "etc", plays.play(tmp_path, HANDLED)
    Path(node.base).mkdir(parents=True)  # noqa: ASYNC240
    lines = 0
    while True:
        before, content = f"{lines:02}" * 30_000, f"{lines + 1:02}" * 30_000
        server.cut_after_lines = lines
        [cut] = await plays.run(server.host.fleet(node), play, content=content)
        if cut.state == "done":
            break
        assert (cut.state, cut.code) == ("lost", 4), (lines, cut)
        assert "ended" in cut.reason and "\n" not in cut.reason
        await server.gone()
        # What lies aside (.one.commcli-…) is nobody's file; the next write takes it away.
        for file in etc.glob("[!.]*"):
            assert file.read_text() in (before, content), (lines, file)
        server.cut_after_lines = None
        [again] = await plays.run(server.host.fleet(node), play, content=content)
        assert again.state == "done", (lines, again.reason)
        whole = {file.name: file.read_text() for file in etc.iterdir()}
        assert whole == dict.fromkeys(("one", "two", "noted"), content), lines
        lines += 1
    # hello, facts, two a step, end
    assert lines == 3 + 2 * len(play.steps)


SKEWED = """#!/bin/sh
exec {python} -IS -c 'import sys, time
right = time.time
time.time = lambda: right() + {ahead_s}
exec(sys.argv.pop(1))' "$3" "$4" "$5"
"""


@pytest.mark.parametrize("ahead_s", [-20 * 365 * 86400, 86400])
async def test_a_clock_that_is_off_is_a_fact_and_no_trouble(
    server: Server, tmp_path: Path, ahead_s: int
) -> None:
    skewed = tmp_path / "python3"
    skewed.write_text(SKEWED.format(python=sys.executable, ahead_s=ahead_s))
    skewed.chmod(0o755)
    for state in ("changed", "ok"):
        outcome = await ran(server, tmp_path, python=str(skewed))
        assert (outcome.state, plays.states(outcome)["one"]) == ("done", state)
        assert outcome.value is not None and abs(outcome.value.facts["clock_ahead_s"] - ahead_s) < 3600


NOISE = 'echo "Welcome! {\\"hello\\": 1}"; echo more >&2; '


async def test_what_a_login_shell_prints_is_dropped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = program.command_line

    def noisy(python: str | None, nonce: str, *, site: bool) -> str:
        return NOISE + plain(python, nonce, site=site)

    monkeypatch.setattr(program, "command_line", noisy)  # the server's shell has no rc file to put it in
    assert (await ran(server, tmp_path)).state == "done"


async def test_a_line_before_the_marker_is_dropped_and_not_echoed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = program._wire

    def with_password(*args: object) -> list[bytes]:
        return [b"sudo-password\n", *plain(*args)]  # type: ignore[arg-type]

    monkeypatch.setattr(program, "_wire", with_password)
    outcome = await ran(server, tmp_path)
    assert outcome.state == "done" and "sudo-password" not in repr(outcome)


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "2.7"])
async def test_a_real_old_python_says_so(server: Server, tmp_path: Path, version: str) -> None:
    outcome = await ran(server, tmp_path, python=a_python(version))
    assert outcome.state == "failed" and outcome.code == 1
    assert f"is python {version}." in outcome.reason or version == "2.7"
    assert "\n" not in outcome.reason


async def test_the_oldest_python_of_a_node_runs_everything(server: Server, tmp_path: Path) -> None:
    outcome = await ran(server, tmp_path, python=a_python("3.9"))
    assert outcome.state == "done", outcome.reason
    assert outcome.value is not None and outcome.value.facts["python_version"].startswith("3.9.")


async def test_an_old_python_first_in_the_search_is_passed_over(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PYTHONS", (a_python("3.6"), shutil.which("python3") or ""))
    node = server.host.node(python=None)
    Path(node.base).mkdir(parents=True)  # noqa: ASYNC240
    [outcome] = await plays.run(server.host.fleet(node), plays.play(tmp_path, PLAY))
    assert outcome.state == "done", outcome.reason


def a_python(version: str) -> str:
    """A python of this version, or a loud skip."""
    return node_python.a_python(version) or pytest.skip(f"no python{version} here to be a node's")


async def test_two_hundred_kilobytes_of_results_arrive(server: Server, tmp_path: Path) -> None:
    node = server.host.node()
    Path(node.base).mkdir(parents=True)  # noqa: ASYNC240
    text = PLAY + '  - name: talk\n    command: {argv: [seq, "30000"], changed_when: "false"}\n'
    async with asyncio.timeout(60):
        [outcome] = await plays.run(server.host.fleet(node), plays.play(tmp_path, text))
    assert outcome.value is not None
    talk = outcome.value.steps[-1].result["stdout"]
    assert talk.startswith("1\n2\n") and talk.endswith("30000") and "bytes cut" in talk
