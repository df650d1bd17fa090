"""A sender and a reflector of the mesh, and a network between them that does exactly what the test says."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from commcli.relay.mesh import stamp
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import Reflector

A, B = "ae-1", "kr-1"
HERE, THERE = "192.0.2.1", "192.0.2.2"
SENDER = (HERE, 50000)
UNIX_0 = 1_800_000_000.0
STAMP_0 = stamp.to_timestamp(UNIX_0)
UNKNOWN = stamp.UNKNOWN_CLOCK.pack()
KEYS = ["ab" * 32]

# What becomes of the how-manieth packet of a direction: the delays of its copies, none for lost.
Fate = Callable[[int], list[float]]


def peers(*others: tuple[str, str], keys: list[str]) -> dict[str, object]:
    return {
        node: {"address": address, "overlay_port": 3479, "stamp_port": 3480, "keys": keys}
        for node, address in others
    }


def windows(mesh: Mesh, since: float = 0) -> list[dict[str, Any]]:
    return [json.loads(row) for row in mesh.rows(since)]


def steady(_place: int) -> list[float]:
    return [0.05]


@dataclass
class Pair:
    """A sender at A, a reflector at B whose clock is off by `skew_s`, and the network between them."""

    forward: Fate = steady
    back: Fate = steady
    keys: list[str] = field(default_factory=lambda: KEYS)
    skew_s: float = 0.0
    now: float = 0.0
    tick_s: float = 0.02
    clocks: tuple[stamp.ErrorEstimate, stamp.ErrorEstimate] = (stamp.UNKNOWN_CLOCK, stamp.UNKNOWN_CLOCK)

    def __post_init__(self) -> None:
        self.mesh = Mesh(A, lambda size: bytes(size), clock=self.clocks[0])
        self.mesh.set_peers(peers((B, THERE), keys=self.keys))
        self.new_reflector()
        self._queue: list[tuple[float, int, str, bytes]] = []
        self._order = itertools.count()
        self._sent = {"forward": itertools.count(), "back": itertools.count()}

    def new_reflector(self) -> None:
        self.reflector = Reflector(B, self.clocks[1])
        self.reflector.set_peers(peers((A, HERE), keys=self.keys))

    @property
    def unix(self) -> float:
        return UNIX_0 + self.now

    def _fly(self, direction: str, data: bytes) -> None:
        fate = self.forward if direction == "forward" else self.back
        for delay_s in fate(next(self._sent[direction])):
            heapq.heappush(self._queue, (self.now + delay_s, next(self._order), direction, data))

    def run(self, seconds: float) -> Pair:
        end = self.now + seconds
        while self.now < end:
            for peer, to, data in self.mesh.tick(self.now, self.unix):
                assert (peer, to) == (B, (THERE, 3480))
                self._fly("forward", data)
            until = round(self.now + self.tick_s, 6)
            while self._queue and self._queue[0][0] <= until:
                self.now, _, direction, data = heapq.heappop(self._queue)
                self._land(direction, data)
            self.now = until
        return self

    def _land(self, direction: str, data: bytes) -> None:
        if direction == "back":
            self.mesh.receive_reply(data, (THERE, 3480), self.now, self.unix)
            return
        there = self.unix + self.skew_s
        reply = self.reflector.receive(data, SENDER, there, there + 0.001)
        if reply is not None:
            assert len(reply) <= len(data)
            self._fly("back", reply)

    @property
    def windows(self) -> list[dict[str, Any]]:
        return windows(self.mesh)


def lose(*places: int, delay_s: float = 0.05) -> Fate:
    return lambda place: [] if place in places else [delay_s]
