"""The relay process: sockets on one side, the pure protocol machines on the other, the loop between them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from typing import Any, Callable, Dict, List, Optional

from commcli.relay import control, metrics, shaping
from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.log import Log
from commcli.relay.loop import Loop
from commcli.relay.mesh import Mesh, Reflector
from commcli.relay.overlay import Overlay
from commcli.relay.peers import PeerPolicy
from commcli.relay.shard import Shard
from commcli.relay.tables import TableFiles
from commcli.relay.turn import Allocation, Server, TurnConfig
from commcli.relay.udp import MAX_DATAGRAM, Addr, Egress, RelayPool, open_udp
from commcli.relay.watched import WatchedJson

# A busy socket must not keep the others waiting: this many datagrams, then the next socket's turn.
DRAIN = 64
EXPIRE_EVERY_S = 0.5
FILES_EVERY_S = 0.5


class Relay:
    """One relay. `run` serves until SIGTERM; everything it knows can be asked over the control socket."""

    def __init__(self, config: RelayConfig, version: str, log: Log) -> None:
        """Opens every socket. Raises ConfigError when one can not be bound."""
        self.config, self.version, self.log = config, version, log
        self.started = time.monotonic()
        self.drops: "Counter[str]" = Counter()
        self.loop = Loop(self._tick)
        self.egress = Egress(self.drops)
        self.pool = RelayPool(
            config.address, config.relay_ports, secrets.randbelow, self._opened, self._closed
        )
        self.turn = Server(_turn_config(config), self.pool, _policy(config, None), os.urandom)
        self.turn_socket = _bound(config.address, config.turn_port)
        self.loop.add(self.turn_socket, self._on_turn)
        self.fleet: Optional[FleetSide] = None if config.base is None else FleetSide(self)
        self._next_expire = 0.0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, lambda *_: self.loop.stop())
        signal.signal(signal.SIGINT, lambda *_: self.loop.stop())
        self.log("relay_started", node=self.config.node, address=self.config.address, version=self.version)
        self.loop.run()
        self.log("relay_stopped", node=self.config.node)
        self.close()

    def close(self) -> None:
        """Close every socket."""
        for relay in list(self.pool.sockets):
            self.pool.close(relay)
        if self.fleet is not None:
            self.fleet.close()
        self.loop.remove(self.turn_socket)
        self.turn_socket.close()
        self.loop.close()

    # --- the data path -------------------------------------------------------------------------------------

    def _on_turn(self, _events: int) -> None:
        sock, handle = self.turn_socket, self.turn.handle
        now, unix = time.monotonic(), time.time()
        for _ in range(DRAIN):
            try:
                data, client = sock.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                self.drops["receive_error"] += 1
                return
            for action in handle(data, client[:2], now, unix):
                if action[0] == "client":
                    self.egress.send_now(sock, action[2], action[1])
                else:
                    self._to_peer(action[1], action[2], action[3], now, unix)

    def _to_peer(self, allocation: Allocation, peer: Addr, payload: bytes, now: float, unix: float) -> None:
        if peer in self.turn.by_relay:
            self.deliver(allocation.relay, peer, payload, now)
            return
        if self.fleet is not None and not allocation.direct:
            egress = self.fleet.overlay.egress_of(*peer)
            if egress is not None:
                self.fleet.send(
                    self.fleet.overlay.send(egress, allocation.relay, peer, payload, now, unix), now
                )
                return
        self.egress.send(self.pool.sockets[allocation.relay], payload, peer, now)

    def deliver(self, src: Addr, dst: Addr, payload: bytes, now: float) -> None:
        """Hand what came for the relayed address `dst` to its client, if that client permits `src`."""
        allocation = self.turn.by_relay.get(dst)
        if allocation is None:
            self.drops["no_allocation"] += 1
            return
        framed = self.turn.from_peer(allocation, src, payload, now)
        if framed is not None:
            self.egress.send_now(self.turn_socket, framed, allocation.client)

    def _opened(self, sock: socket.socket) -> None:
        relay: Addr = sock.getsockname()[:2]

        def ready(_events: int) -> None:
            now = time.monotonic()
            for _ in range(DRAIN):
                try:
                    payload, peer = sock.recvfrom(MAX_DATAGRAM)
                except BlockingIOError:
                    return
                except OSError:
                    self.drops["receive_error"] += 1
                    return
                self.deliver(peer[:2], relay, payload, now)

        self.loop.add(sock, ready)

    def _closed(self, sock: socket.socket) -> None:
        self.loop.remove(sock)

    def _tick(self, now: float) -> Optional[float]:
        if now >= self._next_expire:
            self._next_expire = now + EXPIRE_EVERY_S
            self.turn.expire(now)
        if self.fleet is not None:
            self.fleet.tick(now, time.time())
        return self.egress.release(now)

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self) -> Dict[str, Any]:
        """The document of the control command `status` (shape: docs of `control`)."""
        drops = self.drops + self.turn.drops
        fleet = (
            {"overlay": None, "peers": {}, "table": _NO_TABLE} if self.fleet is None else self.fleet.status()
        )
        return {
            "ok": True,
            "node": self.config.node,
            "version": self.version,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self.started, 3),
            "unix": time.time(),
            "drain": self.turn.drain,
            "allocations": len(self.turn.allocations),
            "turn": dict(self.turn.counters),
            "drops": dict(drops),
            "loop_lag_ms": self.loop.lag(),
            **fleet,
        }


_NO_TABLE = {"serial": None, "expires": None, "expired": False, "refused": None}


class FleetSide:
    """What makes a TURN server a member of a fleet: overlay, STAMP mesh, table, control socket, metrics."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.config = relay, relay.config
        self.overlay = Overlay(self.config.node, os.urandom)
        self.mesh = Mesh(self.config.node, os.urandom)
        self.reflector = Reflector(self.config.node)
        self.tables = TableFiles(self.config, relay.log)
        self.peer_file = WatchedJson(self.config.path("etc/peers.json"))
        self.faults_file = WatchedJson(self.config.path("etc/faults.json"))
        self.overlay_socket = self._udp(self.config.overlay_port, self._on_overlay)
        self.stamp_socket = self._udp(self.config.stamp_port, self._on_stamp)
        self.mesh_socket = self._udp(0, self._on_mesh_reply)
        self._next_files = 0.0
        self._read_files(start=True)
        self._listeners = self._listen()

    def _udp(self, port: Optional[int], callback: Callable[[int], None]) -> Optional[socket.socket]:
        if port is None:
            return None
        sock = _bound(self.config.address, port)
        self.relay.loop.add(sock, callback)
        return sock

    def _listen(self) -> List[control.Listener]:
        loop = self.relay.loop
        path = self.config.path("run/control.sock")
        listeners = [control.Listener(loop, control.bind_unix(path), control.json_answers(self._command))]
        if self.config.metrics_port is not None:
            # Metrics are never on a public address; a scraper comes through SSH or from a local agent.
            local = self.config.address if self.config.address.startswith("127.") else "127.0.0.1"
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((local, self.config.metrics_port))
            listeners.append(
                control.Listener(
                    loop, sock, control.http_answers(lambda: metrics.render(self.relay.status()))
                )
            )
        return listeners

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for sock in (self.overlay_socket, self.stamp_socket, self.mesh_socket):
            if sock is not None:
                self.relay.loop.remove(sock)
                sock.close()
        self.config.path("run/control.sock").unlink(missing_ok=True)

    # --- datagrams -----------------------------------------------------------------------------------------

    def send(self, datagrams: "List[tuple[Addr, bytes]]", now: float) -> None:
        """Send overlay datagrams to the next hops."""
        if self.overlay_socket is not None:
            for to, data in datagrams:
                self.relay.egress.send(self.overlay_socket, data, to, now)

    def _on_overlay(self, _events: int) -> None:
        assert self.overlay_socket is not None
        now, unix = time.monotonic(), time.time()
        for data, source in _drain(self.overlay_socket):
            for effect in self.overlay.receive(data, source, now, unix):
                if effect[0] == "send":
                    self.relay.egress.send(self.overlay_socket, effect[2], effect[1], now)
                else:
                    self.relay.deliver(effect[1], effect[2], effect[3], now)

    def _on_stamp(self, _events: int) -> None:
        assert self.stamp_socket is not None
        for data, source in _drain(self.stamp_socket):
            received = time.time()
            reply = self.reflector.receive(data, source, received, time.time())
            if reply is not None:
                self.relay.egress.send(self.stamp_socket, reply, source, time.monotonic())

    def _on_mesh_reply(self, _events: int) -> None:
        assert self.mesh_socket is not None
        for data, source in _drain(self.mesh_socket):
            self.mesh.receive_reply(data, source, time.monotonic(), time.time())

    def tick(self, now: float, unix: float) -> None:
        """Keepalives, STAMP packets, and twice a second a look at the files."""
        if now >= self._next_files:
            self._next_files = now + FILES_EVERY_S
            self._read_files(start=False)
        self.send(self.overlay.tick(now, unix), now)
        if self.mesh_socket is not None:
            for _peer, to, data in self.mesh.tick(now, unix):
                self.relay.egress.send(self.mesh_socket, data, to, now)

    # --- files ---------------------------------------------------------------------------------------------

    def _read_files(self, *, start: bool) -> None:
        unix = time.time()
        known = self.peer_file.changed(self.relay.log)
        if known is not None:
            fleet_peers = known.get("peers", {})
            self.overlay.set_peers(fleet_peers)
            self.mesh.set_peers(fleet_peers)
            self.reflector.set_peers(fleet_peers)
        shard = self.tables.start(unix) if start else self.tables.poll(unix)
        if shard is not None:
            self.overlay.set_shard(shard)
            self.relay.turn.policy = _policy(self.config, shard)
        faults = self.faults_file.changed(self.relay.log) if self.config.faults else None
        if faults is not None:
            self.relay.egress.shaper = shaping.Shaper(
                faults.get("links", {}), seed=secrets.randbelow(1 << 32)
            )
            self.relay.log("lab_faults", links=len(faults.get("links", {})))

    # --- control -------------------------------------------------------------------------------------------

    def _command(self, request: Dict[str, Any]) -> Dict[str, Any]:
        commands: "Dict[str, Callable[[Dict[str, Any]], Dict[str, Any]]]" = {
            "status": lambda _: self.relay.status(),
            "flows": lambda _: {"ok": True, "flows": self.overlay.status()["flows"]},
            "paths": lambda _: {"ok": True, "paths": self.overlay.status()["paths"]},
            "mesh": lambda r: {"ok": True, "windows": self.mesh.windows(float(r.get("since", 0)))},
            "drain": lambda _: self._drain(True),
            "undrain": lambda _: self._drain(False),
            "reload": lambda _: self._reload(),
            "metrics": lambda _: {"ok": True, "text": metrics.render(self.relay.status())},
        }
        name = request.get("cmd")
        if name not in commands:
            return {"ok": False, "error": f"unknown command {name!r}; known: {' '.join(sorted(commands))}"}
        return commands[str(name)](request)

    def _drain(self, on: bool) -> Dict[str, Any]:
        self.relay.turn.drain = on
        self.relay.log("drain" if on else "undrain", allocations=len(self.relay.turn.allocations))
        return {"ok": True, "drain": on, "allocations": len(self.relay.turn.allocations)}

    def _reload(self) -> Dict[str, Any]:
        self.tables.look_again()
        self._next_files = 0.0
        return {"ok": True}

    def status(self) -> Dict[str, Any]:
        """The fleet's part of the status document."""
        shard, overlay = self.tables.shard, self.overlay.status()
        table = dict(_NO_TABLE, refused=self.tables.refused)
        if shard is not None:
            table.update(serial=shard.serial, expires=shard.expires, expired=shard.expires_unix < time.time())
        return {"table": table, "overlay": overlay, "peers": self.mesh.latest()}


