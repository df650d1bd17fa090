"""Overlays over links with delay, jitter, loss, bursts and a rate, all in simulated time, and calls that run over them.

The relays are the real ones without sockets; links are those of the lab (`shaping.Link`). A call has audio and video,
both ways: 50 packets of about 160 bytes a second, and 30 frames a second of a few packets of about 1000 bytes that
leave at one instant, now and then a large one. Every packet has its own name, so that what became of it is known.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from commcli.relay.overlay import wire
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.shaping import Link
from tests.relay.overlay_world import UNIX_0, Plan

TICK_S = 0.02
LEAST_TICK_S = 0.0005
AUDIO, VIDEO = "audio", "video"
KINDS = {
    wire.DATA: "data", wire.TRAIN: "data", wire.BARE: "data", wire.AGAIN: "again", wire.PARITY: "parity",
    wire.NACK: "nack",
}  # fmt: skip
_MARK = b"\xf0packet\xf1"
_NAME = struct.Struct(">II")
_NAMED = re.compile(re.escape(_MARK) + b"(.{8})", re.DOTALL)
_RTP_BYTES = 12

Rule = Mapping[str, object]  # of a `shaping.Link`
Directed = tuple[str, str]


class AnyLink(Protocol):
    """When a datagram comes out (seconds), None if it is lost."""

    def release(self, size_bytes: int, now: float) -> float | None: ...


class Policer:
    """A link that drops what is over its rate, and queues nothing: a token bucket of 8 kB."""

    DEPTH_BYTES = 8000

    def __init__(self, delay_ms: float, rate_kbit: float) -> None:
        self._delay_s, self._bytes_per_s = delay_ms / 1000, rate_kbit * 125
        self._left, self._at = float(self.DEPTH_BYTES), 0.0

    def release(self, size_bytes: int, now: float) -> float | None:
        self._left = min(self.DEPTH_BYTES, self._left + (now - self._at) * self._bytes_per_s)
        self._at = now
        if self._left < size_bytes:
            return None
        self._left -= size_bytes
        return now + self._delay_s


@dataclass
class Stream:
    """One medium of one call in one direction: what was sent when, and when it first came."""

    number: int
    node: str
    egress: str
    port: int
    medium: str
    sent: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    arrived: dict[int, float] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)  # lost by a link, the first time
    duplicates: int = 0

    def payload(self, size: int, now: float) -> bytes:
        """The next packet: an RTP header, its name, and filling."""
        kind = 111 if self.medium == AUDIO else 96
        index = len(self.sent)
        self.sent.append(now)
        self.sizes.append(size)
        rtp = struct.pack(">BBHII", 0x80, kind, index & 0xFFFF, int(now * 90_000) & 0xFFFFFFFF, self.number)
        named = rtp + _MARK + _NAME.pack(self.number, index)
        return named + bytes(max(0, size - len(named)))


@dataclass(frozen=True)
class Shape:
    """What a call sends in each direction."""

    audio_s: float = 0.02
    audio_bytes: tuple[int, int] = (120, 200)
    frame_s: float = 1 / 30
    frame_packets: tuple[int, int] = (3, 7)
    key_frame_packets: int = 25
    key_frame_every: int = 300
    video_bytes: tuple[int, int] = (900, 1100)


@dataclass
class Share:
    """What became of the packets of some streams that were sent in a stretch of time. Delays in s."""

    sent: int = 0
    hit: int = 0
    lost: int = 0
    media_bytes: int = 0
    added: list[float] = field(default_factory=list)  # of all that came
    added_repaired: list[float] = field(default_factory=list)  # of those that a link had lost

    @property
    def residual(self) -> float:
        return self.lost / self.sent if self.sent else float("nan")

    def later_than(self, seconds: float) -> float:
        """The share of packets that came so much later than usual, or never."""
        return (sum(added > seconds for added in self.added) + self.lost) / max(1, self.sent)


class LossyWorld:
    """`rules` of directed links; `default` for the others."""

    def __init__(
        self, plan: Plan, rules: Mapping[Directed, Rule], default: Rule | None = None, seed: int = 1
    ) -> None:
        self.plan, self._random = plan, random.Random(f"{seed}/world")
        self.now = 100.0
        self._rules, self._default, self._seed = dict(rules), default or {"delay_ms": 10}, seed
        self._links: dict[Directed, AnyLink] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes = {node: self._start(node) for node in plan.nodes}
        self.names = {plan.overlay(node): node for node in plan.nodes}
        self._next_tick = dict.fromkeys(self.nodes, self.now)
        self.streams: list[Stream] = []
        self.bytes: Counter[tuple[str, str, str]] = Counter()  # (from, to, kind) -> bytes put on the link
        self.dropped: Counter[Directed] = Counter()
        self.stopped: set[str] = set()
        self.watch: Callable[[str, str, bytes, bool], None] | None = None  # (from, to, datagram, is lost)
        for node in self.nodes:
            self.at(self.now, lambda node=node: self._tick(node))  # type: ignore[misc]

    def _start(self, node: str) -> Overlay:
        overlay = Overlay(node, self._random.randbytes)
        overlay.set_peers(self.plan.peers(node))
        overlay.set_shard(self.plan.shard(node))
        return overlay

    @property
    def unix(self) -> float:
        return UNIX_0 + self.now

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, what = heapq.heappop(self._events)
            self.now = max(self.now, when)
            what()
        self.now = end

    # --- links ---------------------------------------------------------------------------------------------

    def weather(self, one: str, other: str, rule: Rule, both_ways: bool = True) -> None:
        """From now on the link is like this."""
        for pair in [(one, other), (other, one)] if both_ways else [(one, other)]:
            self._rules[pair] = rule
            self._links.pop(pair, None)

    def use(self, one: str, other: str, link: AnyLink) -> None:
        """A link of another kind, in one direction."""
        self._links[one, other] = link

    def _link(self, pair: Directed) -> AnyLink:
        link = self._links.get(pair)
        if link is None:
            rule = self._rules.get(pair, self._default)
            link = self._links[pair] = Link(rule, random.Random(f"{self._seed}/{pair}/{self.now}"))
        return link

    def _put(self, node: str, to: str, data: bytes) -> None:
        kind = data[wire.HEADER_AT] & 15
        self.bytes[node, to, KINDS.get(kind, "control")] += len(data)
        release = None if node in self.stopped else self._link((node, to)).release(len(data), self.now)
        if self.watch is not None:
            self.watch(node, to, data, release is None)
        if release is None:
            self.dropped[node, to] += 1
            if kind in (wire.DATA, wire.TRAIN, wire.BARE):
                for name in _NAMED.findall(data):
                    number, index = _NAME.unpack(name)
                    self.streams[number].hit.add(index)
        else:
            self.at(release, lambda: self._hand(node, to, data))

    def _hand(self, source: str, node: str, data: bytes) -> None:
        if node in self.stopped:
            return
        found = self.nodes[node].receive(self.plan.overlay(source), [data], self.now, self.unix)
        for _, _, payloads in found:
            for payload in payloads:
                self._came(payload)
        self._flush(node)

    def _came(self, payload: bytes) -> None:
        number, index = _NAME.unpack_from(payload, _RTP_BYTES + len(_MARK))
        stream = self.streams[number]
        if index in stream.arrived:
            stream.duplicates += 1
        else:
            stream.arrived[index] = self.now

    # --- nodes ---------------------------------------------------------------------------------------------

    def _tick(self, node: str) -> None:
        if self.now < self._next_tick[node] or node in self.stopped:
            return
        self._next_tick[node] = self.now + TICK_S
        self.nodes[node].tick(self.now, self.unix)
        self._flush(node)
        self.at(self._next_tick[node], lambda: self._tick(node))

    def _flush(self, node: str) -> None:
        overlay = self.nodes[node]
        for to, datagrams, trains, probes in overlay.flush(self.now, self.unix):
            for data in datagrams + probes:
                self._put(node, self.names[to], data)
            for train, size in trains:
                for at in range(0, len(train), size):
                    self._put(node, self.names[to], train[at : at + size])
        wish = overlay.wish(self.now)
        if wish is not None and wish < self._next_tick[node]:
            due = max(wish, self.now + LEAST_TICK_S)
            if due < self._next_tick[node]:
                self._next_tick[node] = due
                self.at(due, lambda: self._tick(node))

    # --- calls ---------------------------------------------------------------------------------------------

    def call(
        self,
        one: str,
        other: str,
        count: int = 1,
        shape: Shape | None = None,
        video: bool = True,
        plain: bool = False,
    ) -> list[Stream]:
        """Calls that begin within the next frame, and never end."""
        began = len(self.streams)
        for _ in range(count):
            port = 40001 + len(self.streams) // 4
            for node, egress in ((one, other), (other, one)):
                self._talk(node, egress, port, AUDIO, shape or Shape(), plain)
                if video:
                    self._talk(node, egress, port, VIDEO, shape or Shape(), plain)
        return self.streams[began:]

    def _talk(self, node: str, egress: str, port: int, medium: str, shape: Shape, plain: bool) -> None:
        stream = Stream(len(self.streams), node, egress, port, medium)
        self.streams.append(stream)
        interval_s = shape.audio_s if medium == AUDIO else shape.frame_s
        frames = self._frames(shape, medium)

        def speak() -> None:
            payloads = [stream.payload(size, self.now) for size in next(frames)]
            ends = self.plan.relayed(node, port), self.plan.relayed(egress, port)
            self.nodes[node].send(egress, *ends, payloads, self.now, self.unix, None, plain)
            self._flush(node)
            self.at(self.now + interval_s * self._random.uniform(0.95, 1.05), speak)

        self.at(self.now + self._random.random() * interval_s, speak)

    def _frames(self, shape: Shape, medium: str) -> Iterator[list[int]]:
        """The sizes of what leaves together, the last packet of a frame being what is left."""
        draw = self._random
        for number in itertools.count():
            if medium == AUDIO:
                yield [draw.randint(*shape.audio_bytes)]
                continue
            is_key = number % shape.key_frame_every == shape.key_frame_every - 1
            packets = shape.key_frame_packets if is_key else draw.randint(*shape.frame_packets)
            size = draw.randint(*shape.video_bytes)
            yield [size] * (packets - 1) + [draw.randint(100, size)]

    # --- what came of it -----------------------------------------------------------------------------------

    def share(self, streams: Iterable[Stream], since: float, until: float) -> Share:
        """What became of the packets sent in that time. Delays are over the least of their own stream."""
        share = Share()
        for stream in streams:
            usual = min((at - stream.sent[index] for index, at in stream.arrived.items()), default=0.0)
            for index, sent in enumerate(stream.sent):
                if not since <= sent < until:
                    continue
                share.sent += 1
                share.media_bytes += stream.sizes[index]
                is_hit = index in stream.hit
                share.hit += is_hit
                at = stream.arrived.get(index)
                if at is None:
                    share.lost += 1
                    continue
                share.added.append(at - sent - usual)
                if is_hit:
                    share.added_repaired.append(at - sent - usual)
        return share
