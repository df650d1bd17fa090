"""What is to be done so that a run is undone: a function of its journal and of what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from commcli.remote.onnode.condition import names
from commcli.remote.onnode.past import Command, Past, Step, Touched, last_touch
from commcli.remote.onnode.state import State, same

NAMED = 3
# Handlers that do what they do by what they find.
RUN_AGAIN = ("command", "script", "service", "wait_for", "facts", "require")
# What a command's own conditions ask about besides.
OF_COMMANDS = frozenset(("status", "stdout", "stderr", "changed", "answer", "body", "port", "state"))

Look = Callable[[str], State]
Names = Callable[[str], Sequence[str]]


class Act(NamedTuple):
    """One thing to do, in words: a `path` to be again as it `was` (it is `now` something else), or a command.
    Neither: `told` says what stays as it is.
    """

    told: str
    path: str = ""
    was: State = None
    now: State = None
    command: Command | None = None


class Undone(NamedTuple):
    """A step of the run to be undone: what is to do, what stays as it is, what was changed since and is in the way, and
    the commands to be run again when all is put back, each with the service that it starts ("": none).
    """

    step: Step
    acts: tuple[Act, ...]
    stays: tuple[str, ...]
    refused: tuple[str, ...]
    again: tuple[tuple[tuple[str, ...], str], ...]


class Ground(NamedTuple):
    """What a decision is about: what is at a path, the names in a folder, the later runs, commands undone already."""

    look: Look
    names: Names
    later: Sequence[Past] = ()
    undone: frozenset[tuple[str, int]] = frozenset()
    force: bool = False


def decide(run: Past, ground: Ground) -> list[Undone]:
    """The steps of `run` in reverse, each with its acts in reverse; nothing is done here."""
    return _Deciding(run, ground).all()


class _Deciding:
    def __init__(self, run: Past, ground: Ground) -> None:
        self._run, self._ground = run, ground
        # What a rollback of this run that did not come to its end may have left.
        self._half: dict[str, list[State]] = {}
        for other in ground.later:
            for did in other.touched() if other.undoes == run.run else ():
                self._half.setdefault(did.path, []).extend(did.left)
        # What will be there when the acts so far are done.
        self._then: dict[str, State] = {}

    def all(self) -> list[Undone]:
        return [self._undone(step) for step in reversed(self._run.steps)]

    def _undone(self, step: Step) -> Undone:
        acts: list[Act] = []
        stays: list[Act] = []
        refused: list[str] = []
        for did in reversed(step.did):
            if isinstance(did, Command):
                # A handler that is notified runs again instead.
                if step.section != "handlers" and (told := self._command(did, step)) is not None:
                    (acts if told.command else stays).append(told)
                continue
            act, why = self._path(did)
            if why:
                refused.append(why)
            elif act is not None:
                (acts if act.path else stays).append(act)
        again = [
            (each.argv, each.undo["service"])
            for each in step.did
            if isinstance(each, Command) and each.undo and each.undo["again"] and step.section != "handlers"
        ]
        return Undone(
            step, tuple(acts), tuple(dict.fromkeys(act.told for act in stays)), tuple(refused), tuple(again)
        )

    def _command(self, ran: Command, step: Step) -> Act | None:
        if ran.moot or (self._run.run, ran.number) in self._ground.undone:
            return None
        if ran.undo is None:
            return Act(f"not put back: {step.told}")
        if not ran.undo["argv"]:
            return None
        return Act(f"run {' '.join(ran.undo['argv'])}", command=ran)

    def _path(self, did: Touched) -> tuple[Act | None, str]:
        """What to do, or why it is refused."""
        path, was = did.path, did.was
        now = self._will_be(path)
        tree = {
            f"{path}/{inner}": of for inner, of in (was or {}).get("tree", ()) if not of or "lost" not in of
        }
        lost = [f"{inner}: {of['lost']}" for inner, of in (was or {}).get("tree", ()) if of and "lost" in of]
        inside = {inner: self._will_be(inner) for inner in tree}
        is_half_gone = was is not None and "lost" in was and path in self._run.broken_off and now is not None
        if same(now, was) and all(same(inside[inner], of) for inner, of in tree.items()) and not is_half_gone:
            return None, ""
        if was is not None and was.get("bare") and now is None:
            return None, ""  # who owned what is gone is nobody's business
        if not self._ground.force:
            if not self._is_ours(path, now, did.left):
                return None, f"{path} {self._since(path)}"
            for inner, of in tree.items():
                if not self._is_ours(inner, inside[inner], (None, of)):
                    return None, f"{inner} {self._since(inner)}"
        if was is not None and "lost" in was:
            return Act(f"{path} is not put back, it was not kept: {was['lost']}"), ""
        if was is not None and was.get("bare") and now is not None and now["kind"] != was["kind"]:
            return Act(f"{path} is a {now['kind']} now, its mode and owner are not put back"), ""
        if now is not None and now["kind"] == "directory" and (was is None or was["kind"] != "directory"):
            there = [name for name in self._ground.names(path) if self._will_be(f"{path}/{name}") is not None]
            if there:
                more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
                return Act(f"{path} stays, not empty: {', '.join(sorted(there)[:NAMED])}{more}"), ""
        self._then[path] = was
        self._then.update(tree)
        but = f" but for {', '.join(lost[:NAMED])}" if lost else ""
        return Act(f"{told(path, was, now)}{but}", path, was, now), ""

    def _is_ours(self, path: str, now: State, left: Sequence[State]) -> bool:
        return any(same(now, each) for each in (*left, *self._half.get(path, ())))

    def _will_be(self, path: str) -> State:
        return self._then[path] if path in self._then else self._ground.look(path)

    def _since(self, path: str) -> str:
        later = last_touch(path, self._ground.later)
        by = "by somebody else" if later is None else f"by run {later.run} ({later.play})"
        return f"was changed since {by}"


def told(path: str, was: State, now: State) -> str:
    """What putting back changes, in one line."""
    if was is None:
        return f"remove {path}"
    if now is None or was["kind"] != now["kind"] or (was["kind"] == "link" and not was.get("bare")):
        return f"put back {path}"
    if was.get("digest") != now.get("digest") and not was.get("bare"):
        return f"put back {path}, {now['size']} -> {was['size']} bytes"
    parts = [] if was["mode"] == now["mode"] else [f"mode {now['mode']:04o} -> {was['mode']:04o}"]
    for key, word in (("uid", "owner"), ("gid", "group")):
        if was[key] != now[key]:
            parts.append(f"{word} {now[key]} -> {was[key]}")
    return f"{path}: {', '.join(parts)}"


def as_step(undone: Undone, again: Sequence[str], blank: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The compiled step that does it, and notifies what is to be run `again`. `blank`: one as the controller compiles
    them; `folder`: of the run's journal.
    """
    step = undone.step
    acts = [
        {
            "told": act.told,
            "path": act.path,
            "was": act.was,
            "now": act.now,
            "command": act.command and act.command._asdict(),
        }
        for act in undone.acts
    ]
    args = {"acts": acts, "stays": list(undone.stays), "folder": folder, "secret": step.secret}
    notify = [*step.notify, *again]
    return {**blank, "name": step.name, "module": "undo", "section": "steps", "args": args, "notify": notify}


