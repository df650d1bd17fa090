"""Runs a compiled play on the node: check, change, verify, step by step, and tells each as it ends.

Messages: {"facts"} · {"at": index} and {"step": index, "state", "text", "diff", "seconds", "result"} for each step ·
{"refused": holder} instead of all that when another play holds the lock. States: ok, changed (in check mode: would
change), skipped, failed. After a failure nothing more runs; pending handlers stay in the journal.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

from commcli.remote.onnode import facts, lock
from commcli.remote.onnode.channel import Channel, guarded, indivisible
from commcli.remote.onnode.condition import ConditionError, holds, names
from commcli.remote.onnode.journal import Journal
from commcli.remote.onnode.step import Place, StepFailed, StepTimeout, Verdict, later


def main(plan: Mapping[str, Any], channel: Channel) -> None:
    """Run `plan` (see remote/compile.py)."""
    channel.keep_secret(plan["secrets"])
    signal.signal(signal.SIGALRM, _on_alarm)
    if not plan["check"]:
        try:
            lock.take(plan["lock"], plan["holder"])
        except lock.Held as held:
            channel.send({"refused": held.holder})
            return
        except OSError as error:
            channel.send({"broken": f"{plan['lock']}: {(error.strerror or str(error)).lower()}"})
            return
    try:
        _Play(plan, channel).run()
    except StepFailed as error:
        channel.send({"broken": str(error)})


def _on_alarm(*_: Any) -> None:
    raise StepTimeout()


class _Play:
    def __init__(self, plan: Mapping[str, Any], channel: Channel) -> None:
        self._plan = plan
        self._channel = channel
        self._facts = facts.gather(plan["base"])
        self._results: dict[str, Any] = {}
        self._started: set[str] = set()
        self._changed = False
        self._untold: set[str] = set()
        self._journal = Journal(plan["journal"])
        # In check mode nothing is written, so what would be notified is only remembered.
        self._notified = set(self._journal.pending)

    def run(self) -> None:
        self._channel.send({"facts": self._facts})
        for index, step in enumerate(self._plan["steps"]):
            if step["section"] == "handlers" and step["name"] not in self._notified:
                continue
            self._channel.send({"at": index})
            if not self._step(index, step):
                return
        self._forget_strangers()

    def _step(self, index: int, step: Mapping[str, Any]) -> bool:
        """Run one step and tell it; False when the play must stop."""
        began = time.monotonic()
        told: dict[str, Any] = {"state": "failed"}
        try:
            with _deadline(step["timeout_s"]):
                told = self._done(step)
        except StepTimeout:
            told["text"] = f"not finished after {step['timeout_s']:g} s"
        except (StepFailed, ConditionError) as error:
            told["text"] = str(error)
        except (
            Exception
        ) as error:  # a bug of ours in a step is that step's failure, not the end of the stream
            told["text"] = f"bug: {type(error).__name__}: {error}"
        self._channel.send({"step": index, "seconds": round(time.monotonic() - began, 4), **told})
        return bool(told["state"] != "failed")

    def _done(self, step: Mapping[str, Any]) -> dict[str, Any]:
        values = {"facts": self._facts, **self._results}
        if step["when"] is not None:
            if unknown := names(step["when"]) & self._untold:
                return self._kept(step, "skipped", Verdict(skipped=later(unknown)))
            if not holds(step["when"], values):
                return self._kept(step, "skipped", Verdict(skipped=f"not when {step['when']}"))
        module = importlib.import_module(f"commcli.remote.steps.{step['module']}")
        place = self._place(step, values)
        verdict: Verdict = module.check(step["args"], place)
        if not verdict.change:
            if step["section"] == "handlers":
                self._settle(step)
            return self._kept(step, "skipped" if verdict.skipped else "ok", verdict)
        if self._plan["check"]:
            self._note(step)
            return self._kept(step, "changed", verdict)
        return self._change(step, module, place, verdict)

    def _change(self, step: Mapping[str, Any], module: Any, place: Place, verdict: Verdict) -> dict[str, Any]:
        self._journal.add(step["notify"])
        assert verdict.apply is not None
        result = verdict.apply()
        if result is not None:
            verdict = verdict._replace(result=result, change=result.get("did", verdict.change))
        if getattr(module, "VERIFY", True) and (again := module.check(step["args"], place)).change:
            raise StepFailed(f"did not last: {again.change} is still to do")
        if step["section"] == "handlers":
            self._settle(step)
        changed = verdict.result.get("changed", True)
        if changed:
            self._note(step)
        return self._kept(step, "changed" if changed else "ok", verdict)

    def _note(self, step: Mapping[str, Any]) -> None:
        self._changed = True
        self._notified.update(step["notify"])

    def _settle(self, step: Mapping[str, Any]) -> None:
        if step["name"] in self._journal.pending and not self._plan["check"]:
            self._journal.done(step["name"])

    def _kept(self, step: Mapping[str, Any], state: str, verdict: Verdict) -> dict[str, Any]:
        result = {**verdict.result, "changed": state == "changed"}
        if step["register"]:
            self._results[step["register"]] = result
            if self._plan["check"] and (self._changed or state == "changed") and not verdict.result:
                self._untold.add(step["register"])
        text = verdict.skipped or verdict.change
        return {"state": state, "text": text, "diff": verdict.diff, "result": dict(verdict.result)}

    def _place(self, step: Mapping[str, Any], values: Mapping[str, Any]) -> Place:
        return Place(
            checking=self._plan["check"],
            diff=self._plan["diff"],
            facts=self._facts,
            values=values,
            blobs=self._channel.blobs,
            started=self._started,
            changed_before=self._changed,
            untold=frozenset(self._untold),
            guard=guarded,
            indivisible=indivisible,
            timeout_s=step["timeout_s"],
        )

    def _forget_strangers(self) -> None:
        """Handlers that an older version of the play left pending and this one does not have."""
        if not self._plan["check"]:
            for name in list(self._journal.pending):
                self._journal.done(name)


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
