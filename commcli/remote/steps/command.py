"""`command: {argv, creates, unless, changed_when, cwd, puts_back}`: run a program, without a shell, if it is needed.

`creates`: not needed when this path exists. `unless`: not needed when this command succeeds. `changed_when`: a
condition over `status`, `stdout`, `stderr` and what `when` may ask about that says whether it changed anything; with
the word `false` the command only looks, and runs in check mode too. `puts_back`: if it fails, this file, which a step
with `keep: former` has changed, is again what it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from commcli.remote.onnode import command, former
from commcli.remote.onnode.change import Run
from commcli.remote.onnode.condition import holds
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, later, with_python

KEYS = {
    "argv": Key("texts", required=True),
    "creates": Key("path"),
    "unless": Key("texts"),
    "changed_when": Key("condition"),
    "cwd": Key("path"),
    "puts_back": Key("path"),
}
VERIFY = False
LOOKS_ONLY = "false"


def needless(creates_exists: bool, unless_status: int | None) -> str:
    """Why the command need not run, "" if it must. None: `unless` was not asked."""
    if creates_exists:
        return "what it creates is there"
    return "unless holds" if unless_status == 0 else ""


def changed(changed_when: str | None, result: Mapping[str, Any]) -> bool:
    """Whether a run with this result changed anything."""
    return True if changed_when is None else holds(changed_when, result)


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Decide whether it must run; a command that only looks is run here and now."""
    argv = with_python(args["argv"], str(place.facts.get("python")))
    return decide(args, place, lambda: run(argv, place, args.get("cwd")), f"run {' '.join(argv)}", argv)


def decide(
    args: Mapping[str, Any],
    place: Place,
    do: Callable[[], Mapping[str, Any]],
    told: str,
    argv: Sequence[str],
) -> Verdict:
    """Whether `do` must run, by what the step says of that. `argv` is what the journal calls it."""
    creates = args.get("creates")
    there = creates is not None and os.path.lexists(creates)
    unless = with_python(args.get("unless", []), str(place.facts.get("python")))
    if why := needless(there, command.run(unless, place, args.get("cwd")).status if unless else None):
        return Verdict(skipped=why)
    if args.get("changed_when") == LOOKS_ONLY:
        if place.checking and place.changed_before:
            return Verdict(skipped=later())
        return Verdict(result=do())

    # Of a rollback, which starts a service again by its own command (onnode/undoing.py).
    starts = {args["starts"]} if args.get("starts") else set()
    if place.checking:
        place.started.update(starts)

    def apply() -> Mapping[str, Any]:
        with former.Trial(args.get("puts_back")), place.noted(Run(tuple(argv))):
            result = do()
            if creates is not None and not os.path.lexists(creates):
                raise StepFailed(f"succeeded, but did not create {creates}")
        place.started.update(starts)
        return {**result, "changed": changed(args.get("changed_when"), {**place.values, **result})}

    return Verdict(told, apply=apply)


def run(argv: list[str], place: Place, cwd: str | None) -> Mapping[str, Any]:
    """What it came to. Raises StepFailed unless its exit status is 0."""
    ran = command.run(argv, place, cwd)
    if ran.status != 0:
        raise StepFailed(f"{argv[0]}: {ran.why()}", ran.result())
    return ran.result()
