"""A transit relay between two neighbours that are this process: what the benchmarks of a hop stand on.

The relay is a process as a node runs it, with a signed table and pair keys. The neighbours are the relay's own
Overlay, which takes and gives bytes, on sockets of ours: they say hello, probe and report as relays do. What the
ingress sends can be sealed some moments before it is sent, so that this costs nothing while something is measured;
the egress looks at the heads of trains and counts the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commcli.relay.clients.udp import BatchSocket, train_size
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.overlay.train import BARE_BYTES
from commcli.relay.overlay.wire import BARE, DATA, ENTRY_BYTES, HEADER_BYTES, TRAIN, kind_byte
from commcli.relay.process import control
from commcli.relay.table.shard import Route, Shard, ShardNode
from commcli.remote import zipapp
from tests.bench.rivals import Rival, node_python
from tests.bench.turn_client import Addr, udp
from tests.relay.overlay_world import pair_key
from tests.relay.serving import STARTS_WITHIN_S
from tests.relay.tables_on_disk import Signer

INGRESS, TRANSIT, EGRESS = PATH = ("in-1", "tr-1", "eg-1")
ADDRESSES = {INGRESS: "127.0.0.2", TRANSIT: "127.0.0.3", EGRESS: "127.0.0.4"}
RELAY_PORTS = (40000, 41999)
TICK_S = 0.01
WARM_S, TRAINS_ARE_USUAL = 15.0, 100
SO_RCVBUFFORCE, BUFFER = 33, 64 << 20  # asm-generic/socket.h; a second of load, should we stand still
_YEAR_S = 365 * 86400.0
_INDEX_BYTES = 8
_BARE, _TRAIN = kind_byte(BARE), kind_byte(TRAIN)


@dataclass(frozen=True)
class Moment:
    """What a neighbour sends at once: datagrams and the trains after them, in that order, and how many packets of
    clients there are in all of it.
    """

    groups: list[tuple[list[bytes], list[tuple[bytes, int]]]]
    packets: int

    def send(self, edge: Edge, to: Addr | None = None, *, plain: bool = False) -> None:
        """As a relay sends it, to the transit or elsewhere; plain: without UDP_SEGMENT, so that no train arrives."""
        batches, to = edge.batches, to or edge.transit
        for datagrams, trains in self.groups:
            if plain:
                for data in datagrams:
                    batches.send(data, to)
            else:
                batches.send_all(datagrams, to)
            for train, size in trains:
                if not plain:
                    batches.send_train(train, size, to)
                    continue
                for at in range(0, len(train), size):
                    batches.send(train[at : at + size], to)


@dataclass
class Edge:
    """A neighbour of the transit: its overlay and its socket."""

    node: str
    overlay: Overlay
    batches: BatchSocket
    transit: Addr
    heads: int = 0  # of trains that came
    _turn: int = 0
    _tick_at: float = 0.0

    def say(self, payloads: Sequence[bytes], flow: int) -> None:
        """Packets of a client here for one at the egress; a flow is a pair of relayed addresses."""
        src, dst = ((ADDRESSES[node], RELAY_PORTS[0] + flow) for node in (self.node, EGRESS))
        self.overlay.send(EGRESS, src, dst, payloads, time.monotonic(), time.time())

    def sealed(self, packets: int) -> Moment:
        """What is to leave for the transit; so many packets are in it."""
        leaving = self.overlay.flush(time.monotonic(), time.time())
        # Words for the other edge need no transit.
        to_transit = [departure for departure in leaving if departure.to == self.transit]
        return Moment([(part.datagrams + part.probes, part.trains) for part in to_transit], packets)

    def moments(self, load: Load, first: int, count: int) -> list[Moment]:
        """The packets `first` and on, sealed now. The first 8 bytes of each are its number."""
        made, rest = [], bytes(load.size - _INDEX_BYTES)
        for start in range(first, first + count, load.a_moment):
            for index in range(start, start + load.a_moment):
                self.say([index.to_bytes(_INDEX_BYTES, "big") + rest], load.flow(index))
            made.append(self.sealed(load.a_moment))
        return made

    def turn(self) -> int:
        """Tick if it is time to, take what waits, say what there is to say; how many packets of clients came."""
        now, unix = time.monotonic(), time.time()
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self.overlay.tick(now, unix)
        came = sum(self.heard(data, size, now, unix) for data, size in self.read())
        self.sealed(0).send(self)
        return came

    def read(self) -> list[tuple[bytes, int]]:
        """Datagrams and trains that wait, with the length of a train's datagrams or 0."""
        self._turn += 2
        received = self.batches.read(self._turn)
        return [(data, train_size(ancillary) if ancillary else 0) for data, ancillary, _, _ in received]

    def heard(self, data: bytes, size: int, now: float, unix: float) -> int:
        """Take a datagram, or a train of datagrams of `size`; how many packets of clients are in it."""
        count = 0
        for at in range(0, len(data), size or len(data)):
            if data[at + 12] == _BARE:
                count += 1
                continue
            datagram = data[at : at + size] if size else data
            self.heads += datagram[12] == _TRAIN
            found = self.overlay.receive(self.transit, (datagram,), now, unix)
            count += sum(len(payloads) for _, _, payloads in found)
        return count


