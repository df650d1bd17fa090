"""Conditions as a table: text, values, answer."""

from __future__ import annotations

import pytest

from commcli.remote.onnode.condition import ConditionError, asked, holds, names, parse

VALUES = {
    "facts": {"uid": 0, "os": "debian", "tags": ["a"], "free": 12.5, "none": None},
    "said": {"stdout": "x\ny"},
}

HOLD = [
    ("facts.uid == 0", True),
    ("facts.uid != 0", False),
    ("facts['os'] in ['debian', 'ubuntu']", True),
    ("facts.os not in ('alpine',)", True),
    ("'a' in facts.tags and not facts.tags[5]", True),
    ("facts.tags[-1] == 'a'", True),
    ("facts.absent == null", True),
    ("facts.absent.deeper is none", True),
    ("facts.free > -1", True),
    ("0 < facts.free <= 12", False),
    ("true or nobody.asks", True),
    ("false", False),
    ("'y' in said.stdout", True),
]
REFUSED = [
    "__import__('os')",
    "facts.uid.__class__()",
    "[x for x in facts]",
    "lambda: 1",
    "facts.uid + 1 == 1",
    "f'{facts}'",
    "facts[0:2]",
    "facts[facts.uid]",
    "(y := 1)",
    "a if b else c",
    "not",
    "",
    "facts.uid = 0",
]
UNDECIDED = [
    ("nobody == 1", "unknown name 'nobody'"),
    ("facts.os < 3", "not supported"),
    ("1 in facts.uid", "not iterable"),
]


@pytest.mark.parametrize(("text", "answer"), HOLD)
def test_holds(text: str, answer: bool) -> None:
    assert holds(text, VALUES) is answer


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(ConditionError):
        parse(text)


@pytest.mark.parametrize(("text", "reason"), UNDECIDED)
def test_undecided(text: str, reason: str) -> None:
    with pytest.raises(ConditionError, match=reason):
        holds(text, VALUES)


def test_names() -> None:
    assert names("facts.uid == 0 and said.stdout == other or true") == {"facts", "said", "other"}


def test_asked_names_members_too() -> None:
    assert asked("facts.paths['/x'].kind is null and said.stdout == other") == {
        "facts", "facts.paths", "said", "said.stdout", "other",
    }  # fmt: skip
