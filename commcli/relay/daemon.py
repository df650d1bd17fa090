"""The relay process: sockets on one side, the pure protocol machines on the other, the loop between them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from commcli.relay import metrics
from commcli.relay.allocation import family_of
from commcli.relay.alternates import Alternates
from commcli.relay.config import ConfigError, RelayConfig, live, needing_restart
from commcli.relay.edge import Edge, Grounds
from commcli.relay.log import Log
from commcli.relay.loop import TICK_S, Loop
from commcli.relay.membership import NO_TABLE, Membership
from commcli.relay.operations import Operations
from commcli.relay.peers import PeerPolicy
from commcli.relay.shard import Shard
from commcli.relay.stream import Streams, bound_tcp
from commcli.relay.tls import Certificates
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


class Listeners(NamedTuple):
    """The sockets that clients come to: UDP ones, and stream ones with their transport."""

    udp: List[socket.socket]
    streams: List[Tuple[socket.socket, str]]

    def close(self) -> None:
        """Close all of them."""
        for sock in (*self.udp, *(sock for sock, _ in self.streams)):
            sock.close()


def open_listeners(config: RelayConfig, *, shared: bool = False) -> Listeners:
    """Bind what `config` names; `shared`: so that several processes may. Raises ConfigError."""
    listeners = Listeners([], [])
    try:
        for address in config.addresses:
            listeners.udp.append(bound_udp(address, config.turn_port, shared=shared))
            if config.tcp:
                listeners.streams.append((bound_tcp(address, config.turn_port, shared=shared), "tcp"))
            if config.tls_port is not None:
                listeners.streams.append((bound_tcp(address, config.tls_port, shared=shared), "tls"))
    except ConfigError:
        listeners.close()
        raise
    return listeners


class Relay:
    """One relay. `run` serves until SIGTERM; everything it knows can be asked over the control socket."""

    def __init__(
        self,
        config: RelayConfig,
        version: str,
        log: Log,
        read: Optional[Callable[[], RelayConfig]] = None,
    ) -> None:
        """Opens every socket. `read()` reads the configuration again. Raises ConfigError when one can not be bound."""
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
        )
        self.edge.opened_by_hand = _opened_by_hand(config)
        self.turn = self.edge.turn
        self.streams = Streams(self.loop, self.edge, self.drops)
        self.edge.streams = self.streams
        self.certificates = _certificates(config, log)
        self._listen(open_listeners(config))
        self.fleet = None if config.base is None else Membership(self)
        if self.fleet is not None:
            self.edge.carrier = OverlayCarrier(self.fleet, self.drops)
        commands = {} if self.fleet is None else self.fleet.commands()
        self.operations = Operations(self, read or (lambda: self.config), commands)
        self._next_expire = self._next_timers = 0.0

    def _listen(self, listeners: Listeners) -> None:
        for sock in listeners.udp:
            self.edge.listen(sock)
        for sock, transport in listeners.streams:
            self.streams.listen(sock, transport, self.certificates if transport == "tls" else None)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, lambda *_: self.loop.stop())
        signal.signal(signal.SIGINT, lambda *_: self.loop.stop())
        self.operations.listen_to_signals()
        self.log("relay_started", node=self.config.node, address=self.config.address, version=self.version)
        self.loop.run()
        self.log("relay_stopped", node=self.config.node)
        self.close()

    def close(self) -> None:
        """Close every socket."""
        self.operations.close()
        if self.fleet is not None:
            self.fleet.close()
        self.streams.close()
        self.edge.close()
        self.loop.close()

    def deliver(self, src: Addr, dst: Addr, payload: bytes, now: float) -> None:
        """What the overlay brought for one of our relayed addresses."""
        self.edge.deliver(src, dst, payload, now)

    # --- what the operator asks for ------------------------------------------------------------------------

    def reconfigure(self, config: RelayConfig) -> List[str]:
        """Apply what can change under running calls; the names of the keys that wait for a restart.

        Raises ConfigError when the new certificate can not be used, and then has changed nothing.
        """
        if self.certificates is not None and not self.certificates.reload() and self.certificates.context:
            raise ConfigError(f"{self.certificates.refused}")
        waiting = needing_restart(self.config, config)
        self.config = live(self.config, config)
        self.turn.reconfigure(_turn_config(self.config))
        self.edge.opened_by_hand = _opened_by_hand(self.config)
        if self.fleet is None:
            self.obey(None, ())
        else:
            self.fleet.reload()
        return waiting

    def sessions(self) -> int:
        """Live allocations."""
        return len(self.turn.allocations)

    def drain_to(self, sessions: int, stop: bool) -> None:
        """Take no new client."""
        self.turn.drain = True

    def undrain(self) -> None:
        """Take new clients again."""
        self.turn.drain = False

    def obey(self, shard: Optional[Shard], services: "Iterable[Addr]") -> None:
        """Let clients reach the relayed addresses of the fleet that `shard` names, and none of its `services`."""
        self.turn.obey(_policy(self.config, shard, services))
        self.turn.alternates = None if shard is None else Alternates(shard)

    def _tick(self, now: float) -> Optional[float]:
        if now >= self._next_expire:
            self._next_expire = now + EXPIRE_EVERY_S
            self.turn.expire(now)
            if self.certificates is not None:
                self.certificates.poll()
            if self.fleet is not None and self.turn.alternates is not None:
                self.turn.alternates.measured(self.fleet.rtt_ms())
        # The lab's delayed packets wake the loop far more often than the timers need.
        if now >= self._next_timers:
            self._next_timers = now + TICK_S
            self.operations.tick(now)
            self.streams.tick(now)
            if self.fleet is not None:
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
        certificates = self.certificates
        fleet = {"peers": {}, "table": NO_TABLE} if self.fleet is None else self.fleet.status()
        return {
            "ok": True,
            "node": self.config.node,
            "version": self.version,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self.started, 3),
            "unix": time.time(),
            "drain": self.turn.drain,
            "workers": 1,
            "allocations": len(self.turn.allocations),
            "allocations_by": self._by_transport(),
            "traffic": metrics.traffic(self.turn.totals()),
            "turn": dict(self.turn.counters),
            "drops": dict(self.drops + self.turn.drops + no_socket),
            "kernel_drops": self.edge.kernel_drops(),
            "streams": self.streams.figures(),
            "tls": None
            if certificates is None
            else {"not_after_unix": certificates.not_after_unix(), "refused": certificates.refused},
            "process": metrics.process(),
            "loop_lag_ms": self.loop.lag(),
            **fleet,
        }

    def _by_transport(self) -> Dict[str, int]:
        live_now = Counter({"udp": 0, "tcp": 0, "tls": 0})
        live_now.update(allocation.transport for allocation in self.turn.allocations.values())
        return dict(live_now)


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


def _opened_by_hand(config: RelayConfig) -> PeerPolicy:
    """What the operator allows on our own addresses, beside live allocations."""
    return PeerPolicy(config.allow_peers, own_addresses=config.addresses)


def _certificates(config: RelayConfig, log: Log) -> Optional[Certificates]:
    if config.tls_port is None or config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificates(config.tls_certificate, config.tls_key, log)


def serve(config: RelayConfig, version: str, read: Optional[Callable[[], RelayConfig]] = None) -> int:
    """Run one relay until it is told to stop; 3 when it can not start. `read()` reads the configuration again."""
    log = Log(as_json=config.log_json)
    if config.allow_peers:
        log(
            "peers_allowed",
            networks=",".join(config.allow_peers),
            note="private peers are reachable through this relay",
        )
    raise_descriptor_limit()
    try:
        relay = Relay(config, version, log, read)
    except ConfigError as error:
        print(f"commcli-relay: {error}", file=sys.stderr)
        return 3
    relay.run()
    return 0
