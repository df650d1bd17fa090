"""Neighbours that say hello over links with delay, loss and cuts, on one fake clock; and a call among them."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from commcli.relay.overlay.failover import IN_USE_INTERVAL_S, STANDBY_INTERVAL_S, Choice, PathMonitor
from commcli.relay.overlay.liveness import Liveness

UNIX_0 = 1_800_000_000.0
TICK_S = 0.02
ALIVE_S = 1.0  # a call that heard nothing for so long is dead for good
Link = tuple[str, str]


class Everything:
    """Whatever is asked for is in it."""

    def __contains__(self, _item: object) -> bool:
        return True


def anything(_peer: str) -> Everything:
    """A neighbour that stands on paths of ours to everywhere."""
    return Everything()


@dataclass
class Gilbert:
    """Losses in runs: a share of the datagrams, and the mean run of them."""

    loss: float
    burst: float
    random: random.Random
    is_bad: bool = False

    def __call__(self) -> bool:
        leave = 1 / self.burst
        enter = leave * self.loss / (1 - self.loss)
        self.is_bad = self.random.random() >= leave if self.is_bad else self.random.random() < enter
        return self.is_bad


@dataclass
class Node:
    """One relay: its clocks are off by whole lifetimes, since none of it may matter."""

    name: str
    liveness: Liveness
    ahead_s: float  # of its monotonic clock
    wall_ahead_s: float = 0.0
    dead: bool = False
    sleeping: bool = False
    is_mute: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)  # in its socket while it sleeps
    turn: int = 0


class World:
    """Every node is everybody's neighbour."""

    def __init__(self, names: Iterable[str], delay_s: Mapping[Link, float] | float = 0.045) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.delays = delay_s
        self.cut: set[Link] = set()
        self.lossy: dict[Link, Callable[[], bool]] = {}
        self.busy: dict[str, set[str]] = {}
        self.counts: Counter[Link] = Counter()  # hellos, by link
        self.books: dict[Link, list[int]] = {}  # expected, lost, runs; as Arrivals counts them
        self.after_turn: dict[str, Callable[[float], None]] = {}
        names = list(names)
        self.nodes = {
            name: Node(name, Liveness(name, lambda _peer: 99, anything), 1000.0 * at)
            for at, name in enumerate(names, 1)
        }
        for node in self.nodes.values():
            node.liveness.set_peers([name for name in names if name != node.name], node.ahead_s)
            self.at(0.0, partial(self._turn, node))

    def __getitem__(self, name: str) -> Liveness:
        return self.nodes[name].liveness

    def delay_s(self, sender: str, receiver: str) -> float:
        if isinstance(self.delays, float):
            return self.delays
        return self.delays.get((sender, receiver)) or self.delays[receiver, sender]

    def mute(self, name: str) -> None:
        """From now on all of its hellos are lost."""
        self.nodes[name].is_mute = True

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), do))

    def run(self, until: float) -> World:
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            do()
        self.now = until
        return self

    def stop(self, *names: str) -> None:
        """Dead at once, or as good as: neither reads nor writes."""
        for name in names:
            self.nodes[name].dead = True

    def sleep(self, name: str, seconds: float, *, excused: bool = False) -> None:
        """Its process stands still; what comes meanwhile waits in its socket. excused: its caller noticed."""
        node = self.nodes[name]
        node.sleeping = True
        node.turn += 1
        self.at(self.now + seconds, lambda: self._wake(node, seconds if excused else 0.0))

    def _wake(self, node: Node, excused_s: float) -> None:
        node.sleeping = False
        if excused_s:
            node.liveness.excuse(excused_s, self.now + node.ahead_s)
        self._turn(node)  # the loop looks at its timer first, and at its sockets then
        for read in node.waiting:
            read()
        node.waiting.clear()

    def _turn(self, node: Node) -> None:
        if node.dead or node.sleeping:
            return
        now = self.now + node.ahead_s
        for peer, body in node.liveness.due(now, self.busy.get(node.name, set())):
            self.counts[node.name, peer] += 1
            sent_us = int((self.now + UNIX_0 + node.wall_ahead_s) * 1e6)
            if not node.is_mute:
                self.put(node.name, peer, partial(self._hello, peer=node.name, body=body, sent_us=sent_us))
        hook = self.after_turn.get(node.name)
        if hook is not None:
            hook(self.now)
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        node.turn += 1
        turn, due = node.turn, min(self.now + TICK_S, node.liveness.wish() - node.ahead_s)
        self.at(max(self.now, due), lambda: self._turn(node) if node.turn == turn else None)

    def put(self, sender: str, receiver: str, read: Callable[[Node], None]) -> None:
        """A datagram on a link."""
        to = self.nodes[receiver]
        book = self.books.setdefault((sender, receiver), [0, 0, 0, 0])
        book[0] += 1
        lossy = self.lossy.get((sender, receiver))
        if (sender, receiver) in self.cut or (lossy is not None and lossy()):
            book[1] += 1
            book[2] += not book[3]
            book[3] = 1
            return
        book[3] = 0
        self.at(self.now + self.delay_s(sender, receiver), lambda: self._arrive(to, lambda: read(to)))

    def _arrive(self, to: Node, read: Callable[[], None]) -> None:
        if to.sleeping:
            to.waiting.append(read)
        elif not to.dead:
            read()

    def _hello(self, to: Node, peer: str, body: bytes, sent_us: int) -> None:
        to.liveness.heard(peer, self.now + to.ahead_s)
        to.liveness.hello(peer, body, sent_us, self.now + to.ahead_s, self.now + UNIX_0 + to.wall_ahead_s)
        if to.liveness.changed:
            hook = self.after_turn.get(to.name)
            if hook is not None:
                hook(self.now)
        self._schedule(to)

    def talk(self, *path: str, per_s: float = 0.0) -> None:
        """A call's segments are busy both ways, and carry so much media in each direction besides."""
        for one, other in itertools.pairwise(path):
            for sender, receiver in ((one, other), (other, one)):
                self.busy.setdefault(sender, set()).add(receiver)
                if per_s:
                    self._media(sender, receiver, 1 / per_s)

    def _media(self, sender: str, receiver: str, every_s: float) -> None:
        node = self.nodes[sender]
        if not node.dead and not node.sleeping and receiver in self.busy.get(sender, ()):
            self.put(sender, receiver, lambda to: to.liveness.heard(sender, self.now + to.ahead_s))
        self.at(self.now + every_s, lambda: self._media(sender, receiver, every_s))

    def tell_losses(self, every_s: float = 0.2) -> None:
        """Everybody's Arrivals tell how the weather is, from now on."""
        for (sender, receiver), (expected, lost, runs, _) in self.books.items():
            to = self.nodes[receiver]
            to.liveness.losses(sender, expected, lost, runs, self.now + to.ahead_s)
        self.at(self.now + every_s, lambda: self.tell_losses(every_s))


