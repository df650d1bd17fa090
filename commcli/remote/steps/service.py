"""`service: {name, state, unit, start, stop, reload, upgrade, puts_back, pid_file}`: a program that is kept running.

Where systemd runs, we are root and a `unit` is given: the unit file, `systemctl enable --now`. Elsewhere the
commands `start` and `stop`, and `pid_file`, which a supervisor holds flock'd for as long as it lives: an answer to
"is it running" that survives SIGKILL and reused process ids. `restarted` does nothing when this play has started
it already, nor does `reloaded`, which runs the command `reload` and restarts only if its exit status is 9: what changed
can not be taken up by a running service. The step then says so, with the last line that the command said.

A service that can put another process in its own place, and loses nothing by it, has a command `upgrade`. `upgraded`
runs it, as does a reload that asks for a restart; the service is restarted only where the command says that nothing
else can help (exit status 9), or does not know the word. If it fails otherwise, what ran before still runs, and the
step has failed. The file `puts_back`, which a step with `keep: former` has changed, is then again what it was: the next
start starts what runs.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from typing import Any, Protocol

from commcli.remote.onnode import change, command, files, former, journald
from commcli.remote.onnode.change import Run, Undo, Write
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, with_python

KEYS = {
    "name": Key("text", required=True),
    "state": Key("text", words=("running", "restarted", "upgraded", "reloaded", "stopped")),
    "unit": Key("text"),
    "start": Key("texts"),
    "stop": Key("texts"),
    "reload": Key("texts"),
    "upgrade": Key("texts"),
    "puts_back": Key("path"),
    "pid_file": Key("path"),
}
UNITS = "/etc/systemd/system"
NEEDS_RESTART = 9
# What argparse says, with exit status 2, where what is installed is too old to know the command.
UNKNOWN, UNKNOWN_SAID = 2, "invalid choice"


def decide(state: str, *, running: bool, fresh: bool, unit_differs: bool) -> list[str]:
    """What is to do, in order: unit, start, restart, upgrade, reload, stop. `fresh`: this play has (re)started it."""
    if state == "stopped":
        return ["stop"] if running else []
    if state in ("restarted", "upgraded", "reloaded") and fresh:
        return []
    actions = ["unit"] if unit_differs else []
    if not running:
        return [*actions, "start"]
    if state == "restarted" or unit_differs:
        return [*actions, "restart"]
    return {"reloaded": ["reload"], "upgraded": ["upgrade"]}.get(state, [])


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the service with what is wanted."""
    keeper = _Systemd(args, place) if _has_systemd(args, place) else _Supervisor(args, place)
    state = args.get("state", "running")
    fresh = args["name"] in place.started
    actions = decide(state, running=keeper.running(), fresh=fresh, unit_differs=keeper.unit_differs())
    if place.checking and actions and state == "running":
        place.started.add(args["name"])  # so that the handler does not announce a second start

    def apply() -> Mapping[str, Any] | None:
        said = ""
        with place.indivisible():
            for action in actions:
                if action == "upgrade":
                    said = _upgrade(args, place, keeper)
                elif action == "reload":
                    said = _reload(args, place, keeper)
                elif action in ("start", "restart"):
                    with former.Trial(args.get("puts_back")):
                        keeper.act(action)
                else:
                    keeper.act(action)
        if state != "stopped":
            place.started.add(args["name"])
        return {"did": said} if said else None

    return Verdict(", ".join(actions), apply=apply)


class _Keeper(Protocol):
    """Who keeps the service running."""

    def act(self, action: str) -> None: ...


def _reload(args: Mapping[str, Any], place: Place, keeper: _Keeper) -> str:
    """What was done besides the reload, and why; "" if nothing was."""
    if not args.get("reload"):
        raise StepFailed("no command reload given")
    ran = _asked(with_python(args["reload"], str(place.facts["python"])), place)
    if ran.status not in (0, NEEDS_RESTART):
        raise StepFailed(f"reload: {ran.why()}")
    if ran.status == 0:
        return ""
    did = _upgrade(args, place, keeper) if args.get("upgrade") else _restart(keeper)
    return f"{did}: {ran.last_words() or 'the reload asked for it'}"


