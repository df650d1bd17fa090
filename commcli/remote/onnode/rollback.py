"""Undoes a run on this node, as a run of its own: what was done is read from its journal, and undone step by step.

Messages: those of the executor, after {"planned": steps}, since only the node knows them; or {"declined": why}.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from commcli.remote.onnode import executor, files, past, state, undoing
from commcli.remote.onnode.channel import Channel
from commcli.remote.onnode.journal import KEPT_BYTES, KEPT_RUNS, PRUNED
from commcli.remote.onnode.past import Past
from commcli.remote.onnode.step import StepFailed

NAMED = 5
# Of a step, what the controller asks about.
TOLD = ("name", "section", "module", "timeout_s", "loop", "delay_s")


class Declined(Exception):
    """Somebody has changed since what is to be put back."""


def main(plan: Mapping[str, Any], channel: Channel) -> None:
    """Undo the run plan["undoes"] (see remote/rollback.py)."""
    try:
        executor.main(plan, channel, planned)
    except Declined as why:
        channel.send({"declined": str(why)})


def planned(plan: Mapping[str, Any], channel: Channel) -> Mapping[str, Any]:
    """The plan with its steps. Raises Declined, StepFailed."""
    runs = f"{plan['base']}/runs"
    all_runs = past.read_all(runs)
    run = next((each for each in all_runs if each.run == plan["undoes"]), None)
    if run is None:
        if plan["undoes"].encode() in (_read(f"{runs}/{PRUNED}")).split():
            kept = f"the last {KEPT_RUNS} are, and no more than {KEPT_BYTES >> 20} MiB"
            raise StepFailed(f"run {plan['undoes']} is no longer kept here ({kept})")
        channel.send({"planned": []})
        return plan
    if not plan["check"]:
        _sweep([path for each in all_runs for path in each.broken_off])
    steps = compiled(run, all_runs, plan)
    channel.send({"planned": [{key: step[key] for key in TOLD if key in step} for step in steps]})
    folder = f"{runs}/{run.run}"
    for handler in run.handlers:
        if digest := handler["args"].get("digest"):
            channel.blobs[digest] = _read(f"{folder}/{digest}")
    # In the folder of the run: another rollback of it goes on where this one ends.
    about_run = {"variables": run.variables, "pending": f"{folder}/pending"}
    return {**plan, **about_run, "steps": steps, "flow": list(range(len(steps)))}


def compiled(run: Past, all_runs: Sequence[Past], plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps that undo `run`. Raises Declined."""
    ground = undoing.Ground(
        state.look,
        _names,
        [other for other in all_runs if other.run > run.run],
        frozenset(past.undone(all_runs)),
        bool(plan["force"]),
    )
    undone = undoing.decide(run, ground)
    if refused := [why for each in undone for why in each.refused]:
        more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        raise Declined(
            f"{'; '.join(refused[:NAMED])}{more} (nothing was put back; --force does it all the same)"
        )
    folder, blank = f"{plan['base']}/runs/{run.run}", plan["blank"]
    again = undoing.again(undone, blank)
    names = [handler["name"] for handler in again]
    steps = [undoing.as_step(each, names, blank, folder) for each in undone if each.acts or each.stays]
    return [*steps, *again, *undoing.handlers(run, blank)]


def _sweep(paths: Sequence[str]) -> None:
    """Runs that were killed have left what they wrote aside; we have the lock."""
    for path in paths:
        with contextlib.suppress(OSError):
            files.sweep(*os.path.split(path))


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""
