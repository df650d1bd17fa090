"""What the journals of this node's runs say: the runs of the past, and what of them a run has undone since."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from commcli.remote.onnode import files
from commcli.remote.onnode.state import OWNED, State
from commcli.remote.onnode.step import StepFailed


class Command(NamedTuple):
    """A command that a step ran (see change.Undo)."""

    number: int
    argv: tuple[str, ...]
    undo: Mapping[str, Any] | None
    of: tuple[str, int] | None
    done: bool = True
    moot: bool = False


class Touched(NamedTuple):
    """A path that a run has changed: what was there before its first change, and all that it found and left there."""

    path: str
    was: State
    left: tuple[State, ...]


class Step(NamedTuple):
    """A step that changed something: the paths that it was the first to touch, and its commands, in their order."""

    name: str
    section: str
    told: str
    notify: tuple[str, ...]
    secret: bool
    did: tuple[Touched | Command, ...]


class Past(NamedTuple):
    """A run. `handlers` are the compiled steps of those that were notified, `variables` what their conditions ask;
    `broken_off` are paths whose change was begun and not seen to its end.
    """

    run: str
    play: str
    undoes: str | None
    handlers: tuple[Mapping[str, Any], ...]
    variables: Mapping[str, Any]
    steps: tuple[Step, ...]
    broken_off: tuple[str, ...]

    def touched(self) -> Iterator[Touched]:
        """Every path that it changed."""
        return (did for step in self.steps for did in step.did if isinstance(did, Touched))

    def commands(self) -> Iterator[Command]:
        """Every command that it ran."""
        return (did for step in self.steps for did in step.did if isinstance(did, Command))


def read_all(runs: str) -> list[Past]:
    """The runs of this node, the oldest first. Raises StepFailed."""
    try:
        names = sorted(os.listdir(runs))  # noqa: PTH208
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StepFailed(f"{runs}: {files.reason(error)}") from None
    found = []
    for name in names:
        have = files.look(f"{runs}/{name}/journal") if os.path.isdir(f"{runs}/{name}") else None  # noqa: PTH112
        if have is not None:
            found.append(parsed(name, (have.data or b"").decode("utf-8", "replace")))
    return found


def parsed(run: str, text: str) -> Past:
    """One run's journal. A line that a crash left half written says nothing: its change was not begun."""
    reading = _Reading()
    for line in text.split("\n"):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            reading.take(said)
    return reading.ended(run)


class _Reading:
    """A journal while it is being read."""

    def __init__(self) -> None:
        self.head: Mapping[str, Any] = {}
        self._handlers: list[Mapping[str, Any]] = []
        self._variables: dict[str, Any] = {}
        self._steps: list[tuple[Mapping[str, Any], list[str | int]]] = []
        self._was: dict[str, State] = {}
        self._left: dict[str, list[State]] = {}
        self._begun: dict[int, str] = {}
        self._commands: dict[int, Command] = {}

    def take(self, said: Mapping[str, Any]) -> None:
        if "run" in said:
            self.head = said
        elif "handlers" in said:
            self._handlers += [handler for handler in said["handlers"] if handler not in self._handlers]
            self._variables.update(said["variables"])
        elif "step" in said:
            self._steps.append((said, []))
        elif "path" in said:
            self._begin(said["n"], said["path"], said["was"], said["will"])
        elif "is" in said:
            # Its own word, in the place of what was foreseen.
            left = self._left[self._begun.pop(said["n"])]
            left[-1:] = [_whole(said["is"], left[:-1])]
        elif "argv" in said:
            of = said["of"] and (said["of"][0], said["of"][1])
            self._commands[said["n"]] = Command(said["n"], tuple(said["argv"]), said["undo"], of, done=False)
            self._steps[-1][1].append(said["n"])
        elif "done" in said:
            ran = self._commands[said["n"]]
            self._commands[said["n"]] = ran._replace(done=True, moot=not said["done"])

    def _begin(self, number: int, path: str, was: State, will: State) -> None:
        self._begun[number] = path
        if was is not None and "tree" in was:
            # What this run had changed in there has its own word on how it was, and is gone as well.
            tree = [[inner, of] for inner, of in was["tree"] if f"{path}/{inner}" not in self._was]
            was = {**was, "tree": tree}
            for inner in self._was:
                if inner.startswith(f"{path}/"):
                    self._left[inner].append(None)
        if path not in self._was:
            self._was[path] = was
            self._steps[-1][1].append(path)
        elif was is not None and "tree" in was:
            self._was[path] = _fuller(self._was[path], was)
        elif _is_bare(self._was[path]) and not _is_bare(was):
            self._was[path] = _whole(self._was[path], [was])
        left = self._left.setdefault(path, [])
        for state in (was, will):
            left.append(_whole(state, left))

    def ended(self, run: str) -> Past:
        steps = (
            Step(
                said["name"],
                said["section"],
                said["told"],
                tuple(said["notify"]),
                said["secret"],
                tuple(self._did(key) for key in keys),
            )
            for said, keys in self._steps
        )
        return Past(
            run,
            str(self.head.get("play")),
            self.head.get("undoes"),
            tuple(self._handlers),
            self._variables,
            tuple(steps),
            tuple(self._begun.values()),
        )

    def _did(self, key: str | int) -> Touched | Command:
        if isinstance(key, int):
            return self._commands[key]
        left = self._left[key]
        # Where what it holds was changed as well, a state that does not tell that would let anything pass for ours.
        known = [state for state in left if not _is_bare(state)]
        return Touched(key, self._was[key], tuple(known if any(known) else left))


def _fuller(first: State, later: State) -> State:
    """What was there at first, and what was in it when it went."""
    if first is None or later is None or first["kind"] != "directory":
        return first
    known = {key: first[key] for key in first if key != "bare"}
    return {**known, **{key: later[key] for key in ("tree", "lost") if key in later}}


def _is_bare(state: State) -> bool:
    return state is not None and bool(state.get("bare"))


def _whole(state: State, others: Sequence[State]) -> State:
    """A bare state with what the last of the others tells of what is held there; as it is if none does."""
    if state is None or not state.get("bare"):
        return state
    known = (each for each in reversed(others) if each is not None and each["kind"] == state["kind"])
    full = next((each for each in known if not each.get("bare")), None)
    if full is None:
        return state
    held = {key: full[key] for key in full if key not in OWNED}
    return {**held, **{key: state[key] for key in OWNED if key in state}}


def undone(runs: Sequence[Past]) -> set[tuple[str, int]]:
    """The commands, by run and number, whose opposite a later run has run, and no still later one has run them again.
    `runs`: the oldest first.
    """
    found: set[tuple[str, int]] = set()
    for run in reversed(runs):
        for command in run.commands():
            if command.of is not None and command.done and (run.run, command.number) not in found:
                found.add(command.of)
    return found


def last_touch(path: str, later: Sequence[Past]) -> Past | None:
    """The last of these runs that has changed this path."""
    return next((run for run in reversed(later) if any(each.path == path for each in run.touched())), None)
