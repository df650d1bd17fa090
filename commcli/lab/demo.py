"""Tells the story from beginning to end, and takes the lab down whatever happens on the way."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from commcli.errors import CommcliError, LockHeld
from commcli.lab import ports, processes
from commcli.lab.down import down
from commcli.lab.interrupt import undisturbed
from commcli.lab.stage import Document, Stage, require

_GUARD = 254  # no node of a lab has this address


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a story. `play` returns the figures that are worth keeping."""

    title: str
    play: Callable[[Stage], Document]


def tell(stage: Stage, steps: Sequence[Step]) -> Document:
    """Play the steps in order, then take the lab down; {"kind": "lab.demo", "true": bool, "steps": [...]}.

    The first step that is not true ends the story. The lab always comes down, also on Ctrl-C, SIGTERM and SIGHUP.
    """
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    with _alone(stage.network):
        _sweep(stage)
        try:
            with _hangup_as_interrupt():
                _play(stage, [*steps, Step("lab down", lab_down)], results)
        except KeyboardInterrupt:
            stage.warn("interrupted: taking the lab down")
            raise
        finally:
            with undisturbed():
                stage.stop_all()
                remains = down(stage.folder)
                _remove_parents(stage)
    if not remains.clean:
        results.append(
            {"title": "lab down", "true": False, "reason": f"left behind: {remains.as_dict()['left']}"}
        )
    return {
        "schema": 1,
        "kind": "lab.demo",
        "true": len(results) == len(steps) + 1 and all(result["true"] for result in results),
        "seconds": round(time.monotonic() - began, 1),
        "steps": results,
    }


def _play(stage: Stage, steps: Sequence[Step], results: list[dict[str, Any]]) -> None:
    for number, step in enumerate(steps, start=1):
        stage.title(f"{number}  {step.title}")
        began = time.monotonic()
        facts: Document = {}
        reason = None
        try:
            facts = step.play(stage)
        except CommcliError as error:
            reason = str(error)
        results.append(
            {
                "step": number,
                "title": step.title,
                "true": reason is None,
                "seconds": round(time.monotonic() - began, 1),
                "reason": reason,
                "facts": facts,
            }
        )
        if reason is not None:
            stage.say(f"NOT TRUE: {reason}")
            return


def lab_down(stage: Stage) -> Document:
    """Nothing is left: the command says so, and we look for ourselves."""
    addresses = stage.record.addresses.values()
    shown = stage.perform("lab", "down", "--folder", str(stage.folder.path))
    require(not processes.find(stage.folder.path), "processes of the lab are left")
    require(not ports.in_use(addresses), "ports of the lab are still open")
    require(not stage.folder.path.exists(), f"{stage.folder.path} is still there")
    return {"ended": shown["ended"]}


@contextmanager
def _alone(network: str) -> Iterator[None]:
    """Hold an address of the network while the story lasts: the kernel frees it, however we end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guard:
        try:
            guard.bind((f"{network}.{_GUARD}", 2222))
        except OSError:
            raise LockHeld(
                f"another demo runs on {network}.x", hint="wait for it, or give --network"
            ) from None
        yield


def _sweep(stage: Stage) -> None:
    """What an earlier demo left when it was killed the hard way."""
    if stage.folder.path.exists() or processes.find(stage.folder.path):
        ended = down(stage.folder).ended
        stage.say(f"an earlier demo was cut off; its {ended} processes and its files are gone now")


def _remove_parents(stage: Stage) -> None:
    """The folders above the lab's that were made for it, as long as they are empty."""
    for parent in stage.made:
        try:
            parent.rmdir()
        except OSError:
            return


@contextmanager
def _hangup_as_interrupt() -> Iterator[None]:
    """A closed terminal ends the story as Ctrl-C does."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
