"""The command tree as values, for the tests that look at every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.main import get_command

from commcli.cli import command_line

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: its words after `commcli`, the function behind it, and what typer made of it."""

    words: Words
    function: Callable[..., Any]
    command: Any  # typer's own copy of click.Command; it is not public

    def __str__(self) -> str:
        return " ".join(self.words)


def _functions(group: typer.Typer, words: Words) -> Iterator[tuple[Words, Callable[..., Any]]]:
    for registered in group.registered_commands:
        assert registered.callback is not None
        name = registered.name or registered.callback.__name__.replace("_", "-")
        yield (*words, name), registered.callback
    for nested in group.registered_groups:
        assert nested.typer_instance is not None and isinstance(nested.name, str)
        yield from _functions(nested.typer_instance, (*words, nested.name))


def groups() -> list[tuple[str, Any]]:
    """Every group below the root, with its name."""
    return [
        (name, command)
        for name, command in _children(get_command(command_line()))
        if hasattr(command, "commands")
    ]


def _children(command: Any) -> list[tuple[str, Any]]:
    return list(getattr(command, "commands", {}).items())


def verbs() -> list[Verb]:
    """Every command of the command line."""
    found = []
    for words, function in _functions(command_line(), ()):
        command: Any = get_command(command_line())
        for word in words:
            command = dict(_children(command))[word]
        found.append(Verb(words, function, command))
    return found
