"""Whole plays from data files: facts and what is on the node in, what became of each step and what was run out.

`cases/plays/FILE.yml` is a list of cases: `play` (steps as text, or a file of playbooks/), `sources` and `archives`
(local files beside it), `variables`, `secrets`, `blobs`, `facts`, `files` (path in the node's folder -> content, null
for a folder), `commands`, `relay` and `held` (fakenode.py), `runs`: one after the other, each with `check`, `tags`,
`variables`, and what is to come of it: `states` ("step: state", an item of a loop in brackets), `changed` (the steps
that did), `ran`, `told` (step -> text), `diff`, `files`, `absent`, `again` (attempts), `fetched`.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet import yamlfile
from commcli.fleet.model import Node, SshTarget
from commcli.fleet.secrets import Secret
from commcli.remote import playbook, runid, tags
from commcli.remote.compile import compile_play
from commcli.remote.play import Play
from commcli.remote.words import WORDS
from tests.remote.fakenode import Channel, FakeNode

FOLDER = Path(__file__).parent / "cases/plays"
PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
OF_CASES = {
    "name", "play", "sources", "archives", "variables", "secrets", "blobs", "facts", "files", "commands", "relay",
    "held", "runs",
}  # fmt: skip
ASKED = ("states", "changed", "ran", "told", "again", "fetched", "diff")
OF_RUNS = {*ASKED, "check", "tags", "files", "variables", "absent"}


def _cases() -> Any:
    for path in sorted(FOLDER.glob("*.yml")):
        problems = yamlfile.Problems()
        found: Any = yamlfile.read(path, problems)
        problems.raise_if_any()
        for case in found:
            yield pytest.param(case, id=f"{path.stem}: {case['name']}")


@pytest.mark.parametrize("case", list(_cases()))
def test_case(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(case) <= OF_CASES and all(set(run) <= OF_RUNS for run in case["runs"])
    play = _play(case, tmp_path)
    with contextlib.closing(FakeNode(tmp_path, case)) as node:
        monkeypatch.setenv("PATH", node.path)
        _runs(case, play, node)


def _runs(case: dict[str, Any], play: Play, node: FakeNode) -> None:
    before: list[str] = []
    for run in case["runs"]:
        variables = {
            **case.get("variables", {}),
            **run.get("variables", {}),
            **{name: Secret(value) for name, value in case.get("secrets", {}).items()},
            **{name: value.encode() for name, value in case.get("blobs", {}).items()},
        }
        chosen = tags.select(play, run.get("tags", ()))
        target = Node("sg-1", "sgp", "sg", "192.0.2.1", SshTarget("192.0.2.1", "ops"), base=str(node.base))
        how: Any = {"check": run.get("check", False), "diff": "diff" in run, "run": runid.new()}
        plan = compile_play(chosen, target, variables, **how)
        channel = node.play(plan)
        ran = node.ran()[len(before) :]
        before = node.ran()
        assert _found(node, channel, plan.body["steps"], ran, run) == {key: run[key] for key in _asked(run)}
        for name, content in run.get("files", {}).items():
            assert (node.base / name).read_text() == content
        for name in run.get("absent", ()):
            assert not (node.base / name).exists()


def _asked(run: dict[str, Any]) -> list[str]:
    return [key for key in ASKED if key in run]


def _play(case: dict[str, Any], folder: Path) -> Play:
    if case["play"].endswith(".yml"):
        return playbook.load(PLAYBOOKS / case["play"])
    for name, text in case.get("sources", {}).items():
        (folder / name).write_text(text)
    for name, members in case.get("archives", {}).items():
        with tarfile.open(folder / name, "w") as archive:
            for member, text in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    path = folder / "play.yml"
    path.write_text(f"name: case\n{case['play']}")
    return playbook.load(path)


def _found(
    node: FakeNode, channel: Channel, steps: list[Any], ran: list[str], run: dict[str, Any]
) -> dict[str, Any]:
    """What came of a run, as far as the case asks for it."""
    done = [(_label(steps[told["step"]]), told) for told in channel.messages if "step" in told]
    found: dict[str, Any] = {
        "states": [f"{label}: {told['state']}" for label, told in done],
        "changed": [label for label, told in done if told["state"] == "changed"],
        "ran": ran,
        "told": {label: node.nameless(told["text"]) for label, told in done if label in run.get("told", ())},
        "again": [
            f"{told['attempt']} of {told['of']}: {told['text']}"
            for told in channel.messages
            if "again" in told
        ],
        "fetched": b"".join(channel.pieces).decode(),
        "diff": {label: node.nameless(told["diff"]) for label, told in done if label in run.get("diff", ())},
    }
    return {key: found[key] for key in _asked(run)}


def _label(step: dict[str, Any]) -> str:
    item = step.get("loop", {}).get("label")
    return str(step["name"]) + (f" [{item}]" if item is not None else "")


def test_every_word_has_a_case() -> None:
    plays = [_text_of(param.values[0]["play"]) for param in _cases()]
    missing = [
        word for word in WORDS if not any(f"{word}: {{" in text or f"{word}:\n" in text for text in plays)
    ]
    assert missing == []


def _text_of(play: str) -> str:
    return (PLAYBOOKS / play).read_text() if play.endswith(".yml") else play
