"""A video that freezes, sent to Chromium and to the endpoint of our probe at once: what each says of it.

`python -m tests.clients.freezing JSON`, a program of its own because a probe's endpoint sets aiortc up for its whole
process. JSON: {"turn": {"host", "port", "username", "password"}, "chromium": [command of npm/viewers.js]}. Prints a
line a scenario: {"name", "ours": {"count", "total_ms"}, "theirs": {"count", "total_ms"}, "valid", "reason", "waits_ms":
how long a picture waited in Chromium on average, ...}.

The same camera is sent over two calls through the same relay: its pictures leave in the same moments, and what a
scenario does to one call on its way it does to the other: the same pictures are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from av import VideoFrame

from commcli.probe.endpoint import Argument, Controller, Endpoint
from commcli.probe.media import Pace, VideoTrack
from commcli.probe.profiles import PROFILES

# The cheapest one with pictures: a machine that can not keep up would freeze them by itself.
PROFILE = PROFILES["weak"]
PROFILE_NAME = "weak"
PICTURE_S = 1 / PROFILE.fps
# After both see pictures: the averages of the last 30 intervals need a few of them.
SETTLE_S = 1.0
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, in seconds since its begin: the camera stands still; nothing passes. Of some pictures, counted from
    the begin, nothing passes at first. All packets take so long.

    It begins half a picture before picture 0, so that in a tenth of a second exactly one is missing.
    """

    name: str
    seconds: float
    stalls: Sequence[tuple[float, float]] = ()  # (at, for how long)
    outages: Sequence[tuple[float, float]] = ()
    lost: Sequence[int] = ()
    delay_s: float = 0.0


SCENARIOS = (
    Scenario(
        "stalls",
        10.0,
        # One after the other: too short to be a freeze; freezes; and what would be one, were it not for the long
        # one among the last 30 intervals. Each is a tenth of a second or more away from the threshold.
        stalls=((0.0, 0.1), (1.0, 0.4), (2.5, 0.7), (4.3, 1.3), (6.8, 0.3), (8.3, 0.6)),
    ),
    Scenario(
        "lossy",
        10.0,
        # Short of where a receiver that knows the round trip gives up asking for what was lost just before.
        outages=((0.5, 0.4), (3.0, 0.5), (6.5, 0.4)),
        # Asked for and sent again each is there before it is a freeze.
        lost=(14, 23, 46, 55, 80, 88),
        delay_s=0.04,
    ),
)


class Timeline:
    """When the scenario began, by the loop's clock; until then nothing happens."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.base_s = time.monotonic()
        self.first: int | None = None  # the number of the first picture after the begin

    def begin(self) -> None:
        """Half a picture after the next one."""
        self.first = int((time.monotonic() - self.base_s) / PICTURE_S) + 2

    def within(self, spans: Sequence[tuple[float, float]]) -> bool:
        """Whether it is the time of one of these."""
        if self.first is None:
            return False
        now = time.monotonic() - self.base_s - (self.first - 0.5) * PICTURE_S
        return any(at <= now < at + length for at, length in spans)

    def loses(self, picture: int) -> bool:
        """Whether what is sent of that picture is lost at first."""
        return self.first is not None and picture - self.first in self.scenario.lost


class Camera(VideoTrack):
    """A track of the probe's, standing still when the timeline says so. All cameras of one timeline beat as one."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(PROFILE)
        self.number = 0  # of the picture that it gave last
        self._timeline = timeline
        self._pace = _BeatingAsOne(PICTURE_S, timeline.base_s)

    async def recv(self) -> VideoFrame:
        frame = await super().recv()
        while self._timeline.within(self._timeline.scenario.stalls):
            frame = await super().recv()
        assert frame.pts is not None
        self.number = frame.pts // self._ticks
        return frame


class _BeatingAsOne(Pace):
    def __init__(self, interval_s: float, start_s: float) -> None:
        super().__init__(interval_s)
        self._start = start_s


