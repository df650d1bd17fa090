"""The relay process: sockets on one side, the pure protocol machines on the other, the loop between them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, Optional

from commcli.relay import stun
from commcli.relay.allocation import Allocation
from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.log import Log
from commcli.relay.loop import TICK_S, Loop
from commcli.relay.membership import NO_TABLE, Membership
from commcli.relay.peers import PeerPolicy
from commcli.relay.shard import Shard
from commcli.relay.turn import Server, TurnConfig
from commcli.relay.udp import (
    Addr,
    Egress,
    RelayPool,
    bound_udp,
    raise_descriptor_limit,
    waiting,
)

EXPIRE_EVERY_S = 0.5


class Relay:
    """One relay. `run` serves until SIGTERM; everything it knows can be asked over the control socket."""

    def __init__(self, config: RelayConfig, version: str, log: Log) -> None:
        """Opens every socket. Raises ConfigError when one can not be bound."""
        self.config, self.version, self.log = config, version, log
        self.started = time.monotonic()
        self.drops: "Counter[str]" = Counter()
        self.loop = Loop(self._tick, self._survived)
        self.egress = Egress(self.drops)
        self.pool = RelayPool(
            config.address, config.relay_ports, secrets.randbelow, self._opened, self._closed
        )
        self._opened_by_hand = PeerPolicy(config.allow_peers, own_addresses=[config.address])
        self.turn = Server(_turn_config(config), self.pool, _policy(config, None, ()), os.urandom)
        self.turn_socket = bound_udp(config.address, config.turn_port)
        self.loop.add(self.turn_socket, self._on_turn)
        self.fleet = None if config.base is None else Membership(self)
        self._next_expire = self._next_fleet = 0.0

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
        for data, client in waiting(sock, self.drops):
            for action in handle(data, client, now, unix):
                if action[0] == "client":
                    self.egress.send_now(sock, action[2], action[1])
                else:
                    self._to_peer(action[1], action[2], action[3], now, unix)

    def _to_peer(self, allocation: Allocation, peer: Addr, payload: bytes, now: float, unix: float) -> None:
        if peer in self.turn.by_relay:
            self.deliver(allocation.relay, peer, payload, now)
            return
        if peer[0] == self.config.address and not self._opened_by_hand.permits(*peer):
            # Some other program's socket among our relay ports: only live allocations are peers there.
            self.drops["no_allocation"] += 1
            return
        egress = None if self.fleet is None else self.fleet.overlay.egress_of(*peer)
        if self.fleet is not None and egress is not None:
            overlay = self.fleet.overlay
            if allocation.direct:
                # Who may bypass the overlay may not bypass the law: a user id is easily had.
                if not overlay.permits_straight(egress):
                    self.drops["direct_forbidden"] += 1
                    return
            elif not overlay.goes_straight(egress):
                self.fleet.send(overlay.send(egress, allocation.relay, peer, payload, now, unix), now)
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
            for payload, peer in waiting(sock, self.drops):
                self.deliver(peer, relay, payload, now)

        self.loop.add(sock, ready)

    def _closed(self, sock: socket.socket) -> None:
        self.loop.remove(sock)

    def obey(self, shard: Optional[Shard], services: "Iterable[Addr]") -> None:
        """Let clients reach the relayed addresses of the fleet that `shard` names, and none of its `services`."""
        self.turn.obey(_policy(self.config, shard, services))

    def _tick(self, now: float) -> Optional[float]:
        if now >= self._next_expire:
            self._next_expire = now + EXPIRE_EVERY_S
            self.turn.expire(now)
        # The lab's delayed packets wake the loop far more often than the fleet's timers need.
        if self.fleet is not None and now >= self._next_fleet:
            self._next_fleet = now + TICK_S
            self.fleet.tick(now, time.time())
        return self.egress.release(now)

    def _survived(self, error: Exception) -> None:
        """A bug of ours: counted and told, and calls go on."""
        self.drops["bug"] += 1
        # Not by `traceback`: that reads the sources, and a play may have put a newer zipapp under us.
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "?" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        self.log("bug", error=f"{type(error).__name__}: {error}"[:200], where=where)

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self) -> Dict[str, Any]:
        """The document of the control command `status` (shape: docs of `control`)."""
        overlay = None if self.fleet is None else self.fleet.overlay.status()
        return {**self.figures(), "overlay": overlay}

    def figures(self) -> Dict[str, Any]:
        """The status but for the overlay's paths and flows: cheap, since any local user may ask for the metrics."""
        no_socket = Counter({f"no_socket_{name}": count for name, count in self.pool.errors.items()})
        drops = self.drops + self.turn.drops + no_socket
        fleet = {"peers": {}, "table": NO_TABLE} if self.fleet is None else self.fleet.status()
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


def _policy(config: RelayConfig, shard: Optional[Shard], services: "Iterable[Addr]") -> PeerPolicy:
    """Who may be a peer: public addresses, what the configuration allows, and the fleet's relayed addresses."""
    others = {} if shard is None else {name: row for name, row in shard.nodes.items() if name != config.node}
    ports = (config.turn_port, config.overlay_port, config.stamp_port, config.metrics_port)
    return PeerPolicy(
        config.allow_peers,
        relays={config.address: config.relay_ports},
        own_addresses=[config.address],
        service_ports=[port for port in ports if port is not None],
        neighbours=[(row.address, row.relay_ports) for row in others.values()],
        services=[*services, *((row.address, row.overlay_port) for row in others.values())],
    )


def _turn_config(config: RelayConfig) -> TurnConfig:
    family = stun.IPV6 if ":" in config.address else stun.IPV4
    return TurnConfig(config.realm, dict(config.users), config.secrets, relay_family=family)


def serve(config: RelayConfig, version: str) -> int:
    """Run one relay until it is told to stop; 3 when it can not start."""
    log = Log(as_json=config.log_json)
    if config.allow_peers:
        log(
            "peers_allowed",
            networks=",".join(config.allow_peers),
            note="private peers are reachable through this relay",
        )
    raise_descriptor_limit()
    try:
        relay = Relay(config, version, log)
    except ConfigError as error:
        print(f"commcli-relay: {error}", file=sys.stderr)
        return 3
    relay.run()
    return 0
