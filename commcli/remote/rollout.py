"""A play brought to a fleet in waves: drain, play, undrain, pause, gate; and the state from which it is resumed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from commcli.errors import CommcliError
from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import Secret
from commcli.remote import survey
from commcli.remote.compile import known_to
from commcli.remote.outcome import Event, OnEvent, Outcome
from commcli.remote.play import Play
from commcli.remote.run import PlayResult, Variables
from commcli.remote.ssh import Pool
from commcli.remote.waves import Course, Share, in_waves

# A relay answers at once; this is for the way there and for a login anew.
ASK_S = 30.0
WHOLE = Share(100, is_percent=True)
# Nodes that come to their end within this time are noted together.
SOON_S = 0.2

Act = Callable[[Sequence[Node], OnEvent], Awaitable[list[Outcome[PlayResult]]]]
Gate = Callable[[Sequence[Node]], Awaitable[str]]
Keep = Callable[[Mapping[str, Any]], None]
PASSED = "the run's deadline passed"


@dataclass(frozen=True, slots=True)
class Terms:
    """How carefully. `canary`: how many nodes, or the id of one; `max_fail`: more failures than that stop it, where
    being out of reach is one; `drain_s`: how long a node may take to be drained, None: it is not.
    """

    canary: int | str = 0
    wave: Share = WHOLE
    max_fail: Share = WHOLE
    pause_s: float = 0.0
    gate: str = ""
    drain_s: float | None = None

    def row(self) -> dict[str, Any]:
        """JSON-able, for the record."""
        return {
            "canary": self.canary,
            "wave": str(self.wave),
            "max_fail": str(self.max_fail),
            "pause_s": self.pause_s,
            "gate": self.gate,
            "drain_s": self.drain_s,
        }


@dataclass(slots=True)
class State:
    """How far it is: what a resumed rollout has to know. `drained`: by us, and not yet undrained."""

    waves: list[list[str]]
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """JSON-able, for the record."""
        return {"waves": self.waves, "done": self.done, "failed": self.failed, "drained": self.drained}


class Rollout:
    """One rollout. `state` is true at every moment, also when `go` is cancelled; `keep` is told each change of it, who
    is done SOON_S later: of a controller that is killed in between, those are done again.

    `drained` are nodes that a run before this one has drained and, since it was killed, not undrained.
    """

    def __init__(
        self,
        fleet: Fleet,
        pool: Pool,
        waves: Sequence[Sequence[Node]],
        terms: Terms,
        act: Act,
        *,
        gate: Gate | None = None,
        keep: Keep = lambda state: None,
        on_event: OnEvent | None = None,
        drained: Sequence[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        deadline_s: float | None = None,
    ) -> None:
        """`deadline_s` is for all of `go` but what undrains. What `act` does in it is its own affair."""
        self.state = State([[node.id for node in wave] for wave in waves], drained=list(drained))
        self._fleet, self._pool, self._waves, self._terms = fleet, pool, waves, terms
        self._act, self._gate, self._told, self._sleep = act, gate, keep, sleep
        self._on_event = on_event
        self._deadline_s, self._until = deadline_s, math.inf
        self._soon: asyncio.TimerHandle | None = None

    async def go(self) -> Course:
        """The waves, one after the other, until too many nodes have failed or the gate does not let on."""
        total = sum(map(len, self._waves))
        if self._deadline_s is not None:
            self._until = asyncio.get_running_loop().time() + self._deadline_s
        self._keep()
        if self.state.drained:
            await self.undrain()
        try:
            return await in_waves(
                self._waves,
                self._wave,
                is_failure=lambda outcome: outcome.state != "done",
                most=self._terms.max_fail.of(total),
                between=self._between,
                canary=bool(self._terms.canary),
            )
        finally:
            if self._soon is not None:
                self._keep()

    def _keep(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._told(self.state.row())

    def _keep_in_passing(self) -> None:
        # There is nobody to hear of a full disk here; at the end of the wave it is tried again, and heard.
        with contextlib.suppress(CommcliError):
            self._keep()

    async def _between(self, wave: Sequence[Node], is_last: bool) -> str:
        left_s = self._until - asyncio.get_running_loop().time()
        if left_s <= 0 and not is_last:
            return PASSED
        why = ""
        try:
            async with asyncio.timeout(left_s if left_s < math.inf else None) as limit:
                if not is_last and self._terms.pause_s:
                    self._say(f"pause of {self._terms.pause_s:g} s")
                    await self._sleep(self._terms.pause_s)
                if self._gate is not None and wave:
                    self._say(f"gate: {self._terms.gate}")
                    why = await self._gate(wave)
        except TimeoutError:
            if not limit.expired():
                raise
            return PASSED
        finally:
            self._say("")
        return f"gate after {', '.join(node.id for node in wave)}: {why}" if why else ""

    def _say(self, text: str) -> None:
        if self._on_event is not None:
            self._on_event(Event("", text))

    def _heard(self, event: Event) -> None:
        """What the play says of a node. Noted soon: of a controller that is killed, who is done must be known."""
        if event.state == "done":
            self._note(event.node, is_done=True)
        if self._on_event is not None:
            self._on_event(event)

    def _draining(self, event: Event) -> None:
        # That the drain came to its end is not the node's end.
        if self._on_event is not None and not event.state:
            self._on_event(event)

    def _note(self, name: str, *, is_done: bool) -> None:
        good, bad = (self.state.done, self.state.failed) if is_done else (self.state.failed, self.state.done)
        if name in bad:
            bad.remove(name)
        if name not in good:
            good.append(name)
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_later(SOON_S, self._keep_in_passing)

    async def _wave(self, wave: Sequence[Node]) -> list[Outcome[PlayResult]]:
        if self._terms.drain_s is None:
            outcomes = await self._act(wave, self._heard)
        else:
            outcomes = await self._apart(wave, self._terms.drain_s)
        for outcome in outcomes:
            self._note(outcome.node, is_done=outcome.state == "done")
        self._keep()
        return outcomes

    async def _apart(self, wave: Sequence[Node], drain_s: float) -> list[Outcome[PlayResult]]:
        """The same while no call is on the node. Who was drained before stays so: somebody meant it."""
        try:
            undrained = await self._drain(wave, drain_s)
            ready = [node for node in wave if node.id not in undrained]
            acted = {outcome.node: outcome for outcome in await self._act(ready, self._heard)}
        finally:
            still = await asyncio.shield(self.undrain())
        outcomes = [undrained.get(node.id) or acted[node.id] for node in wave]
        return [_left_drained(outcome, still.get(outcome.node)) for outcome in outcomes]

    async def _drain(self, wave: Sequence[Node], drain_s: float) -> dict[str, Outcome[PlayResult]]:
        """Drain them; what became of those that were not drained in that time."""
        nodes = {node.id: node for node in wave}
        before = await self._ask(list(wave), "status")
        fresh = [nodes[o.node] for o in before if o.value is not None and not o.value.get("drain")]
        # Noted before it is done: of a controller that is killed now, the nodes must be known. Who could not be
        # undrained after an earlier wave is still ours.
        self.state.drained += [node.id for node in fresh if node.id not in self.state.drained]
        self._keep()
        # Whom somebody drains already is waited for like the others.
        answers = [o for o in before if o.value is not None and o.value.get("drain")]
        answers += await self._ask(fresh, "drain", stop=False)
        left_s = min(drain_s, self._until - asyncio.get_running_loop().time())
        ended = await survey.await_drained(
            self._pool, wave, answers, stop=False, deadline_s=left_s, on_event=self._draining
        )
        return {outcome.node: _undone(outcome) for outcome in (*before, *ended) if outcome.state != "done"}

    async def undrain(self) -> dict[str, str]:
        """Undrain whom we have drained; node -> why it is still drained, of those where it did not go."""
        nodes = [self._fleet.nodes[name] for name in self.state.drained if name in self._fleet.nodes]
        answers = await self._ask(nodes, "undrain") if nodes else []
        still = {o.node: o.reason for o in answers if o.state != "done"}
        self.state.drained = list(still)
        self._keep()
        return still

    async def _ask(self, nodes: Sequence[Node], word: str, **arguments: Any) -> list[Outcome[dict[str, Any]]]:
        return await survey.ask_all(self._fleet, nodes, word, pool=self._pool, deadline_s=ASK_S, **arguments)


def _undone(outcome: Outcome[dict[str, Any]]) -> Outcome[PlayResult]:
    why = f"not drained, so nothing was done: {outcome.reason}"
    return Outcome(outcome.node, outcome.state, None, why, outcome.seconds, outcome.code)


def _left_drained(outcome: Outcome[PlayResult], why: str | None) -> Outcome[PlayResult]:
    if why is None:
        return outcome
    said = f"{outcome.reason}; " if outcome.reason else ""
    return replace(outcome, state="failed", code=max(1, outcome.code), reason=f"{said}still drained: {why}")


async def serving(fleet: Fleet, wave: Sequence[Node], pool: Pool) -> str:
    """The gate `status`: why the relays of a wave do not all serve, "" if they do."""
    answers = await survey.ask_all(fleet, wave, "status", pool=pool, deadline_s=ASK_S)
    told = [(o.node, o.reason if o.value is None else _amiss(o.node, o.value)) for o in answers]
    return "; ".join(f"{name}: {why}" for name, why in told if why)


def _amiss(name: str, status: Mapping[str, Any]) -> str:
    if status.get("node") != name:
        return f"the relay there says that it is {status.get('node')}"
    return ""


def digest(play: Play, nodes: Sequence[Node], variables: Variables) -> str:
    """What playbook and variables are, but for secrets: whether a resumed rollout is still the same."""
    text = hashlib.sha256(repr((play.name, play.steps, sorted(play.sources.items()))).encode())
    for node in sorted(nodes, key=lambda node: node.id):
        known = known_to(play, node, variables(node))
        text.update(json.dumps([node.id, known], sort_keys=True, default=_plain).encode())
    return text.hexdigest()


def _plain(value: object) -> str:
    if isinstance(value, Secret):
        return "secret"
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