class Wire:
    """The channel of an endpoint whose controller is this program."""

    def __init__(self) -> None:
        self.told: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def event(self, word: str) -> asyncio.Future[dict[str, Any]]:
        """The first event of this kind."""
        return self.told.setdefault(word, self._loop.create_future())

    def order(self, word: str, **fields: object) -> None:
        self._orders.put({"do": word, **fields})

    # What an endpoint's controller uses.

    def send(self, message: Any) -> None:
        heard = self.event(message["event"])
        if not heard.done():
            heard.set_result(message)

    def receive(self, timeout: float | None = None) -> Any:
        return self._orders.get(timeout=timeout)


@dataclass(slots=True)
class End:
    """One of our endpoints in a call."""

    endpoint: Endpoint
    wire: Wire
    task: asyncio.Task[None] | None = None

    @classmethod
    def make(cls, turn: dict[str, Any], role: str, seconds: float) -> End:
        asked = {
            "role": role,
            "turn": turn,
            "peers": [turn["host"]],
            "profile": PROFILE_NAME,
            "seconds": seconds,
        }
        argument = Argument.parse({**asked, "connect_timeout_s": PATIENCE_S, "limit_s": 120})
        wire = Wire()
        return cls(Endpoint(argument, Controller(wire)), wire)

    def run(self) -> None:
        self.task = asyncio.ensure_future(self.endpoint.run())

    async def heard(self, word: str) -> dict[str, Any]:
        """The event, or what ended the endpoint before."""
        event = self.wire.event(word)
        assert self.task is not None
        both: set[asyncio.Future[Any]] = {event, self.task}
        await asyncio.wait(both, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if not event.done() and self.task.done():
            self.task.result()
        return event.result()

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        await self.endpoint.close()


class Call:
    """A call in which the scenario happens: our sending end, and what else of ours is in it. Nothing goes out yet."""

    def __init__(self, turn: dict[str, Any], timeline: Timeline) -> None:
        seconds = timeline.scenario.seconds + SETTLE_S + 0.5
        self.timeline = timeline
        self.sender = End.make(turn, "offer", seconds)
        self.camera = self.sender.endpoint._video = Camera(timeline)
        # It would send pictures too: nobody looks at them.
        self.receiver = End.make(turn, "answer", seconds)
        self.receiver.endpoint._video = None

    async def end(self) -> None:
        for one in (self.sender, self.receiver):
            await one.end()


def spoil(call: Call) -> None:
    """From here on the packets of its sender fare as the scenario says."""
    timeline, peer = call.timeline, call.sender.endpoint._peer
    assert peer is not None
    sender = next(t.sender for t in peer.getTransceivers() if t.kind == "video")
    transport, ssrc = sender.transport.transport, sender._ssrc.to_bytes(4, "big")
    send, loop, scenario = transport._send, asyncio.get_running_loop(), timeline.scenario
    kept: set[asyncio.Task[None]] = set()

    def pass_on(data: bytes) -> None:
        task = loop.create_task(_despite_the_end(send, data))
        kept.add(task)
        task.add_done_callback(kept.discard)

    async def spoiled(data: bytes) -> None:
        # RFC 3550 5.1: SRTP leaves it readable. What is sent again has another one.
        lost = data[8:12] == ssrc and timeline.loses(call.camera.number)
        if not lost and not timeline.within(scenario.outages):
            loop.call_later(scenario.delay_s, pass_on, data)

    transport._send = spoiled


async def _despite_the_end(send: Any, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        await send(data)


def in_every_section(sdp: str) -> str:
    """An answer with its candidates in each section: aiortc, having bundled them all, keeps those of the last."""
    head, *sections = re.split("(?m)^(?=m=)", sdp)
    found = re.findall("(?m)^a=candidate:.*\r\n", sdp)
    bare = [re.sub("(?m)^a=candidate:.*\r\n", "", section) for section in sections]
    return "".join([head, *(section + "".join([*found, "a=end-of-candidates\r\n"]) for section in bare)])


class Viewers:
    """Chromium, by npm/viewers.js."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[tuple[str, str], asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, command: Sequence[str]) -> Viewers:
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 20))

    async def ask(self, name: str, word: str, **fields: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        answer = self._answers[name, word] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"name": name, "do": word, **fields}).encode() + b"\n")
        told: dict[str, Any] = await asyncio.wait_for(answer, PATIENCE_S)
        if "error" in told:
            raise RuntimeError(told["error"])
        return told

    async def look(self, name: str) -> dict[str, float]:
        seen: dict[str, float] = (await self.ask(name, "look"))["seen"]
        return seen

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._reader.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            self._answers[told["name"], told["do"]].set_result(told)


async def to_chromium(call: Call, viewers: Viewers) -> None:
    """The call to the browser, until pictures come."""
    name, sender = call.timeline.scenario.name, call.sender
    sender.run()
    offer = await sender.heard("description")
    answer = await viewers.ask(name, "answer", sdp=offer["sdp"])
    sender.wire.order("description", type="answer", sdp=in_every_section(answer["sdp"]))
    until = time.monotonic() + PATIENCE_S
    while (await viewers.look(name))["framesDecoded"] < 30:
        assert time.monotonic() < until, "Chromium sees no picture"
        await asyncio.sleep(0.2)
    spoil(call)


async def to_ours(call: Call) -> None:
    """The call to our own receiver, until it measures."""
    call.sender.run()
    call.receiver.run()
    for one, other in ((call.sender, call.receiver), (call.receiver, call.sender)):
        told = await one.heard("description")
        other.wire.order("description", type=told["type"], sdp=told["sdp"])
    await call.receiver.heard("connected")
    spoil(call)


async def play(
    viewers: Viewers, turn: dict[str, Any], scenario: Scenario, all_connected: asyncio.Barrier
) -> dict[str, Any]:
    """The scenario, and what both have to say of it."""
    timeline = Timeline(scenario)
    theirs, ours = Call(turn, timeline), Call(turn, timeline)
    try:
        await to_chromium(theirs, viewers)
        # Setting up is work, of which the others must not feel anything while they measure.
        await all_connected.wait()
        await to_ours(ours)
        await asyncio.sleep(SETTLE_S)
        before = await viewers.look(scenario.name)
        timeline.begin()
        report = (await ours.receiver.heard("report"))["report"]
        after = await viewers.look(scenario.name)
    finally:
        for call in (theirs, ours):
            await call.end()
    return told(scenario, report, {name: after[name] - before[name] for name in after})


def told(scenario: Scenario, report: dict[str, Any], seen: dict[str, float]) -> dict[str, Any]:
    """The line that is printed."""
    video = report["received"]["video"]
    theirs = {"count": seen["freezeCount"], "total_ms": round(1000 * seen["totalFreezesDuration"])}
    return {
        "name": scenario.name,
        "ours": video["freezes"]["webrtc"],
        "theirs": theirs,
        "valid": report["valid"],
        "reason": report["reason"],
        "frames": [video["frames"], seen["framesDecoded"]],
        "asked_again": [video["nacks_sent"], seen["nackCount"]],
        "loss": video["loss"],
        "waits_ms": round(1000 * seen["jitterBufferDelay"] / max(1, seen["jitterBufferEmittedCount"])),
    }


async def main(asked: dict[str, Any]) -> None:
    viewers = await Viewers.start(asked["chromium"])
    ready = asyncio.Barrier(len(SCENARIOS))
    try:
        for line in await asyncio.gather(*(play(viewers, asked["turn"], each, ready) for each in SCENARIOS)):
            print(json.dumps(line), flush=True)
    finally:
        await viewers.end()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
