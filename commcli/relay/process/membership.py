"""What makes a TURN server a member of a fleet: overlay, STAMP mesh, table."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Set

from commcli.relay import shaping
from commcli.relay.clients.udp import Addr, BatchSocket, bound_udp, train_size
from commcli.relay.mesh import neighbours
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.process.control import Reply, Text
from commcli.relay.process.measuring import Measuring
from commcli.relay.process.stamped import StampedSocket
from commcli.relay.table.files import TableFiles
from commcli.relay.watched import WatchedJson

if TYPE_CHECKING:
    from commcli.relay.process.daemon import Relay

FILES_EVERY_S = 0.5

NO_TABLE = {
    **{"serial": None, "expires": None, "expires_unix": None, "expired": False, "refused": None},
    **{"staged": None, "staged_refused": None},
}


class Membership:
    """One relay's part in the fleet."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.config = relay, relay.config
        self.overlay = Overlay(self.config.node, os.urandom)
        self.tables = TableFiles(self.config, relay.log)
        self.files = [WatchedJson(self.config.path("etc/peers.json"), self._use_peers)]
        if self.config.faults:
            self.files.append(WatchedJson(self.config.path("etc/faults.json"), self._use_faults))
        self.overlay_socket = self._udp("overlay", self.config.overlay_port)
        self._overlay_batches = (
            None if self.overlay_socket is None else BatchSocket(self.overlay_socket, relay.drops)
        )
        if self.overlay_socket is not None and self._overlay_batches is not None:
            relay.loop.add(self.overlay_socket, self._on_overlay)
            self._overlay_batches.may_be_cut()
        stamps, answers = self._stamped("stamp", self.config.stamp_port), self._stamped("mesh", 0)
        self.measuring = Measuring(
            self.config.node, stamps, answers, relay.egress, relay.loop, self.config.mesh
        )
        self.mesh = self.measuring.mesh
        self.services: List[Addr] = []  # the other nodes' overlay and STAMP ports
        self.key_ids: Dict[str, List[str]] = {}  # of the keys in use, by neighbour (neighbours.key_ids)
        self._next_files = 0.0
        self._read_files(start=True)

    def _udp(self, name: str, port: Optional[int]) -> Optional[socket.socket]:
        if port is None:
            return None
        address = self.config.bind_to(self.config.address)
        return self.relay.sockets.get(f"{name} {address} {port}", lambda: bound_udp(address, port))

    def _stamped(self, name: str, port: Optional[int]) -> Optional[StampedSocket]:
        sock = self._udp(name, port)
        return None if sock is None else StampedSocket(sock, self.relay.drops, ttl=port != 0)

    def close(self) -> None:
        if self.overlay_socket is not None:
            self.relay.loop.remove(self.overlay_socket)
            self.overlay_socket.close()
        self.measuring.close()

    def kept(self, now: float) -> Dict[str, Any]:
        """What the next process of this relay goes on with (JSON)."""
        if self._overlay_batches is not None:
            self._overlay_batches.whole()
        return {"overlay": self.overlay.kept(now), "mesh": self.mesh.kept()}

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on with what another process `kept`."""
        self.overlay.take(kept["overlay"], now)
        self.mesh.take(kept["mesh"])

    # --- datagrams -----------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """Send what the overlay has gathered in this turn of the loop, to each next hop as a batch."""
        batches, egress = self._overlay_batches, self.relay.egress
        for to, datagrams, trains, probes in self.overlay.flush(now, time.time()):
            if batches is None:
                continue
            if egress.shaper is None:
                batches.send_all(datagrams, to)
                for train, size in trains:
                    batches.send_train(train, size, to)
                for probe in probes:
                    if not batches.probe(probe, to):
                        self.overlay.too_big(to, len(probe), now)
                continue
            for train, size in trains:
                datagrams += [train[at : at + size] for at in range(0, len(train), size)]
            batches.whole()
            for data in datagrams + probes:
                egress.send(batches.sock, data, to, now)

    def _on_overlay(self, _events: int) -> None:
        assert self._overlay_batches is not None
        now, unix = self.relay.loop.now, time.time()
        for data, ancillary, _flags, source in self._overlay_batches.read(self.relay.loop.turns):
            size = train_size(ancillary) if ancillary else 0
            if size:
                found = self.overlay.receive_train(source[:2], data, size, now, unix)
            else:
                found = self.overlay.receive(source[:2], (data,), now, unix)
            for src, dst, payloads in found:
                self.relay.deliver(src, dst, payloads, now)

    def tick(self, now: float, unix: float) -> None:
        """Keepalives, STAMP packets, and twice a second a look at the files."""
        if now >= self._next_files:
            self._next_files = now + FILES_EVERY_S
            self._read_files(start=False)
        self.overlay.tick(now, unix)
        while self.overlay.news:
            switch = self.overlay.news.popleft()
            self.relay.log(
                "path_switched", **{word: value for word, value in switch.items() if word != "unix"}
            )
        self.flush(now)
        self.measuring.tick(now)

    # --- files ---------------------------------------------------------------------------------------------

    def _read_files(self, *, start: bool) -> None:
        unix = time.time()
        for file in self.files:
            file.poll(self.relay.log)
        shard = self.tables.start(unix) if start else self.tables.poll(unix)
        if shard is not None:
            self.overlay.set_shard(shard)
            self.relay.obey(shard, self.services)
        self.overlay.set_staged(self.tables.staged)

    def _use_peers(self, content: Dict[str, Any]) -> None:
        known = content.get("peers")
        if content.get("schema") != 1 or not isinstance(known, dict):
            raise ValueError('not {"schema": 1, "peers": {...}}')
        for user in (self.overlay, self.measuring):
            user.set_peers(known)
        parsed = neighbours.parse(known)
        self.key_ids = neighbours.key_ids(parsed)
        self.services = [
            (peer.address, port) for peer in parsed.values() for port in (peer.overlay_port, peer.stamp_port)
        ]
        self.relay.obey(self.tables.shard, self.services)

    def _use_faults(self, content: Dict[str, Any]) -> None:
        links, clients = content.get("links", {}), content.get("clients")
        shaper, mile = shaping.Shaper(links, seed=secrets.randbelow(1 << 32)), self.relay.last_mile
        if mile is not None:
            mile.set_rule(clients, secrets.randbelow(1 << 32))
        self.relay.egress.shaper = shaper
        self.relay.log("lab_faults", links=len(links), last_mile=clients is not None)

    # --- control -------------------------------------------------------------------------------------------

    def commands(self) -> "Dict[str, Callable[[Dict[str, Any]], Reply]]":
        """Further words for the control socket."""
        return {
            "flows": lambda _: {"ok": True, "flows": self.overlay.flows(), **self.overlay.segments()},
            "paths": lambda _: {"ok": True, "paths": self.overlay.paths()},
            "keys": lambda _: {"ok": True, "keys": self.key_ids, "digest": neighbours.digest(self.key_ids)},
            "mesh": self._mesh_read,
        }

    def _mesh_read(self, request: "Dict[str, Any]") -> "Reply":
        """The windows since then; and which peers are to be looked at closer, where the reader says so."""
        if "explore" in request:
            self.mesh.explore(request["explore"])
        return _windows(self.mesh.rows(float(request.get("since", 0))))

    def reload(self) -> None:
        """Look at every file again, and let the policy and the mesh follow what the configuration now allows."""
        self.mesh.spend(self.relay.config.mesh)
        self.tables.look_again()
        self._next_files = 0.0
        self.relay.obey(self.tables.shard, self.services)

    def straight(self) -> Set[str]:
        """The nodes to which packets go straight now (overlay.Overlay.goes_straight)."""
        nodes = () if self.tables.shard is None else self.tables.shard.nodes
        return {node for node in nodes if node != self.config.node and self.overlay.goes_straight(node)}

    def rtt_ms(self) -> Dict[str, Optional[float]]:
        """How far the other nodes are now, in milliseconds; None: no answer."""
        return {name: row["rtt_ms"] for name, row in self.mesh.latest().items()}

    def status(self) -> Dict[str, Any]:
        """The fleet's part of the status document, but for what the overlay says."""
        shard, staged = self.tables.shard, self.tables.staged
        table: Dict[str, Any] = {
            **NO_TABLE,
            "refused": self.tables.refused,
            "staged": None if staged is None else staged.serial,
            "staged_refused": self.tables.staged_refused,
        }
        if shard is not None:
            is_expired = shard.expires_unix < time.time()
            table.update(
                serial=shard.serial,
                expires=shard.expires,
                expires_unix=shard.expires_unix,
                expired=is_expired,
            )
        return {"table": table, "peers": self.mesh.latest()}


def _windows(rows: List[str]) -> Text:
    return Text('{"ok": true, "windows": [%s]}' % ",".join(rows))
