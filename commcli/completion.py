"""The words that a shell completes a command line with, from a table: before anything else of commcli is loaded.

A key press must not wait for the imports of a whole command line. The table (completion.json) is made by `make
completions` from the command line itself, whose own completion answers whatever is not plain here: both say the same.

A command is {"commands": {name: [command, help]}} or {"options": [option], "arguments": [[takes, many]]}; an option is
{"names": [[name, help]], "takes": takes, "many": bool}; takes is null (a flag) or the words that it may be, [] being
anything. A help is two texts, as zsh and as fish want it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "_COMMCLI_COMPLETE"
TABLE = "completion.json"
_SHELLS = ("complete_bash", "complete_zsh", "complete_fish")
_NOT_PLAIN = frozenset("\"'\\$`:=")

Item = tuple[str, Sequence[str]]  # a word and its help, for zsh and for fish


def answer(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """What to print for the shell that asks, and the exit code; None: the command line itself is to be asked."""
    shell = environ.get(VARIABLE)
    if shell not in _SHELLS:
        return None
    asked = _asked(shell, environ)
    if asked is None:
        return None
    try:
        items = items_of(_table(), *asked)
    except (OSError, ValueError):
        return None
    return None if items is None else _shown(shell, environ, items)


def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(Path(__file__).with_name(TABLE).read_text(encoding="utf-8"))
    return table


def _asked(shell: str, environ: Mapping[str, str]) -> tuple[list[str], str] | None:
    """The words that are there, and the one to complete; None if they are not plain."""
    line = environ.get("COMP_WORDS" if shell == "complete_bash" else "_TYPER_COMPLETE_ARGS", "")
    if not line.isprintable() or _NOT_PLAIN & set(line):
        return None
    words = line.split()
    if shell != "complete_bash":
        whole = line.endswith(" ") or len(words) < 2
        return (words[1:], "") if whole else (words[1:-1], words[-1])
    try:
        at = int(environ["COMP_CWORD"])
    except (KeyError, ValueError):
        return None
    return (words[1:at], words[at] if at < len(words) else "") if at > 0 else None


def items_of(table: Mapping[str, Any], words: Sequence[str], incomplete: str) -> list[Item] | None:
    """What may stand for `incomplete` after these words; None where that is not plain."""
    command, depth = table, 0
    while "commands" in command and depth < len(words):
        if words[depth] not in command["commands"]:
            return None
        command, depth = command["commands"][words[depth]][0], depth + 1
    if "commands" in command:
        if incomplete[:1] == "-":
            return None
        every = ((name, told) for name, (_, told) in command["commands"].items())
        return [(name, told) for name, told in every if name.startswith(incomplete)]
    return _of_verb(command, words[depth:], incomplete)


def _of_verb(command: Mapping[str, Any], words: Sequence[str], incomplete: str) -> list[Item] | None:
    by_name = {name: option for option in command["options"] for name, _ in option["names"]}
    given: list[Mapping[str, Any]] = []
    places, waiting = 0, None  # arguments that are there; the option whose value is to come
    for word in words:
        if waiting is not None:
            waiting = None
        elif word[:1] != "-" or word == "-":
            places += 1
        elif word not in by_name:
            return None
        else:
            given.append(by_name[word])
            waiting = by_name[word] if by_name[word]["takes"] is not None else None
    if waiting is not None:
        return None if incomplete[:1] == "-" else _values(waiting["takes"], incomplete)
    if incomplete[:1] == "-":
        left = [option for option in command["options"] if option["many"] or option not in given]
        every = (item for option in left for item in option["names"])
        return [(name, told) for name, told in every if name.startswith(incomplete)]
    for number, (takes, many) in enumerate(command["arguments"]):
        if many or number >= places:
            return _values(takes, incomplete)
    return []


def _values(takes: Sequence[str], incomplete: str) -> list[Item]:
    return [(word, ()) for word in takes if word.startswith(incomplete)]


def _shown(shell: str, environ: Mapping[str, str], items: Sequence[Item]) -> tuple[str, int] | None:
    if shell == "complete_bash":
        return "\n".join(word for word, _ in items) + "\n", 0
    if shell == "complete_zsh":
        rows = "\n".join(f'"{word}":"{told[0]}"' if told and told[0] else f'"{word}"' for word, told in items)
        return (f"_arguments '*: :(({rows}))'" if items else "_files") + "\n", 0
    action = environ.get("_TYPER_COMPLETE_FISH_ACTION")
    if action == "is-args":
        return "", 0 if items else 1
    if action == "get-args" and items:
        return "\n".join(f"{word}\t{told[1]}" if told and told[1] else word for word, told in items) + "\n", 0
    return "\n", 0
