"""The shell completions that are shipped are those of today's command line, and they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer._completion_classes import BashComplete, FishComplete, ZshComplete

from commcli import completion
from commcli.cli import NOUNS, command_line
from tests.architecture.completions import FILES, script, table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", FILES)
def test_shipped_completions_are_fresh(shell: str) -> None:
    shipped = (ROOT / "completions" / FILES[shell]).read_text()
    assert shipped == script(shell), "run `make completions`"


def test_the_shipped_table_is_fresh() -> None:
    shipped = (ROOT / "commcli" / completion.TABLE).read_text(encoding="utf-8")
    assert shipped == table(), "run `make completions`"


# Those that the table answers by itself; a file's name is the shell's own business.
LINES = (
    "", "f", "zzz", "fleet ", "fleet l", "fleet list ", "fleet list -", "fleet list --j", "fleet list --json --",
    "fleet list all --inventory ", "fleet list --inventory x --q", "fleet import x --from ", "fleet import --from c",
    "play run pl", "play run --yes -", "lab degrade --", "probe call ", "route apply --", "sla --",
)  # fmt: skip
# Those that it leaves to the command line.
LEFT = (
    "-",
    "--version f",
    "nowhere ",
    "fleet list --inventory=",
    "fleet list --nothing -",
    'fleet list "a b" -',
)


def asking(shell: str, line: str) -> dict[str, str]:
    """The environment in which `shell` asks how `commcli line` may go on."""
    words = f"commcli {line}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": words}
    return {**asked, completion.VARIABLE: f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


@pytest.mark.parametrize(
    ("shell", "kind"), [("bash", BashComplete), ("zsh", ZshComplete), ("fish", FishComplete)]
)
def test_the_table_says_what_the_command_line_says(
    shell: str, kind: type[BashComplete], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(table())
    monkeypatch.setattr(completion, "_table", lambda: told)
    command = typer.main.get_command(command_line())
    for line in LINES:
        environ = asking(shell, line)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        slow = kind(command, {}, "commcli", completion.VARIABLE).complete()
        assert completion.answer(environ) == (f"{slow}\n", 0), line
    for line in LEFT:
        assert completion.answer(asking(shell, line)) is None, line


def test_fish_is_told_whether_there_is_anything_but_files() -> None:
    for line, code in (("fleet ", 0), ("fleet zzz", 1)):
        environ = {**asking("fish", line), "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
        assert completion.answer(environ) == ("", code)


HEAVY = (
    "typer",
    "rich",
    "asyncssh",
    "jinja2",
    "yaml",
    "numpy",
    "aiortc",
    "cryptography",
    "asyncio",
    "sqlite3",
)


def loaded(*arguments: str, **environ: str) -> set[str]:
    """The modules that a command line loads."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "commcli", *arguments],
        cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if "|" in row}


def test_what_a_key_press_and_the_version_do_not_load() -> None:
    asked = loaded(**asking("bash", "fleet li"))
    version = loaded("--version")
    assert "commcli.completion" in asked & version
    for modules in (asked, version):
        assert not modules.intersection((*HEAVY, "commcli.cli", "commcli.fleet", "dataclasses"))


def test_what_help_does_not_load() -> None:
    modules = loaded("--help")
    assert "typer" in modules
    assert not modules.intersection(set(HEAVY) - {"typer"})


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