def again(undone: Sequence[Undone], blank: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As compiled handlers, the commands that are to be run again in the run's own order, each once."""
    commands = dict.fromkeys(again for each in reversed(undone) for again in each.again)
    about = {**blank, "module": "command", "section": "handlers"}
    return [
        {**about, "name": " ".join(argv), "args": {"argv": [*argv], "starts": service}}
        for argv, service in commands
    ]


def handlers(run: Past, blank: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The compiled handlers that the run notified."""
    known = {"facts", "item", "loop_index", *run.variables}
    return [
        {**blank, **_on_its_own(handler, known)} for handler in run.handlers if handler["module"] in RUN_AGAIN
    ]


def _on_its_own(handler: Mapping[str, Any], known: Set[str]) -> Mapping[str, Any]:
    """Without conditions on results that nobody has any more: it had better run. Nor does it write a unit, which has
    been put back by then.
    """

    def kept(text: str | None, more: Set[str] = frozenset()) -> str | None:
        return text if text and names(text) <= known | more else None

    args = {**handler["args"], **({"unit_stays": True} if handler["module"] == "service" else {})}
    if "changed_when" in args and kept(args["changed_when"], OF_COMMANDS) is None:
        del args["changed_when"]
    return {
        **handler,
        "args": args,
        "when": kept(handler["when"]),
        "until": kept(handler.get("until"), OF_COMMANDS),
    }
