"""Every command is a plain function with help on itself and on all that it takes."""

from __future__ import annotations

import inspect

import pytest

from commcli.cli import NOUNS
from tests.architecture.commands import Verb, groups, verbs

VERBS = verbs()


def test_every_noun_has_a_group_and_help() -> None:
    found = dict(groups())
    assert set(found) == set(NOUNS)
    assert [name for name, group in found.items() if not group.help] == []


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_command_is_not_async(verb: Verb) -> None:
    # Typer never runs an `async def` command, and exits 0 all the same.
    assert not inspect.iscoroutinefunction(verb.function)


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_command_and_parameters_have_help(verb: Verb) -> None:
    assert (verb.command.help or "").strip(), f"`commcli {verb}` says nothing about itself"
    silent = [parameter.name for parameter in verb.command.params if not getattr(parameter, "help", None)]
    assert silent == [], f"`commcli {verb}`: no help on {silent}"


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_commands_live_in_the_module_of_their_noun(verb: Verb) -> None:
    noun, verb_ = verb.words[0], verb.words[-1]
    homes = {f"commcli.cli.{noun}", f"commcli.cli.{noun}.{verb_}", f"commcli.cli.{noun}.{verb_}_"}
    assert verb.function.__module__ in homes  # import_: a word that Python has for itself


def _options(verb: Verb) -> dict[str, str]:
    spelled: dict[str, str] = {}
    for parameter in verb.command.params:
        if parameter.param_type_name == "option":
            spelled |= dict.fromkeys([*parameter.opts, *parameter.secondary_opts], parameter.name)
    return spelled


def test_a_short_option_means_the_same_everywhere() -> None:
    meanings: dict[str, set[str]] = {}
    for verb in VERBS:
        for spelling, name in _options(verb).items():
            if not spelling.startswith("--"):
                meanings.setdefault(spelling, set()).add(name)
    assert {spelling: names for spelling, names in meanings.items() if len(names) > 1} == {}


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_every_command_takes_json(verb: Verb) -> None:
    # `relay serve` is a server and `lab demo` a story: they answer no document.
    if verb.words not in {("relay", "serve"), ("lab", "demo")}:
        assert "--json" in _options(verb)
