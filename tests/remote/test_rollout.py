"""A rollout over a fleet whose relays are fakes: what is done in which order, and what is known of it then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.errors import BadInput
from commcli.fleet.model import Fleet, Node, Region, Signing, SshDefaults, SshTarget
from commcli.remote import answer
from commcli.remote.outcome import Event, OnEvent, Outcome
from commcli.remote.rollout import Rollout, Terms, serving
from commcli.remote.run import PlayResult
from commcli.remote.ssh import Completed, Pool
from commcli.remote.waves import Share


def fleet_of(names: str) -> Fleet:
    nodes = {name: Node(name, "x", "sg", "127.0.0.1", SshTarget("127.0.0.1", "ops")) for name in names}
    region = {"x": Region("x", "x", "sg", "asia")}
    signing, ssh = Signing(Path("signers")), SshDefaults(Path("known_hosts"))
    return Fleet("f", False, "f.example", region, nodes, {}, (), {}, signing, ssh)


class Relays:
    """Every node's relay, and all that happened. `busy` are never drained, `deaf` do not obey undrain."""

    def __init__(self, *, drained: str = "", busy: str = "", deaf: str = "", bad: str = "") -> None:
        self.happened: list[str] = []
        self.draining = set(drained)
        self._busy, self._deaf, self._bad = busy, deaf, bad
        self.at_play: Callable[[], None] = lambda: None

    def hears(self, name: str) -> None:
        self._deaf = self._deaf.replace(name, "")

    async def connect(self, node: Node) -> Any:
        return _Connection(self, node.id)

    def answer(self, name: str, word: str) -> Mapping[str, Any]:
        if word == "undrain" and name in self._deaf:
            return {"ok": False, "error": "deaf"}
        if word != "status":
            self.happened.append(f"{word} {name}")
            (self.draining.add if word == "drain" else self.draining.discard)(name)
        drain = name in self.draining
        return {
            "ok": True,
            "node": name,
            "drain": drain,
            "drained": drain and name not in self._busy,
            "allocations": 1,
        }

    async def act(self, nodes: Sequence[Node], on_event: OnEvent) -> list[Outcome[PlayResult]]:
        outcomes = []
        self.at_play()
        for node in nodes:
            state: Any = "failed" if node.id in self._bad else "done"
            self.happened.append(f"play {node.id}")
            on_event(Event(node.id, "", state))
            outcomes.append(
                Outcome(node.id, state, PlayResult(), "why" * (state != "done"), 0.0, int(state != "done"))
            )
        return outcomes


class _Connection:
    def __init__(self, relays: Relays, name: str) -> None:
        self._relays, self._name = relays, name

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        answer = self._relays.answer(self._name, argv[6])
        return Completed(0, json.dumps(answer).encode(), b"")


def rollout(relays: Relays, waves: str, terms: Terms, **how: Any) -> tuple[Rollout, list[dict[str, Any]]]:
    kept: list[dict[str, Any]] = []
    fleet = fleet_of(waves.replace(" ", ""))
    parts = [[fleet.nodes[name] for name in wave] for wave in waves.split()]
    refuse = how.pop("refuse", lambda state: None)

    def keep(state: Mapping[str, Any]) -> None:
        kept.append(json.loads(json.dumps(state)))
        refuse(state)

    return Rollout(fleet, cast("Pool", relays), parts, terms, relays.act, keep=keep, **how), kept


