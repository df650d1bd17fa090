"""Which steps of a play run, by their tags: `--tags` and `--skip-tags`, as in Ansible. Pure.

A step tagged `always` runs unless that very tag is skipped, one tagged `never` only if one of its tags is asked for.
`--tags` also knows `all`, `tagged` and `untagged`. Handlers have been notified by a step that ran: they always run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from commcli.errors import BadInput, Usage
from commcli.fleet.record import nearest
from commcli.remote.play import Group, Part, Play, Step
from commcli.remote.words import WORDS, strangers

ALWAYS, NEVER = "always", "never"
RESERVED = frozenset(("all", "tagged", "untagged"))


def select(play: Play, only: Collection[str] = (), skipped: Collection[str] = ()) -> Play:
    """The play with the steps that run. Raises Usage for a tag that no step has, BadInput where a step that runs asks
    about the result of one that does not.
    """
    known = {ALWAYS, NEVER, *RESERVED}.union(*(step.tags for step in play.flat()))
    for option, tags in (("--tags", only), ("--skip-tags", skipped)):
        for tag in tags:
            if tag not in known:
                raise Usage(f'{option}: no step of {play.file} has the tag "{tag}"{nearest(tag, known)}')
    taken = replace(play, steps=tuple(_parts(play.steps, only, skipped)), chosen=True)
    if only or skipped:
        _check_results(play, taken)
    return taken


def takes(step: Step, only: Collection[str], skipped: Collection[str]) -> bool:
    """Whether a step with these tags runs. The rules are those of ansible-core's playbook/taggable.py."""
    if step.section == "handlers":
        return True
    tags = {*step.tags} or {"untagged"}
    is_tagged = bool(step.tags)
    wanted = {*only} or {"all"}
    runs = (
        ALWAYS in tags
        or not tags.isdisjoint(wanted)
        or (NEVER not in tags and ("all" in wanted or ("tagged" in wanted and is_tagged)))
    )
    if "all" in skipped and (ALWAYS not in tags or ALWAYS in skipped):
        return False
    if not tags.isdisjoint(skipped) or ("tagged" in skipped and is_tagged):
        return False
    return runs


def _parts(parts: tuple[Part, ...], only: Collection[str], skipped: Collection[str]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Group):
            branches = [
                tuple(_parts(branch, only, skipped)) for branch in (part.tried, part.rescue, part.always)
            ]
            if any(branches):
                yield Group(part.name, part.line, *branches)
        elif takes(part, only, skipped):
            yield part


def _check_results(play: Play, taken: Play) -> None:
    registered = [{step.register for step in each.flat() if step.register} for each in (play, taken)]
    left = registered[0] - registered[1]
    problems = [
        f'{play.file}:{step.line}: step "{step.name}" asks about "{name}", whose step the tags leave out: '
        "give that one the tag always"
        for step in taken.flat()
        for name in sorted(left & asked(step))
    ]
    if problems:
        raise BadInput(problems)


def asked(step: Step) -> set[str]:
    """The names that a step's conditions ask about, as far as they need not be rendered first."""
    kinds = ("condition", "conditions")
    values = [
        step.args[key] for key, spec in WORDS[step.word].items() if spec.kind in kinds and key in step.args
    ]
    texts = [
        text
        for value in (step.when, step.until, *values)
        for text in (value if isinstance(value, list) else [value])
    ]
    return {name for text in texts if isinstance(text, str) for name in strangers(text, ())}
