"""Runs a compiled play on the node: check, change, verify, step by step, and tells each as it ends.

The plan's `steps` are numbered; its `flow` says in which order they come: a list of numbers and of groups, each
{"try": flow, "rescue": flow, "always": flow}. A loop has been unrolled: every item is a step, with its `loop`.

Messages: {"facts"} · for each step {"at": index}, {"again": index, "attempt", "of", "text"} before each further
attempt, pieces of a file that is fetched (Channel.send_piece), and {"step": index, "state", "text", "diff", "seconds",
"result"} (and "attempts" where there may be several) · {"refused": holder} instead of all that when another play holds
the lock.
States: ok, changed (in check mode: would change), skipped, failed; ignored and rescued are failures that the play has
an answer to. After a failed step only what stands under `always` runs; pending handlers stay noted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from commcli.remote.onnode import facts, files, lock
from commcli.remote.onnode.channel import Channel, guarded, indivisible
from commcli.remote.onnode.condition import ConditionError, asked, holds
from commcli.remote.onnode.journal import Journal
from commcli.remote.onnode.pending import Pending
from commcli.remote.onnode.step import Place, StepFailed, StepTimeout, Verdict, later


def main(
    plan: Mapping[str, Any],
    channel: Channel,
    planned: Callable[[Mapping[str, Any], Channel], Mapping[str, Any]] = lambda plan, channel: plan,
) -> None:
    """Run `plan` (see remote/compile.py); `planned` may add to it what only the node knows, under the lock."""
    channel.keep_secret(plan["secrets"])
    # What commands make, and parents of folders, is the same whoever logs in, and whatever his login says.
    os.umask(0o022)
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
        # The plan's way here is in it, that of the blobs is not.
        ahead_s = round(channel.asked_unix - plan["sent_unix"], 1)
        play(planned(plan, channel), channel, facts.gather(plan["base"], ahead_s))
    except StepFailed as error:
        channel.send({"broken": str(error)})


def play(plan: Mapping[str, Any], channel: Channel, known: Mapping[str, Any]) -> None:
    """Run the steps on a node of which these facts are `known`. Raises StepFailed where not even one can be run."""
    signal.signal(signal.SIGALRM, _on_alarm)
    try:
        _Play(plan, channel, known).run()
    finally:
        files.sync_late()


def _on_alarm(*_: Any) -> None:
    raise StepTimeout()


class _Play:
    def __init__(self, plan: Mapping[str, Any], channel: Channel, known: Mapping[str, Any]) -> None:
        self._plan = plan
        self._steps: list[Mapping[str, Any]] = plan["steps"]
        self._channel = channel
        self._facts = known
        # A step that was not reached has a name all the same: what it registers is null.
        self._results: dict[str, Any] = {step["register"]: None for step in self._steps if step["register"]}
        self._started: set[str] = set()
        self._changed = False
        self._untold: set[str] = set()
        self._journal = Journal(plan, channel.blobs)
        self._pending = Pending(plan["pending"])
        # In check mode nothing is written, so what would be notified is only remembered.
        self._notified = set(self._pending.names)
        self._failed: Mapping[str, Any] | None = None
        self._rescuers = 0

    def run(self) -> None:
        self._channel.send({"facts": self._facts})
        if self._walk(self._plan["flow"]):
            self._forget_strangers()

    def _walk(self, flow: Sequence[Any]) -> bool:
        """Run the steps and groups in order; False when one failed, and the rest is left."""
        return all(self._step(part) if isinstance(part, int) else self._group(part) for part in flow)

    def _group(self, group: Mapping[str, Any]) -> bool:
        outer = self._failed
        self._rescuers += bool(group["rescue"])
        good = self._walk(group["try"])
        self._rescuers -= bool(group["rescue"])
        if not good and group["rescue"]:
            good = self._walk(group["rescue"])
        good = self._walk(group["always"]) and good
        if good:
            self._failed = outer
        return good

    def _step(self, index: int) -> bool:
        """Run one step, again where it says so, and tell it; False when what it stands in must stop."""
        step = self._steps[index]
        if step["section"] == "handlers" and step["name"] not in self._notified | set(self._pending.names):
            return True
        self._channel.send({"at": index})
        began = time.monotonic()
        told = self._attempts(index, step)
        if told["state"] == "failed" and step.get("ignore_errors"):
            told["state"] = "ignored"
        elif told["state"] == "failed":
            self._failed = {"name": step["name"], "text": told["text"]}
            told["state"] = "rescued" if self._rescuers else "failed"
        elif told["state"] in ("ok", "changed"):
            self._settle(step)
        self._register(step, told)
        self._channel.send({"step": index, "seconds": round(time.monotonic() - began, 4), **told})
        return told["state"] not in ("failed", "rescued")

    def _attempts(self, index: int, step: Mapping[str, Any]) -> dict[str, Any]:
        # In check mode once: waiting for what nobody changes is no use.
        most = 1 if self._plan["check"] else 1 + step.get("retries", 0)
        changed: dict[str, Any] = {}
        for attempt in range(1, most + 1):
            told = self._attempt(step)
            changed = told if told["state"] == "changed" else changed
            if told["state"] != "failed" and (why := self._unmet(step, told)):
                told = {**told, "state": "failed", "text": why}
            elif told["state"] == "ok" and changed:
                told = {**changed, "result": told["result"]}
            if most > 1:
                told["attempts"] = attempt
            if told["state"] != "failed" or attempt == most:
                break
            again = {"again": index, "attempt": attempt + 1, "of": most, "text": told["text"]}
            self._channel.send(again)
            time.sleep(step["delay_s"])
        return told

    def _attempt(self, step: Mapping[str, Any]) -> dict[str, Any]:
        text, result = "", {}
        try:
            with _deadline(step["timeout_s"]):
                return self._done(step)
        except StepTimeout:
            text = f"not finished after {step['timeout_s']:g} s"
        except StepFailed as error:
            text, result = str(error), dict(error.result)
        except ConditionError as error:
            text = str(error)
        except (
            Exception
        ) as error:  # a bug of ours in a step is that step's failure, not the end of the stream
            text = f"bug: {type(error).__name__}: {error}"
        return {"state": "failed", "text": text, "diff": "", "result": result}

    def _unmet(self, step: Mapping[str, Any], told: Mapping[str, Any]) -> str:
        """Why the step's `until` does not hold, "" if it does. What is skipped, or would be changed, is not asked."""
        until = step.get("until")
        if (
            until is None
            or told["state"] == "skipped"
            or (self._plan["check"] and told["state"] == "changed")
        ):
            return ""
        own = {**told["result"], "changed": told["state"] == "changed"}
        named = {step["register"]: own} if step["register"] else {}
        try:
            untold = asked(until) & self._untold
            return (
                "" if untold or holds(until, {**self._values(step), **own, **named}) else f"not so: {until}"
            )
        except ConditionError as error:
            return str(error)

    def _values(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """What the step's conditions may ask about."""
        known = {**self._plan["variables"], **self._results, "facts": self._facts, "failed": self._failed}
        return {**known, **step.get("loop", {}).get("values", {})}

    def _done(self, step: Mapping[str, Any]) -> dict[str, Any]:
        if "nothing" in step:
            return _told("skipped", Verdict(skipped=step["nothing"]))
        values = self._values(step)
        if step["when"] is not None:
            if unknown := asked(step["when"]) & self._untold:
                return _told("skipped", Verdict(skipped=later(unknown)))
            if not holds(step["when"], values):
                return _told("skipped", Verdict(skipped=f"not when {step['when']}"))
        module = importlib.import_module(f"commcli.remote.steps.{step['module']}")
        place = self._place(step, values)
        verdict: Verdict = module.check(step["args"], place)
        if not verdict.change:
            if getattr(module, "IS_FACTS", False):
                self._facts = {**self._facts, **verdict.result}
                self._untold |= {f"facts.{key}" for key in step["args"] if verdict.skipped}
            if verdict.skipped:
                self._settle(step)
            return _told("skipped" if verdict.skipped else "ok", verdict)
        if self._plan["check"]:
            self._note(step)
            return _told("changed", verdict)
        return self._change(step, module, place, verdict)

    def _change(self, step: Mapping[str, Any], module: Any, place: Place, verdict: Verdict) -> dict[str, Any]:
        new = self._pending.add(step["notify"])
        self._journal.begin(step, verdict.change)
        assert verdict.apply is not None
        result = verdict.apply()
        if result is not None:
            verdict = verdict._replace(result=result, change=result.get("did", verdict.change))
        if getattr(module, "VERIFY", True) and (again := module.check(step["args"], place)).change:
            raise StepFailed(f"did not last: {again.change} is still to do")
        changed = verdict.result.get("changed", True)
        if changed:
            self._note(step)
        else:
            self._journal.moot()
            for name in new:
                self._pending.done(name)
        return _told("changed" if changed else "ok", verdict)

    def _note(self, step: Mapping[str, Any]) -> None:
        self._changed = True
        self._notified.update(step["notify"])

    def _settle(self, step: Mapping[str, Any]) -> None:
        """A handler has done its work; one in a loop with its last item."""
        is_last = step.get("loop", {}).get("last", True)
        is_pending = step["section"] == "handlers" and step["name"] in self._pending.names
        if is_pending and is_last and not self._plan["check"]:
            self._pending.done(step["name"])

    def _register(self, step: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        name, state = step["register"], told["state"]
        if not name:
            return
        result = {
            **told["result"],
            "changed": state == "changed",
            "failed": state in ("failed", "rescued", "ignored"),
            "skipped": state == "skipped",
        }
        # What check mode can not know: the result of what it has not done.
        is_known = told["result"] or not self._plan["check"] or not (self._changed or state == "changed")
        if not is_known:
            self._untold.add(name)
        if "loop" in step:
            before = self._results[name] if step["loop"].get("index") else None
            result = _with_item(before, step["loop"], result)
        self._results[name] = result

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
            noted=self._journal.noted,
            send=self._channel.send_piece,
            mask=self._channel.mask,
        )

    def _forget_strangers(self) -> None:
        """Handlers that an older version of the play left pending and this one does not have."""
        if not self._plan["check"]:
            for name in list(self._pending.names):
                self._pending.done(name)


def _told(state: str, verdict: Verdict) -> dict[str, Any]:
    text = verdict.skipped or verdict.change
    return {"state": state, "text": text, "diff": verdict.diff, "result": dict(verdict.result)}


def _with_item(before: Any, loop: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What a loop registers: the result of every item in `results`, whether one of them changed or failed, and whether
    all were skipped."""
    results = [*(before or {}).get("results", [])]
    if "index" in loop:
        results.append({**result, "item": loop["values"].get("item")})
    return {
        "results": results,
        "changed": any(each["changed"] for each in results),
        "failed": any(each["failed"] for each in results),
        "skipped": all(each["skipped"] for each in results),
    }


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