def _upgrade(args: Mapping[str, Any], place: Place, keeper: _Keeper) -> str:
    """Another process in its place, or a restart if that can not be; what was done."""
    if not args.get("upgrade"):
        raise StepFailed("no command upgrade given")
    with former.Trial(args.get("puts_back")):
        ran = _asked(with_python(args["upgrade"], str(place.facts["python"])), place)
        if ran.status == 0:
            return "upgrade"
        is_unknown = ran.status == UNKNOWN and UNKNOWN_SAID in ran.last_words()
        if ran.status != NEEDS_RESTART and not is_unknown:
            raise StepFailed(f"upgrade: {ran.why()}")
        return f"{_restart(keeper)} ({ran.last_words() or 'the upgrade asked for it'})"


def _restart(keeper: _Keeper) -> str:
    keeper.act("restart")
    return "restart"


def _has_systemd(args: Mapping[str, Any], place: Place) -> bool:
    return (
        bool(place.facts.get("systemd"))
        and place.facts.get("uid") == 0
        and bool(args.get("unit", "").strip())
    )


class _Supervisor:
    """The service's own commands."""

    def __init__(self, args: Mapping[str, Any], place: Place) -> None:
        missing = [key for key in ("start", "stop", "pid_file") if not args.get(key)]
        if missing:
            raise StepFailed(f"no systemd here that we may use, and no {', '.join(missing)} given")
        self._args, self._place = args, place

    def running(self) -> bool:
        return held(self._args["pid_file"])

    def unit_differs(self) -> bool:
        return False

    def act(self, action: str) -> None:
        for key in {"start": ["start"], "stop": ["stop"], "restart": ["stop", "start"]}[action]:
            opposite = Undo(self._words("start" if key == "stop" else "stop"), service=self._args["name"])
            undo = Undo(again=True, service=self._args["name"]) if action == "restart" else opposite
            change.do(Run(self._words(key), undo=undo), self._place)

    def _words(self, key: str) -> tuple[str, ...]:
        return tuple(with_python(self._args[key], str(self._place.facts["python"])))


# By what is to be done, and whether the service starts with the node: how, and what takes it back.
_SWITCH = {
    ("start", False): (("enable", "--now"), ("disable", "--now")),
    ("start", True): (("enable", "--now"), ("stop",)),
    ("stop", True): (("disable", "--now"), ("enable", "--now")),
    ("stop", False): (("disable", "--now"), ("start",)),
}


class _Systemd:
    """systemctl and the unit file."""

    def __init__(self, args: Mapping[str, Any], place: Place) -> None:
        self._name = args["name"]
        self._place = place
        self._path = f"{UNITS}/{self._name}.service"
        self._unit = " ".join(with_python([args["unit"]], str(place.facts["python"]))).encode()
        # Of a rollback (onnode/undoing.py).
        self._unit_stays = bool(args.get("unit_stays"))

    def running(self) -> bool:
        return self._asked("is-active")

    def unit_differs(self) -> bool:
        have = files.look(self._path)
        return not self._unit_stays and (have is None or have.data != self._unit)

    def act(self, action: str) -> None:
        if action == "unit":
            change.do(Write(self._path, self._unit, 0o644), self._place)
            change.do(Run(("systemctl", "daemon-reload"), undo=Undo(again=True)), self._place)
            return
        if action == "restart":
            made = Run(("systemctl", "restart", self._name), undo=Undo(again=True, service=self._name))
        else:
            words, back = _SWITCH[action, self._asked("is-enabled")]
            undo = Undo(("systemctl", *back, self._name), service=self._name)
            made = Run(("systemctl", *words, self._name), undo=undo)
        try:
            change.do(made, self._place)
            if action != "stop" and not self.running():
                raise StepFailed(f"{self._name} was started, and has ended")
        except StepFailed as error:
            # The words of systemctl itself: where the journal could be read.
            why, _, _ = str(error).partition(': See "systemctl')
            raise StepFailed(f"{why}{journald.last_words(self._name, self._place)}") from None

    def _asked(self, question: str) -> bool:
        return command.run(["systemctl", question, "--quiet", self._name], self._place).status == 0


def held(path: str) -> bool:
    """Whether some process holds a flock on this file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StepFailed(f"{path}: {files.reason(error)}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _asked(argv: list[str], place: Place) -> command.Ran:
    """What a command of the service came to, which may be told by its exit status."""
    with place.noted(Run(tuple(argv), undo=Undo(again=True))):
        return command.run(argv, place)
