"""docs/playbooks.md names every word of playbooks with all that it takes, every key beside it and every fact."""

from __future__ import annotations

import re
from pathlib import Path

from commcli.remote.onnode import facts
from commcli.remote.steps.facts import KEYS
from commcli.remote.words import BESIDE, WORDS

DOCUMENT = Path(__file__).parents[2] / "docs/playbooks.md"


def rows(heading: str) -> list[tuple[str, str]]:
    """Name and second column of the table under a heading."""
    part = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.+?) \|", part, re.MULTILINE)


def test_the_words_of_playbooks() -> None:
    found = rows("The words")
    assert {word: set(re.findall(r"`(\w+)`", takes)) for word, takes in found} == {
        word: set(keys) for word, keys in WORDS.items()
    }
    assert [word for word, _ in found] == sorted(WORDS)


def test_what_may_stand_beside_a_word() -> None:
    assert [key for key, _ in rows("Beside the word")] == list(BESIDE)


def test_the_facts() -> None:
    found = [name for name, _ in rows("Facts")]
    assert found == [*sorted(facts.gather("/")), *KEYS]
