"""What a step of a former run did is undone (`commcli rollback`; no word of playbooks): see onnode/undoing.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import change, files, state
from commcli.remote.onnode.change import Attributes, Change, Folder, Link, Remove, Run, Undo, Write
from commcli.remote.onnode.state import State
from commcli.remote.onnode.step import Place, StepFailed, Verdict
from commcli.remote.steps.file import READABLE, difference

# Each act looks for itself whether it came true.
VERIFY = False
TOLD = 3


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """What was decided before the first step."""
    acts, stays = args["acts"], "; ".join(args["stays"])
    if not acts:
        return Verdict(skipped=stays)
    told = [act["told"] for act in acts]
    more = f" and {len(told) - TOLD} more" if len(told) > TOLD else ""
    text = ", ".join(told[:TOLD]) + more + (f"; {stays}" if stays else "")
    if place.checking:
        # So that no handler announces that it would see to it.
        place.started.update(act["command"]["undo"]["service"] for act in acts if act["command"])
    diff = "".join(_diff(act, args) for act in acts) if place.diff else ""

    def apply() -> None:
        for act in acts:
            if act["path"]:
                _put_back(act["path"], act["was"], args["folder"], place)
            else:
                _run_opposite(act["command"], args["folder"], place)

    return Verdict(text, diff, apply=apply)


def _put_back(path: str, was: State, folder: str, place: Place) -> None:
    parent = os.path.dirname(path)  # noqa: PTH120
    if was is not None and was.get("bare") and not os.path.lexists(path):
        return  # it went meanwhile
    if was is not None and not os.path.isdir(parent):  # noqa: PTH112
        # It went in the same run, and will be put back later, with all else that was in it.
        change.do(Folder(parent, 0o700), place)
    for made in changes(path, was, state.look(path), folder):
        change.do(made, place)
    for inner, of in (was or {}).get("tree", ()):
        if of and "lost" in of:
            continue
        for made in changes(f"{path}/{inner}", of, state.look(f"{path}/{inner}"), folder):
            change.do(made, place)
    if not state.same(state.look(path), was):
        raise StepFailed(f"{path} did not stay as it was put back")


def changes(path: str, was: State, now: State, folder: str) -> list[Change]:
    """What makes `path` again what it was; `folder` has what files held. Raises StepFailed."""
    if state.same(now, was):
        return []
    gone: list[Change] = (
        [Remove(path)] if now is not None and (was is None or was["kind"] != now["kind"]) else []
    )
    if gone and now is not None and now["kind"] == "directory" and os.listdir(path):  # noqa: PTH208
        raise StepFailed(f"{path} is a folder with something in it")
    if was is None:
        return gone
    about = {key: was[key] for key in state.OWNED}
    if was.get("bare"):
        # A link has no mode of its own.
        return [Attributes(path, **{**about, **({"mode": None} if was["kind"] == "link" else {})})]
    if was["kind"] == "link":
        return [*gone, Link(path, was["target"])]
    if was["kind"] == "directory":
        return [*gone, Folder(path, **about)]
    if now is not None and now["kind"] == "file" and now.get("digest") == was.get("digest"):
        return [Attributes(path, **about)]
    return [*gone, Write(path, _kept(was, folder), **about)]


def _kept(was: Mapping[str, Any], folder: str) -> bytes:
    have = files.look(f"{folder}/{was.get('digest')}")
    if have is None or have.data is None:
        raise StepFailed(f"{folder}: what the file held is not there any more")
    return have.data


def _run_opposite(ran: Mapping[str, Any], folder: str, place: Place) -> None:
    run, undo = os.path.basename(folder), ran["undo"]  # noqa: PTH119
    back = Undo(tuple(ran["argv"]), service=undo["service"])
    change.do(Run(tuple(undo["argv"]), undo=back, of=(run, ran["number"])), place)
    if undo["service"]:
        place.started.add(undo["service"])


def _diff(act: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """Of files that everybody may read; what else they hold, nobody could mask."""
    was, now = act["was"], act["now"]
    both = [each for each in (was, now) if each is not None]
    if not act["path"] or any(each["kind"] != "file" or "digest" not in each for each in both):
        return ""
    hidden = args["secret"] or not all(each["mode"] & READABLE for each in both)
    old = (files.look(act["path"]) or files.Have("", 0)).data or b"" if now else b""
    return difference(act["path"], old, _kept(was, args["folder"]) if was else b"", secret=hidden)