class Call:
    """One direction of a call: the ingress' choice among paths, steady media, and how long none of it arrived."""

    def __init__(self, world: World, *paths: tuple[str, ...], every_s: float = 0.004) -> None:
        self.world, self.every_s = world, every_s
        self.monitors = {
            label: PathMonitor(path)
            for label, path in zip(("primary", "backup", "last_resort"), paths, strict=False)
        }
        self.choice = Choice(list(self.monitors.items()))
        self.ingress = world.nodes[paths[0][0]]
        self.log: list[tuple[float, str, str]] = []
        self.arrived: list[float] = []
        self.refuses = ""  # a relay that forwards nothing
        self._ids = itertools.count()
        for path in paths:
            world.talk(*path)
        world.after_turn[self.ingress.name] = self._decide
        self._say()

    def _decide(self, now: float) -> None:
        liveness = self.ingress.liveness
        liveness.changed = False
        local = now + self.ingress.ahead_s
        switch = self.choice.decide(local, liveness.dead_on, liveness.vouched)
        if switch is not None:
            self.log.append((now, switch.after, switch.reason))
        for label, monitor in self.monitors.items():
            interval_s = IN_USE_INTERVAL_S if label == self.choice.active else STANDBY_INTERVAL_S
            if local - monitor.last_probe >= interval_s - 0.005:
                self._probe(monitor, local)

    def _probe(self, monitor: PathMonitor, local: float) -> None:
        probe = next(self._ids)
        monitor.probed(probe, local)
        there_and_back = (*monitor.path, *monitor.path[-2::-1])

        def arrived() -> None:
            monitor.answered(probe, self.world.now + self.ingress.ahead_s)

        self._travel(there_and_back, arrived)

    def _say(self) -> None:
        if not self.ingress.dead and not self.ingress.sleeping:
            self._travel(self.monitors[self.choice.active].path, lambda: self.arrived.append(self.world.now))
        self.world.at(self.world.now + self.every_s, self._say)

    def _travel(self, path: tuple[str, ...], arrived: Callable[[], None]) -> None:
        if len(path) == 1:
            arrived()
            return

        def read(to: Node) -> None:
            to.liveness.heard(path[0], self.world.now + to.ahead_s)
            if to.name != self.refuses:
                self._travel(path[1:], arrived)

        self.world.put(path[0], path[1], read)

    def longest_gap_ms(self, since: float) -> float:
        """The longest time without media at the other end, up to now; infinite if it is dead now."""
        times = [when for when in self.arrived if when >= since]
        if not times or self.world.now - times[-1] >= ALIVE_S:
            return math.inf
        gaps = (after - before for before, after in itertools.pairwise([since, *times, self.world.now]))
        return 1000 * max(gaps)
