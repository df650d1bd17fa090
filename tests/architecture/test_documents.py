"""What the documents tell a reader to type exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from commcli.cli import command_line

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/turn.md")


def typed_lines(text: str) -> Iterator[str]:
    """Lines of code blocks and the spans of code in prose."""
    for block in re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, flags=re.S | re.M):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))


def commands(text: str) -> list[list[str]]:
    """Every `commcli ...` command line in `text`, as words after `commcli`."""
    found = []
    for line in typed_lines(text):
        for match in re.finditer(r"(?:^|[\s/;|&])commcli ((?:[a-z]|--)[^|;&#>]*)", line):
            found.append(shlex.split(match[1]))
    return found


def unknown(words: list[str]) -> str | None:
    """The first word of a command line that commcli does not know, or None."""
    command: Any = get_command(command_line())
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        if word not in command.commands:
            return word
        command = command.commands[word]
    options = {spelling for p in command.params for spelling in [*p.opts, *p.secondary_opts]} | {"--help"}
    for word in rest[: rest.index("--")] if "--" in rest else rest:  # what comes after is another's command
        if word.startswith("-") and word.split("=")[0] not in options:
            return word
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_exist(document: str) -> None:
    wrong = [(unknown(words), words) for words in commands((ROOT / document).read_text()) if unknown(words)]
    assert wrong == []


def test_the_reader_finds_commands_and_errors() -> None:
    text = "Type `commcli fleet list --json`.\n```sh\n* * * * * /opt/bin/commcli health chck --plugin\n```\n"
    assert commands(text) == [["health", "chck", "--plugin"], ["fleet", "list", "--json"]]
    assert unknown(["nonsense"]) == "nonsense"
    assert unknown(["--nonsense"]) == "--nonsense"
    assert unknown(["--version"]) is None
    assert unknown(["run", "all", "--", "df", "-h"]) is None and unknown(["run", "all", "-h", "--"]) == "-h"


def test_readme_shows_most_of_the_command_line() -> None:
    shown = {words[0] for words in commands((ROOT / "README.md").read_text()) if words}
    assert {"fleet", "play", "health", "probe", "route", "lab", "relay"} <= shown


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {
        target
        for document in DOCUMENTS
        for line in typed_lines((ROOT / document).read_text())
        for target in re.findall(r"^\s*make ([a-z-]+)", line)
    }
    assert named
    assert named <= targets


def test_documented_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        page = ROOT / document
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_documented_sections_exist() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