@dataclass(frozen=True)
class Load:
    """Packets of `size` bytes: `a_moment` of them at once, of each flow `together` after each other."""

    flows: int
    size: int
    a_moment: int
    together: int = 1

    def flow(self, index: int) -> int:
        """The flow of the packet with this number."""
        return index // self.together % self.flows


def indices(data: bytes, size: int) -> list[int]:
    """Which recorded packets a datagram, or a train of datagrams of `size`, has brought."""
    if not size or len(data) <= size:
        return _of_one(data)
    if data[12] & 15 == BARE and data[12 : len(data) : size].count(data[12]) >= len(data) // size:
        # All of them bare, but maybe for the head, which brings no packet.
        return [
            int.from_bytes(data[at : at + _INDEX_BYTES], "big")
            for at in range(BARE_BYTES, len(data), size)
            if data[at - 1] & 15 == BARE
        ]
    return [index for at in range(0, len(data), size) for index in _of_one(data[at : at + size])]


def _of_one(data: bytes) -> list[int]:
    kind = data[12] & 15
    if kind == BARE:
        return [int.from_bytes(data[BARE_BYTES : BARE_BYTES + _INDEX_BYTES], "big")]
    if kind != DATA:
        assert kind == TRAIN or kind > DATA, kind
        return []
    at = HEADER_BYTES
    payload_at = at + int.from_bytes(data[14:16], "big")
    end, found = payload_at, []
    while at < end:
        entry_bytes = ENTRY_BYTES[data[at] & 15]
        at += 1 + 4 * (data[at] >> 4)
        count = data[at]
        at += 1
        for _ in range(count):
            at += entry_bytes
            found.append(int.from_bytes(data[payload_at : payload_at + _INDEX_BYTES], "big"))
            payload_at += int.from_bytes(data[at - 14 : at - 12], "big")
    return found


@dataclass
class Rig:
    """The relay and its neighbours."""

    relay: Rival
    base: Path
    ingress: Edge
    egress: Edge

    def turn(self) -> int:
        """A turn of both neighbours; how many packets of clients came to the egress."""
        self.ingress.turn()
        return self.egress.turn()

    def warm(self, load: Load, every_s: float) -> None:
        """Let the load flow until it rides in trains over both segments. Raises RuntimeError if it never does."""
        end = time.monotonic() + WARM_S
        while time.monotonic() < end:
            self.ingress.moments(load, 0, load.a_moment)[0].send(self.ingress)
            time.sleep(every_s)
            self.turn()
            if self.egress.heads > TRAINS_ARE_USUAL:
                return
        raise RuntimeError(f"no trains: {self.ask('status')['overlay']['segments']}")

    def ask(self, command: str) -> dict[str, Any]:
        """The answer of the relay's control socket."""
        return control.ask(self.base / "run/control.sock", {"cmd": command})

    def drops(self) -> dict[str, int]:
        """What went nowhere at the relay, and why: sockets and overlay together."""
        status = self.ask("status")
        return dict(Counter(status["drops"]) + Counter(status["overlay"]["drops"]))


def _shard_nodes(ports: dict[str, int]) -> dict[str, ShardNode]:
    markets = frozenset({"sg"})
    return {node: ShardNode(ADDRESSES[node], ports[node], RELAY_PORTS, "sg", markets) for node in PATH}


