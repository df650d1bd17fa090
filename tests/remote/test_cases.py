"""What steps decide, from data files: facts in, changes or lines out (`cases/STEP.json`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commcli.remote.onnode import change
from commcli.remote.onnode.files import Have
from commcli.remote.onnode.step import StepFailed
from commcli.remote.steps import block, group, line, link, package, sysctl, user

Case = dict[str, Any]
FOLDER = Path(__file__).parent / "cases"


def _changes(found: list[change.Change]) -> list[Any]:
    plain = [change.as_data(each) for each in found]
    return [[part.decode() if isinstance(part, bytes) else part for part in each] for each in plain]


def _user(case: Case) -> Any:
    if case["have"] is None:
        return _changes(user.decide(case["args"], None))
    uid, first, groups, home, shell, comment = case["have"]
    return _changes(user.decide(case["args"], user.User(uid, first, tuple(groups), home, shell, comment)))


# How each step's file is read, and the word in it for what is expected.
DECIDES: dict[str, tuple[str, Callable[[Case], Any]]] = {
    "block": ("edited", lambda case: block.edited(case["lines"], case["args"])),
    "group": (
        "changes",
        lambda case: _changes(group.decide(case["args"], case["have"] and group.Group(*case["have"]))),
    ),
    "line": ("edited", lambda case: line.edited(case["lines"], case["args"])),
    "link": ("told", lambda case: link.decide(case["args"][0] and Have(*case["args"][0]), case["args"][1])),
    "package": ("changes", lambda case: _changes(package.decide(*case["args"]))),
    "sysctl": ("changes", lambda case: _changes(sysctl.decide(*case["args"]))),
    "user": ("changes", _user),
}
CASES = [
    pytest.param(path.stem, case, id=f"{path.stem}: {case['name']}")
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text())
]


@pytest.mark.parametrize(("step", "case"), CASES)
def test_case(step: str, case: Case) -> None:
    word, decide = DECIDES[step]
    if "failed" in case:
        with pytest.raises(StepFailed) as caught:
            decide(case)
        assert str(caught.value) == case["failed"]
    else:
        assert decide(case) == case[word]


@pytest.mark.parametrize("step", ["line", "block"])
def test_what_was_edited_is_as_it_is_to_be(step: str) -> None:
    edited = {"line": line.edited, "block": block.edited}[step]
    for case in json.loads((FOLDER / f"{step}.json").read_text()):
        if "edited" in case and not {"after", "before"} & case["args"].keys():
            assert edited(case["edited"], case["args"]) == case["edited"], case["name"]


def test_every_file_of_cases_is_read() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DECIDES)
