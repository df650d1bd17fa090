"""The shell completions that are shipped are those of today's command line, and they answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.cli import NOUNS
from tests.architecture.completions import FILES, script

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", FILES)
def test_shipped_completions_are_fresh(shell: str) -> None:
    shipped = (ROOT / "completions" / FILES[shell]).read_text()
    assert shipped == script(shell), "run `make completions`"


def complete(words: str) -> set[str]:
    """What bash would offer for the last word of `words`."""
    environ = os.environ | {
        "_COMMCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "commcli"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_nouns_complete() -> None:
    assert set(NOUNS) <= complete("commcli ")


def test_verbs_complete() -> None:
    assert "list" in complete("commcli fleet l")