def _peers(node: str, ports: dict[str, int]) -> dict[str, object]:
    return {
        other: {
            "address": ADDRESSES[other], "overlay_port": ports[other], "stamp_port": ports[other] + 1,
            "keys": [pair_key(node, other).hex()],
        }
        for other in PATH if other != node
    }  # fmt: skip


def _edge(node: str, ports: dict[str, int], batches: BatchSocket) -> Edge:
    overlay = Overlay(node, os.urandom)
    overlay.set_peers(_peers(node, ports))
    routes = {EGRESS: Route(PATH, None, None)} if node == INGRESS else {}
    carries = frozenset({PATH} if node == EGRESS else set())
    expires = time.time() + _YEAR_S
    overlay.set_shard(
        Shard(1, node, "", "", expires, _shard_nodes(ports), (), routes, frozenset(), carries=carries)
    )
    return Edge(node, overlay, batches, (ADDRESSES[TRANSIT], ports[TRANSIT]))


def _write(base: Path, ports: dict[str, int]) -> None:
    """What a node has in its folder."""
    (base / "etc").mkdir()
    signer = Signer(base)
    config = {
        "schema": 1, "node": TRANSIT, "base": str(base), "address": ADDRESSES[TRANSIT], "realm": "lab",
        "turn_port": ports[TRANSIT] + 2, "relay_ports": list(RELAY_PORTS), "overlay_port": ports[TRANSIT],
        "stamp_port": ports[TRANSIT] + 1, "allow_peers": [],
    }  # fmt: skip
    (base / "etc/relay.json").write_text(json.dumps(config))
    (base / "etc/turn.secret").write_text("nobody comes to a transit\n")
    (base / "etc/peers.json").write_text(json.dumps({"schema": 1, "peers": _peers(TRANSIT, ports)}))
    created, expires = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + later)) for later in (0, 86400)
    )
    nodes = {
        name: {
            "address": row.address, "overlay_port": row.overlay_port, "relay_ports": list(row.relay_ports),
            "country": row.country, "markets": sorted(row.markets),
        }
        for name, row in _shard_nodes(ports).items()
    }  # fmt: skip
    document = {
        "schema": 1, "serial": 1, "node": TRANSIT, "created": created, "expires": expires, "nodes": nodes,
        "zones": [], "routes": {}, "blocked": [], "carries": [" ".join(PATH)],
    }  # fmt: skip
    signer.push(document)
    (base / "relay.pyz").write_bytes(zipapp.build())


def _free_ports() -> int:
    """The first of three that were free a moment ago at the transit's address."""
    while True:
        with udp(ADDRESSES[TRANSIT]) as sock, contextlib.suppress(OSError):
            port: int = sock.getsockname()[1]
            for other in (port + 1, port + 2):
                udp(ADDRESSES[TRANSIT], other).close()
            return port


@contextmanager
def rig() -> Iterator[Rig]:
    """The relay with its table in force, between its neighbours."""
    drops: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="commcli-bench-") as folder,
        udp(ADDRESSES[INGRESS]) as near,
        udp(ADDRESSES[EGRESS]) as far,
    ):
        base = Path(folder)
        ports = {INGRESS: near.getsockname()[1], TRANSIT: _free_ports(), EGRESS: far.getsockname()[1]}
        _write(base, ports)
        for sock in (near, far):
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # not root: then a busy machine loses more here
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        ingress, egress = (
            _edge(node, ports, BatchSocket(sock, drops)) for node, sock in ((INGRESS, near), (EGRESS, far))
        )
        serve = ["-I", str(base / "relay.pyz"), "serve", "--config", str(base / "etc/relay.json")]
        process = subprocess.Popen([node_python(), *serve], stderr=subprocess.DEVNULL)
        try:
            made = Rig(Rival("commcli", ports[TRANSIT], process.pid), base, ingress, egress)
            _wait_for_the_table(made)
            yield made
        finally:
            process.terminate()
            process.wait(10)


def _wait_for_the_table(made: Rig) -> None:
    end = time.monotonic() + STARTS_WITHIN_S
    status: Any = None
    while time.monotonic() < end:
        try:
            status = made.ask("status")["table"]
            if status["serial"] == 1:
                return
        except OSError as error:
            status = error
        time.sleep(0.05)
    raise RuntimeError(f"the relay does not take its table: {status}")
