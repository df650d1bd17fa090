"""`line: {path, line, match, after, before, state, create, mode}`: one line in a file that is not ours alone.

`match`, a regular expression, finds the line that it takes the place of (the last one that matches); without it, or if
none matches, the very line is looked for, and put after the last line that `after` matches, before the first that
`before` does, or at the end. `state: absent`: no line that matches (or is it). `create: true`: a missing file is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps import text

KEYS = {
    **text.KEYS,
    "line": Key("text"),
    "match": Key("pattern"),
}


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the file with what is wanted."""
    return text.check(args, place, lambda lines: edited(lines, args))


def _one(line: str | None) -> str | None:
    """It without the break at its end, which YAML's `|` gives it. Raises StepFailed for one within."""
    one = line and line.removesuffix("\n")
    if one and "\n" in one:
        raise StepFailed("line has a line break in it: for more than one line there is block")
    return one


def edited(lines: list[str], args: Mapping[str, Any]) -> list[str]:
    """The lines as they are to be. Raises StepFailed when `after` or `before` names a place that is not there."""
    wanted, match = _one(args.get("line")), args.get("match")

    def is_it(line: str) -> bool:
        return re.search(match, line) is not None if match is not None else line == wanted

    found = [at for at, line in enumerate(lines) if is_it(line)]
    if args.get("state") == "absent":
        return [line for at, line in enumerate(lines) if at not in found]
    if wanted is None:
        raise StepFailed("no line given")
    if found:
        return [*lines[: found[-1]], wanted, *lines[found[-1] + 1 :]]
    if wanted in lines:
        return lines
    at = text.place_for(lines, args)
    return [*lines[:at], wanted, *lines[at:]]
