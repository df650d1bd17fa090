"""Overlays joined by a world with a fake clock: every datagram takes its delay, and can be held, spoiled or lost."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from commcli.relay.overlay.overlay import Overlay
from commcli.relay.overlay.wire import Addr
from commcli.relay.table.shard import Route, Shard, ShardNode
from commcli.relay.table.zones import Zone

UNIX_0 = 1_800_000_000.0
TICK_S = 0.02
PORTS = (40000, 42000)

Delivery = tuple[str, Addr, Addr, bytes]  # node, source, destination, payload


@dataclass
class Plan:
    """What a table says: the paths towards each egress, seen from their first node."""

    nodes: Sequence[str]
    paths: Sequence[Sequence[str]]  # for each pair of edges: primary, backup, last resort
    zones: tuple[Zone, ...] = ()
    blocked: Iterable[tuple[str, str]] = ()
    serial: int = 7

    def address(self, node: str) -> str:
        return f"192.0.2.{list(self.nodes).index(node) + 1}"

    def overlay(self, node: str) -> Addr:
        return (self.address(node), 3479)

    def relayed(self, node: str, port: int = 40001) -> Addr:
        """A relayed transport address at this node."""
        return (self.address(node), port)

    def shard(self, node: str) -> Shard:
        rows = {
            other: ShardNode(
                self.address(other), 3479, PORTS, other.split("-")[0], frozenset({other.split("-")[0]})
            )
            for other in self.nodes
        }
        ways: dict[str, list[tuple[str, ...]]] = {}
        for path in self.paths:
            if path[0] == node:
                ways.setdefault(path[-1], []).append(tuple(path))
        routes = {egress: Route(found[0], *[*found[1:], None, None][:2]) for egress, found in ways.items()}
        blocked = frozenset(far for near, far in self.blocked if near == node)
        return Shard(self.serial, node, "", "", UNIX_0 + 1e6, rows, self.zones, routes, blocked)

    def peers(self, node: str) -> dict[str, object]:
        return {
            other: {
                "address": self.address(other), "overlay_port": 3479, "stamp_port": 3480,
                "keys": [pair_key(node, other).hex()],
            }
            for other in self.nodes if other != node
        }  # fmt: skip


def pair_key(one: str, other: str) -> bytes:
    return hashlib.blake2s("\0".join(sorted((one, other))).encode()).digest()


@dataclass
class World:
    """Runs the overlays of a plan. `delay_s` of a directed segment; None loses the datagram."""

    plan: Plan
    delay_s: Callable[[str, str], float | None] = lambda _a, _b: 0.01
    now: float = 100.0
    delivered: list[Delivery] = field(default_factory=list)
    passed: list[tuple[str, str, bytes]] = field(default_factory=list)
    media: dict[str, Callable[[float], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self.nodes = {node: self.start(node) for node in self.plan.nodes}
        self.names = {self.plan.overlay(node): node for node in self.plan.nodes}
        self._queue: list[tuple[float, int, Addr, Addr, bytes]] = []
        self.stopped: set[str] = set()

    @property
    def unix(self) -> float:
        return UNIX_0 + self.now

    def random(self, size: int) -> bytes:
        """Never the same twice, and the same in every run."""
        return hashlib.blake2b(b"%d" % next(self._order), digest_size=size).digest()

    def start(self, node: str) -> Overlay:
        overlay = Overlay(node, self.random)
        overlay.set_peers(self.plan.peers(node))
        overlay.set_shard(self.plan.shard(node))
        return overlay

    def put(self, source: Addr, to: Addr, data: bytes) -> None:
        """A datagram on the way."""
        sender, receiver = self.names[source], self.names[to]
        self.passed.append((sender, receiver, data))
        delay_s = self.delay_s(sender, receiver)
        if delay_s is not None and sender not in self.stopped:
            heapq.heappush(self._queue, (self.now + delay_s, next(self._order), source, to, data))

    def say(self, node: str, egress: str, *payloads: bytes, port: int = 40001) -> None:
        """A client at `node` speaks to one at `egress`, in one turn of the loop."""
        src, dst = self.plan.relayed(node, port), self.plan.relayed(egress, port)
        self.nodes[node].send(egress, src, dst, payloads, self.now, self.unix)
        self.flush(node)

    def hand(self, node: str, data: bytes, source: Addr) -> None:
        """A datagram arrives at a node's overlay port."""
        for src, dst, payloads in self.nodes[node].receive(source, [data], self.now, self.unix):
            self.delivered += [(node, src, dst, payload) for payload in payloads]
        self.flush(node)

    def flush(self, node: str) -> None:
        """A turn of the node's loop ends."""
        for to, datagrams, trains, probes in self.nodes[node].flush(self.now, self.unix):
            for data in datagrams + probes:
                self.put(self.plan.overlay(node), to, data)
            for train, size in trains:
                for at in range(0, len(train), size):
                    self.put(self.plan.overlay(node), to, train[at : at + size])

    def settle(self) -> None:
        """Deliver all that is under way, without a tick."""
        while self._queue:
            self._deliver_until(max(self.now, self._queue[0][0]))

    def run(self, seconds: float, media: Mapping[str, str] | None = None) -> None:
        """Tick everybody; media: {node: egress} pairs that speak at every tick, their payload being the time."""
        end = self.now + seconds
        while self.now < end:
            for node, overlay in self.nodes.items():
                if node not in self.stopped:
                    overlay.tick(self.now, self.unix)
                    self.flush(node)
            for node, egress in (media or {}).items():
                self.say(node, egress, b"%.6f" % self.now)
            self._deliver_until(round(self.now + TICK_S, 6))

    def _deliver_until(self, end: float) -> None:
        while self._queue and self._queue[0][0] <= end:
            due, _, source, to, data = heapq.heappop(self._queue)
            self.now = max(self.now, due)
            if self.names[to] not in self.stopped:
                self.hand(self.names[to], data, source)
        self.now = end
