"""A transit relay between two neighbours that are this process: what the benchmarks of a hop stand on.

The relay is a process as a node runs it, with a signed table and pair keys. The neighbours are the relay's own
Overlay, which takes and gives bytes, on sockets of ours. What an ingress sends can be recorded before it is sent, by
the same code in a time of its own, so that sealing costs nothing while something is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
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
TICK_S = 0.02
_YEAR_S = 365 * 86400.0
_INDEX_BYTES = 8
_BARE = kind_byte(BARE)


@dataclass(frozen=True)
class Moment:
    """What a neighbour sends at once. trains: (datagrams of one length and a shorter one, that length).

    at_s: after the beginning; packets: of clients, in all of it.
    """

    at_s: float
    datagrams: list[bytes]
    trains: list[tuple[bytes, int]]
    packets: int

    def send(self, edge: Edge, *, plain: bool = False) -> None:
        """As a relay sends it; plain: without UDP_SEGMENT, so that no train arrives."""
        datagrams, batches, to = self.datagrams, edge.batches, edge.transit
        if plain:
            for train, size in self.trains:
                datagrams = datagrams + [train[at : at + size] for at in range(0, len(train), size)]
            for data in datagrams:
                batches.send(data, to)
            return
        batches.send_all(datagrams, to)
        for train, size in self.trains:
            batches.send_train(train, size, to)


@dataclass
class Edge:
    """A neighbour of the transit: its overlay and its socket."""

    node: str
    overlay: Overlay
    batches: BatchSocket
    transit: Addr
    turn: int = 0
    now: float = 0.0  # of a recording
    number: int = 0  # of the last packet

    def say(self, payloads: Sequence[bytes], flow: int, now: float, unix: float) -> None:
        """Packets of a client here for one at the egress; a flow is a pair of relayed addresses."""
        src, dst = ((ADDRESSES[node], RELAY_PORTS[0] + flow) for node in (self.node, EGRESS))
        self.overlay.send(EGRESS, src, dst, payloads, now, unix)

    def moment(self, at_s: float, packets: int, now: float, unix: float) -> Moment:
        """What leaves now for the transit."""
        datagrams: list[bytes] = []
        trains: list[tuple[bytes, int]] = []
        for departure in self.overlay.flush(now, unix):
            if departure.to != self.transit:  # words for the other edge, with which it does not speak here
                continue
            datagrams += departure.datagrams + departure.probes
            trains += departure.trains
        return Moment(at_s, datagrams, trains, packets)

    def hear(self, now: float, unix: float) -> int:
        """Take what waits; how many packets there were for clients."""
        self.turn += 2
        count = 0
        for data, ancillary, _flags, source in self.batches.read(self.turn):
            size = train_size(ancillary) if ancillary else 0
            if size:
                found = self.overlay.receive_train(source, data, size, now, unix)
            else:
                found = self.overlay.receive(source, (data,), now, unix)
            count += sum(len(payloads) for _, _, payloads in found)
        return count

    def record(self, flows: int, size: int, a_moment: int, every_s: float, packets: int) -> list[Moment]:
        """So many packets of `size` bytes, `a_moment` of them at once, of the flows in turn. Their first 8 bytes
        count up from 0. The recording goes on in time where the last one ended.
        """
        began, unix_0, tick_at = self.now, time.time() - self.now, self.now
        moments = []
        for first in range(0, packets, a_moment):
            now = began + first // a_moment * every_s
            unix = unix_0 + now
            if now >= tick_at:
                tick_at += TICK_S
                self.overlay.tick(now, unix)
            for index in range(first, min(first + a_moment, packets)):
                payload = index.to_bytes(_INDEX_BYTES, "big") + bytes(size - _INDEX_BYTES)
                self.say([payload], index % flows, now, unix)
            moments.append(self.moment(now - began, min(a_moment, packets - first), now, unix))
            self.now = now + every_s
        return moments


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


def count(data: bytes, size: int) -> int:
    """How many packets a datagram, or a train of datagrams of `size`, has brought; as `indices`, but cheap."""
    if not size or len(data) <= size:
        return len(_of_one(data))
    kinds = data[12 : len(data) : size]
    bare = kinds.count(_BARE)
    if bare + 1 >= len(kinds):
        return bare
    return sum(len(_of_one(data[at : at + size])) for at in range(0, len(data), size))


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