def _drain(sock: socket.socket) -> "List[tuple[bytes, Addr]]":
    """Up to DRAIN datagrams that wait in `sock`."""
    received: "List[tuple[bytes, Addr]]" = []
    try:
        while len(received) < DRAIN:
            data, source = sock.recvfrom(MAX_DATAGRAM)
            received.append((data, source[:2]))
    except OSError:
        # Empty, or the ICMP error of an earlier send, reported here: either way nothing to read now.
        return received
    return received


def _bound(address: str, port: int) -> socket.socket:
    try:
        return open_udp(address, port)
    except OSError as error:
        raise ConfigError(f"cannot bind UDP {address}:{port}: {error.strerror}") from error


def _policy(config: RelayConfig, shard: Optional[Shard]) -> PeerPolicy:
    """Who may be a peer: public addresses, what the configuration allows, and the fleet's relayed addresses."""
    nodes = {} if shard is None else shard.nodes
    relays = {node.address: node.relay_ports for node in nodes.values()}
    relays[config.address] = config.relay_ports
    ports = (config.turn_port, config.overlay_port, config.stamp_port, config.metrics_port)
    return PeerPolicy(
        config.allow_peers,
        relays=relays,
        own_addresses=[config.address],
        service_ports=[port for port in ports if port is not None],
    )


def _turn_config(config: RelayConfig) -> TurnConfig:
    return TurnConfig(realm=config.realm, users=dict(config.users), secrets=config.secrets)


def serve(config: RelayConfig, version: str) -> int:
    """Run one relay until it is told to stop; 3 when it can not start."""
    log = Log(as_json=config.log_json)
    if config.allow_peers:
        log(
            "peers_allowed",
            networks=",".join(config.allow_peers),
            note="private peers are reachable through this relay",
        )
    try:
        relay = Relay(config, version, log)
    except ConfigError as error:
        print(f"commcli-relay: {error}", file=sys.stderr)
        return 3
    relay.run()
    return 0
