"""A call over a fleet on its bad days: clocks and tables of one's own, new processes, and relays gone bad."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from commcli.relay.overlay import wire
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.overlay.wire import Addr
from commcli.relay.table.shard import Shard
from tests.relay.overlay_world import UNIX_0, Plan, World, pair_key

NODES = ("ae-1", "kr-1", "sg-1", "jp-1", "hk-1", "xx-1")
TALK = {"ae-1": "kr-1", "kr-1": "ae-1"}
STEP_S = 0.005  # between two turns of everybody's loop
PACKET_S = 0.02
DELAY_S = 0.01


def both_ways(*paths: str) -> list[list[str]]:
    """Paths from ae-1 to kr-1, each named by the relays in between, and the same backwards."""
    there = [["ae-1", *path.split(), "kr-1"] for path in paths]
    return [*there, *(path[::-1] for path in there)]


class BoundPlan(Plan):
    """A table that says what each relay carries, as the controller writes it."""

    def shard(self, node: str) -> Shard:
        carried = frozenset(tuple(path) for path in self.paths if node in path[1:])
        return replace(super().shard(node), carries=carried)


@dataclass
class BadWorld(World):
    """A world in which each node may have a clock and a table of its own, and may begin again."""

    ahead_s: dict[str, float] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(4))
    said: dict[str, list[bytes]] = field(default_factory=dict)
    ever_said: set[bytes] = field(default_factory=set)
    _next_packet: float = 0.0

    def start(self, node: str) -> Overlay:
        overlay = Overlay(node, self.chance.randbytes)
        overlay.set_peers(self.plan.peers(node))
        overlay.set_shard(self.plan.shard(node))
        return overlay

    def clock(self, node: str) -> float:
        return UNIX_0 + self.now + self.ahead_s.get(node, 0.0)

    def begin_again(self, node: str) -> None:
        """The relay's process dies, and another one takes its place."""
        self.nodes[node] = self.start(node)

    def say(self, node: str, egress: str, *payloads: bytes, port: int = 40001) -> None:
        src, dst = self.plan.relayed(node, port), self.plan.relayed(egress, port)
        self.said.setdefault(egress, []).extend(payloads)
        self.ever_said.update(payloads)
        self.nodes[node].send(egress, src, dst, payloads, self.now, self.clock(node))
        self.flush(node)

    def hand(self, node: str, data: bytes, source: Addr) -> None:
        for src, dst, payloads in self.nodes[node].receive(source, [data], self.now, self.clock(node)):
            self.delivered += [(node, src, dst, payload) for payload in payloads]
        self.flush(node)

    def flush(self, node: str) -> None:
        for to, datagrams, trains, probes in self.nodes[node].flush(self.now, self.clock(node)):
            pieces = [run[at : at + size] for run, size in trains for at in range(0, len(run), size)]
            for data in datagrams + probes + pieces:
                self.put(self.plan.overlay(node), to, data)

    def run(self, seconds: float, media: Mapping[str, str] | None = None) -> None:
        """Everybody's loop turns; who is in `media` speaks 50 times a second, and never says a thing twice."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            for node, overlay in self.nodes.items():
                if node not in self.stopped:
                    overlay.tick(self.now, self.clock(node))
                    self.flush(node)
            if self.now >= self._next_packet:
                self._next_packet = self.now + PACKET_S - 1e-9
                for node, egress in (media or {}).items():
                    if node not in self.stopped:
                        self.say(node, egress, b"%s %.4f" % (node.encode(), self.now))
            self._deliver_until(round(self.now + STEP_S, 6))

    def forget(self) -> None:
        """From here on it counts."""
        self.delivered.clear()
        self.passed.clear()
        self.said.clear()
        for overlay in self.nodes.values():
            overlay.drops.clear()

    def missing(self) -> list[float]:
        """When what never arrived was said; everything else arrived once, and nothing that nobody said."""
        self.run(0.5)  # for the last ones
        lost = []
        for node, words in self.said.items():
            heard = [payload for egress, _, _, payload in self.delivered if egress == node]
            assert len(heard) == len(set(heard)), "twice"
            assert set(heard) <= self.ever_said, "said by nobody"
            lost += [float(word.split()[1]) for word in set(words) - set(heard)]
        return sorted(lost)

    def drops(self) -> dict[str, dict[str, int]]:
        return {node: dict(overlay.drops) for node, overlay in self.nodes.items() if overlay.drops}

    def active(self, node: str = "ae-1", egress: str = "kr-1") -> list[str]:
        return list(self.nodes[node].routes.egresses[egress].lane.path)

    def switches(self, node: str = "ae-1", egress: str = "kr-1") -> int:
        return len(self.nodes[node].routes.egresses[egress].switches)


WAYS = both_ways("sg-1 jp-1", "hk-1", "")


def world(paths: list[list[str]] = WAYS, **changes: Any) -> BadWorld:
    """A call that has gone on for a while, over two relays in between."""
    net = BadWorld(BoundPlan(NODES, paths), delay_s=lambda _a, _b: DELAY_S, **changes)
    net.run(2.0, TALK)
    net.forget()
    return net


def with_keys(plan: Plan, node: str, *names: str) -> dict[str, object]:
    """The neighbours of a node with pair keys of these names; the first one sends."""
    rows = Plan.peers(plan, node)
    for other, row in rows.items():
        assert isinstance(row, dict)
        pair = sorted((node, other))
        row["keys"] = [
            pair_key(*pair).hex() if name == "old" else pair_key("".join(pair), name).hex() for name in names
        ]
    return rows


def section(net: World, path: Sequence[str], number: int, payload: bytes = b"media") -> bytes:
    """One packet along any path, by who has the keys of its ingress."""
    head = wire.section_head(path, 4)
    ends = wire.pack_endpoints(net.plan.relayed(path[0]), net.plan.relayed(path[-1]))[wire.FAMILY_BYTES :]
    entry = ends + wire.NUMBER_AND_LENGTH.pack(number, len(payload))
    tag = wire.end_keyed(pair_key(path[0], path[-1]))()
    tag.update(head + entry + payload)
    return head + b"\1" + entry + tag.digest()


def sealed(net: BadWorld, sender: str, receiver: str, kind: int, body: bytes, rest: bytes = b"") -> bytes:
    """A datagram of a neighbour gone bad, with the next good sequence."""
    peer = net.nodes[receiver].routes.segments[sender].peer
    assert peer.arrivals is not None
    ends = (wire.node_number(sender), wire.node_number(receiver))
    return sealed_by(pair_key(sender, receiver), ends, kind, peer.arrivals.highest + 1, net.unix, body, rest)


def sealed_by(
    key: bytes,
    ends: tuple[int, int],
    kind: int,
    sequence: int,
    unix: float,
    body: bytes,
    rest: bytes = b"",
    marks: int = 0,
) -> bytes:
    """ends: the node numbers of sender and receiver."""
    message = wire.HEADER.pack(wire.kind_byte(kind), marks, len(body), sequence, int(unix * 1e6)) + body
    tag = wire.hop_keyed(key, *ends)()
    tag.update(message)
    return tag.digest() + message + rest