class Slow(Relays):
    """The last node of each wave comes to its end only when the others are known to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []

    async def act(self, nodes: Sequence[Node], on_event: OnEvent) -> list[Outcome[PlayResult]]:
        outcomes = await super().act(nodes[:-1], on_event)
        while {node.id for node in nodes[:-1]} - set(self.kept[-1]["done"]):  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(0)
        return outcomes + await super().act(nodes[-1:], on_event)


ONE = Terms(canary=1, wave=Share(2), max_fail=Share(0))


async def test_who_is_done_is_known_after_each_wave() -> None:
    going, kept = rollout(Relays(bad="c"), "a bc d", ONE)
    course = await going.go()
    assert course.stopped == "c: failed: why" and course.not_tried == ["d"]
    assert [state["done"] for state in kept] == [[], ["a"], ["a", "b"]]
    assert kept[-1]["failed"] == ["c"] and kept[-1]["waves"] == [["a"], ["b", "c"], ["d"]]


async def test_who_is_done_is_known_while_others_of_the_wave_are_at_work() -> None:
    relays = Slow()
    going, kept = rollout(relays, "abc", Terms())
    relays.kept = kept
    await asyncio.wait_for(going.go(), 10)
    assert [state["done"] for state in kept] == [[], ["a", "b"], ["a", "b", "c"]]


async def test_a_full_disk_is_heard_at_the_end_of_the_wave_and_not_by_the_event_loop() -> None:
    def refuse(state: Mapping[str, Any]) -> None:
        if state["done"]:
            raise BadInput("disk full")

    relays = Slow()
    going, kept = rollout(relays, "abc", Terms(), refuse=refuse)
    relays.kept = kept
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    with pytest.raises(BadInput, match="disk full"):
        await asyncio.wait_for(going.go(), 10)
    assert [state["done"] for state in kept] == [[], ["a", "b"], ["a", "b", "c"]] and unheard == []


@pytest.mark.parametrize(("most", "not_tried"), [("0", ["d"]), ("1", []), ("25%", []), ("24%", ["d"])])
async def test_as_many_may_fail_as_was_said_but_no_canary(most: str, not_tried: list[str]) -> None:
    number = Share(int(most.removesuffix("%")), most.endswith("%"))
    going, _ = rollout(Relays(bad="c"), "a bc d", Terms(1, Share(2), number))
    assert (await going.go()).not_tried == not_tried
    going, _ = rollout(Relays(bad="a"), "a bc d", Terms(1, Share(2), Share(4)))
    assert (await going.go()).not_tried == ["b", "c", "d"]


async def test_pause_and_gate_stand_between_the_waves() -> None:
    relays = Relays()

    async def gate(wave: Sequence[Node]) -> str:
        relays.happened.append("gate " + "".join(node.id for node in wave))
        return "no media" if wave[0].id == "b" else ""

    async def sleep(seconds: float) -> None:
        relays.happened.append(f"pause {seconds:g}")

    terms = Terms(1, Share(2), Share(0), 30.0, "call")
    going, _ = rollout(relays, "a bc d", terms, gate=gate, sleep=sleep)
    course = await going.go()
    assert relays.happened == ["play a", "pause 30", "gate a", "play b", "play c", "pause 30", "gate bc"]
    assert course.stopped == "gate after b, c: no media" and course.not_tried == ["d"]


DRAINED = Terms(1, Share(2), Share(0), drain_s=0.05)


async def test_each_node_is_drained_before_and_undrained_after() -> None:
    relays = Relays(drained="b")
    going, kept = rollout(relays, "a bc", DRAINED)
    assert not (await going.go()).stopped
    # b was drained by somebody before: it stays so.
    assert relays.happened == ["drain a", "play a", "undrain a", "drain c", "play b", "play c", "undrain c"]
    assert kept[1]["drained"] == ["a"] and kept[-1]["drained"] == [] and relays.draining == {"b"}


async def test_who_is_not_drained_in_time_is_left_as_it_is() -> None:
    relays = Relays(busy="a")
    going, _ = rollout(relays, "a b", DRAINED)
    course = await going.go()
    assert relays.happened == ["drain a", "undrain a"] and course.not_tried == ["b"]
    assert "a: timeout: not drained, so nothing was done" in course.stopped


async def test_a_failed_node_is_undrained_and_one_that_stays_drained_has_failed() -> None:
    relays = Relays(bad="a")
    await rollout(relays, "a b", DRAINED)[0].go()
    assert relays.happened == ["drain a", "play a", "undrain a"]
    going, kept = rollout(Relays(deaf="a"), "a b", DRAINED)
    course = await going.go()
    assert course.stopped == "a: failed: still drained: relay: deaf" and going.state.drained == ["a"]
    assert (kept[-1]["done"], kept[-1]["failed"]) == ([], ["a"])


@pytest.mark.parametrize("what", ["pause", "gate", "drain"])
async def test_what_comes_between_waves_ends_with_the_deadline_of_the_run(what: str) -> None:
    async def never(wave: Sequence[Node]) -> str:
        await asyncio.Event().wait()
        return ""

    relays = Relays(busy="ab" if what == "drain" else "")
    terms = Terms(1, Share(1), Share(3), 60.0 * (what == "pause"), what, 60.0 if what == "drain" else None)
    gate = never if what == "gate" else None
    going, _ = rollout(relays, "a b c", terms, gate=gate, deadline_s=0.05)
    async with asyncio.timeout(10):
        course = await going.go()
    assert course.not_tried == ["b", "c"]
    assert ("not drained" if what == "drain" else "the run's deadline passed") in course.stopped
    assert relays.draining == set() and going.state.drained == []


async def test_whom_somebody_drains_already_is_waited_for() -> None:
    relays = Relays(drained="a", busy="a")
    course = await rollout(relays, "a b", DRAINED)[0].go()
    assert relays.happened == [] and "a: timeout: not drained, so nothing was done" in course.stopped
    assert relays.draining == {"a"}, "what somebody else has begun is theirs"


async def test_who_could_not_be_undrained_is_tried_after_each_wave_and_never_forgotten() -> None:
    relays = Relays(deaf="b")
    going, kept = rollout(relays, "a b c d", Terms(0, Share(1), Share(4), drain_s=0.05))
    await going.go()
    assert going.state.drained == ["b"] == kept[-1]["drained"] and relays.draining == {"b"}
    relays.hears("b")
    again, _ = rollout(relays, "b", Terms(0, Share(1), Share(4), drain_s=0.05), drained=["b"])
    await again.go()
    assert again.state.drained == [] and relays.draining == set()


async def test_whom_the_first_word_does_not_undrain_the_next_does() -> None:
    relays = Relays(drained="b", deaf="b")
    going, _ = rollout(relays, "a b", DRAINED, drained=["b"])
    relays.at_play = lambda: relays.hears("b")
    await going.go()
    assert going.state.drained == [] and relays.draining == set()


@pytest.mark.parametrize(("drained", "code"), [([], 0), (["b"], 1)])
def test_a_run_that_leaves_a_node_drained_is_no_good_answer(drained: list[str], code: int) -> None:
    doc = answer.rolled_out({"exit_code": 0}, {"drained": drained}, "", [], None)
    assert doc["exit_code"] == code


async def test_whoever_is_interrupted_leaves_nobody_drained() -> None:
    relays, begun = Relays(), asyncio.Event()

    async def hang(nodes: Sequence[Node], on_event: OnEvent) -> list[Outcome[PlayResult]]:
        begun.set()
        await asyncio.Event().wait()
        return []

    relays.act = hang  # type: ignore[method-assign]
    going, _ = rollout(relays, "ab", DRAINED)
    task = asyncio.create_task(going.go())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert relays.draining == set() and going.state.drained == []


async def test_whom_a_killed_run_left_drained_is_undrained_first() -> None:
    relays = Relays(drained="a")
    going, kept = rollout(relays, "a", DRAINED, drained=["a"])
    await going.go()
    assert relays.happened == ["undrain a", "drain a", "play a", "undrain a"]
    assert kept[0]["drained"] == ["a"] and kept[-1]["drained"] == []


async def test_the_gate_status_asks_who_answers() -> None:
    relays = Relays()
    fleet = fleet_of("ab")
    assert await serving(fleet, list(fleet.nodes.values()), cast("Pool", relays)) == ""
    relays.answer = lambda name, word: {"ok": True, "node": "b"}  # type: ignore[method-assign]
    told = await serving(fleet, list(fleet.nodes.values()), cast("Pool", relays))
    assert told == "a: the relay there says that it is b"
