"""The relay process: sockets on one side, the pure protocol machines on the other, the loop between them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, Optional

from commcli.relay.allocation import family_of
from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.edge import Edge, Grounds
from commcli.relay.log import Log
from commcli.relay.loop import TICK_S, Loop
from commcli.relay.membership import NO_TABLE, Membership
from commcli.relay.peers import PeerPolicy
from commcli.relay.shard import Shard
from commcli.relay.turn import TurnConfig
from commcli.relay.udp import Addr, Egress, bound_udp, raise_descriptor_limit

EXPIRE_EVERY_S = 0.5


class OverlayCarrier:
    """The overlay as what takes an edge's packets to other nodes."""

    def __init__(self, fleet: Membership, drops: "Counter[str]") -> None:
        self._fleet, self._overlay, self._drops = fleet, fleet.overlay, drops
        self.egress_of = fleet.overlay.egress_of

    def carry(
        self, egress: str, src: Addr, dst: Addr, payload: bytes, direct: bool, now: float, unix: float
    ) -> bool:
        """Send it by the overlay, or drop it (counted); False if it is to go straight."""
        if direct:
            # Who may bypass the overlay may not bypass the law: a user id is easily had.
            if self._overlay.permits_straight(egress):
                return False
            self._drops["direct_forbidden"] += 1
        elif self._overlay.goes_straight(egress):
            return False
        else:
            self._fleet.send(self._overlay.send(egress, src, dst, payload, now, unix), now)
        return True


class Relay:
    """One relay. `run` serves until SIGTERM; everything it knows can be asked over the control socket."""

    def __init__(self, config: RelayConfig, version: str, log: Log) -> None:
        """Opens every socket. Raises ConfigError when one can not be bound."""
        self.config, self.version, self.log = config, version, log
        self.started = time.monotonic()
        self.drops: "Counter[str]" = Counter()
        self.loop = Loop(self._tick, self._survived)
        self.egress = Egress(self.drops)
        self.edge = Edge(
            Grounds(config.addresses, config.relay_ports),
            _turn_config(config),
            _policy(config, None, ()),
            self.loop,
            self.egress,
            PeerPolicy(config.allow_peers, own_addresses=config.addresses),
        )
        self.turn = self.edge.turn
        for address in config.addresses:
            self.edge.listen(bound_udp(address, config.turn_port))
        self.fleet = None if config.base is None else Membership(self)
        if self.fleet is not None:
            self.edge.carrier = OverlayCarrier(self.fleet, self.drops)
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
        if self.fleet is not None:
            self.fleet.close()
        self.edge.close()
        self.loop.close()

    def deliver(self, src: Addr, dst: Addr, payload: bytes, now: float) -> None:
        """What the overlay brought for one of our relayed addresses."""
        self.edge.deliver(src, dst, payload, now)

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
        no_socket = Counter({f"no_socket_{name}": count for name, count in self.edge.pool.errors.items()})
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
    ports = (config.turn_port, config.tls_port, config.overlay_port, config.stamp_port, config.metrics_port)
    return PeerPolicy(
        config.allow_peers,
        relays=dict.fromkeys(config.addresses, config.relay_ports),
        own_addresses=config.addresses,
        service_ports=[port for port in ports if port is not None],
        neighbours=[(row.address, row.relay_ports) for row in others.values()],
        services=[*services, *((row.address, row.overlay_port) for row in others.values())],
    )


def _turn_config(config: RelayConfig) -> TurnConfig:
    return TurnConfig(
        config.realm,
        dict(config.users),
        config.secrets,
        relay_families=tuple(family_of(address) for address in config.addresses),
        user_quota=config.user_quota,
        total_quota=config.total_quota,
        revoked=config.revoked,
        session_kbit_s=config.session_kbit_s,
        node_mbit_s=config.node_mbit_s,
        password_algorithms=config.password_algorithms,
    )


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
