"""What every step is made of. A step's `check` looks and decides; only what it returns as `apply` changes anything.

A step module has `KEYS` (its words in a playbook), `check(args, place) -> Verdict`, and may have
`VERIFY = False` when looking again after the change would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple


class StepFailed(Exception):
    """The step can not be done; the text is the one line that says why, `result` what `register` keeps of it."""

    def __init__(self, text: str, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.result = result or {}


class StepTimeout(Exception):
    """The step's time is over."""


class Key(NamedTuple):
    """One word of a step, needed or not. Its kind: text, path, mode, flag, number, pattern, condition; or, of several,
    texts, paths, conditions.
    """

    kind: str
    required: bool = False
    words: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """What a step found. `change` is one line saying what is to change, empty if nothing; `result` what `register`
    keeps; `apply` makes the change and may return a new result, whose `did`, if any, is what the change came to."""

    change: str = ""
    diff: str = ""
    result: Mapping[str, Any] = {}
    apply: Callable[[], Mapping[str, Any] | None] | None = None
    skipped: str = ""


class Place(NamedTuple):
    """Where a step is: the play's mode, the node's facts, what conditions may ask about (facts, registered results,
    variables, a loop's item), blobs by digest, services started in this play, whether an earlier step changed (in check
    mode: would change) anything, the registered names that check mode can not know, `guard(pid)`, which ends a child's
    session if the controller goes away, `indivisible()`, whose body is not left half done by that, `send`, which
    takes a piece of a file to the controller, `mask`, which hides the secrets in a text, and `noted(change)`, around a
    change: what was there is in the journal before the body, what came of it after."""

    checking: bool
    diff: bool
    facts: Mapping[str, Any]
    values: Mapping[str, Any]
    blobs: Mapping[str, bytes]
    started: set[str]
    changed_before: bool
    untold: frozenset[str]
    guard: Callable[[int], Any]
    indivisible: Callable[[], AbstractContextManager[None]]
    timeout_s: float
    send: Callable[[bytes], None] = lambda piece: None
    mask: Callable[[str], Any] = lambda text: text
    noted: Callable[[Any], AbstractContextManager[None]] = lambda change: nullcontext()


def with_python(words: list[str], python: str) -> list[str]:
    """`<python>` in a command stands for the python3 that the play runs on."""
    return [word.replace("<python>", python) for word in words]


def later(names: Iterable[str] = ()) -> str:
    """Why check mode skips what only the changed node could answer."""
    about = f" ({', '.join(sorted(names))})" if names else ""
    return f"not known before the change{about}"
