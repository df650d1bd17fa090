"""What every process of a relay has: the sockets that clients come to, the TURN server behind them, and the loop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from commcli.relay.clients.edge import Edge, Grounds
from commcli.relay.clients.lastmile import FarSocket, FarStreams, LastMile
from commcli.relay.clients.stream import Streams, bound_tcp
from commcli.relay.clients.tls import Certificates
from commcli.relay.clients.udp import Addr, Egress, bound_udp, kernel_drops
from commcli.relay.config import ConfigError, RelayConfig, live, needing_restart
from commcli.relay.log import Log
from commcli.relay.loop import TICK_S, Loop
from commcli.relay.process import metrics
from commcli.relay.process.register import Census, LiveRelays, Register
from commcli.relay.process.sockets import Sockets
from commcli.relay.table.shard import Shard
from commcli.relay.turn.allocation import family_of
from commcli.relay.turn.alternates import Alternates
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.server import TurnConfig

EXPIRE_EVERY_S = 0.5
# To be woken costs more than all that a tick does when there is nothing to do.
LAZY_TICK_S = 0.1
REFUSALS_PER_SECOND = 10  # of a node, to one source
# After each of its system calls the loop waits for a thread that computes (one that reads a table) to give way: not
# 5 ms, as it would by default, or nothing but that thread gets on.
GIVE_WAY_S = 0.0002
# Those that a relay of several processes holds back until it is ready for them.
TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class Listeners(NamedTuple):
    """The sockets that clients come to: UDP ones, and stream ones with their transport."""

    udp: List[socket.socket]
    streams: List[Tuple[socket.socket, str]]

    def close(self) -> None:
        """Close all of them."""
        for sock in (*self.udp, *(sock for sock, _ in self.streams)):
            sock.close()


def open_listeners(
    config: RelayConfig, *, shared: bool = False, sockets: Optional[Sockets] = None
) -> Listeners:
    """Bind what `config` names and `sockets` has not; `shared`: so that several processes may. Raises ConfigError."""
    listeners, sockets = Listeners([], []), Sockets() if sockets is None else sockets

    def opened(kind: str, open_: Callable[..., socket.socket], address: str, port: int) -> socket.socket:
        assert sockets is not None
        return sockets.get(f"{kind} {address} {port}", lambda: open_(address, port, shared=shared))

    try:
        for address in map(config.bind_to, config.addresses):
            listeners.udp.append(opened("turn", bound_udp, address, config.turn_port))
            if config.tcp:
                listeners.streams.append((opened("tcp", bound_tcp, address, config.turn_port), "tcp"))
            if config.tls_port is not None:
                listeners.streams.append((opened("tls", bound_tcp, address, config.tls_port), "tls"))
    except ConfigError:
        listeners.close()
        raise
    return listeners


class Front:
    """The part of a relay that serves clients, or one of `workers` such parts: the `worker`-th, from 0."""

    def __init__(
        self,
        config: RelayConfig,
        version: str,
        log: Log,
        worker: int = 0,
        workers: int = 1,
        register: Optional[Register] = None,
    ) -> None:
        """Opens no socket yet: `listen` takes those of the clients. `register`: what the processes share."""
        self.config, self.version, self.log = config, version, log
        self.worker, self.workers, self.register = worker, workers, register
        self.started = time.monotonic()
        self.drops: "Counter[str]" = Counter()
        self.loop = Loop(self._tick, self._survived)
        self.egress = Egress(self.drops)
        self.edge = Edge(
            Grounds(config.addresses, config.relay_ports, (worker, workers), config.bound),
            _turn_config(config, workers),
            _policy(config, None, ()),
            self.loop,
            self.egress,
        )
        self.edge.opened_by_hand = _opened_by_hand(config)
        self.turn = self.edge.turn
        self.last_mile = LastMile(self.drops, time.monotonic, self.loop.hurry) if config.faults else None
        self.streams = self._streams()
        self.certificates = _certificates(config, log)
        if register is not None:
            self._share(register)
        self._next_expire = self._next_timers = 0.0
        self._dropped_before = 0

    def _streams(self) -> Streams:
        if self.last_mile is None:
            self.edge.streams = streams = Streams(self.loop, self.edge, self.drops)
            return streams
        self.edge.open_listener = partial(FarSocket, self.last_mile)
        self.edge.streams = far = FarStreams(self.last_mile, self.edge, time.monotonic)
        far.streams = streams = Streams(self.loop, far, self.drops)
        return streams

    def _share(self, register: Register) -> None:
        self.turn.by_relay = LiveRelays(register, self.worker, self.turn.allocations)
        self.turn.sisters = Census(register, self.edge.pool)
        self.edge.pool.is_held = register.is_reserved
        self.edge.is_sisters = register.is_live

    def listen(self, listeners: Listeners) -> None:
        """Take clients."""
        for sock in listeners.udp:
            self._dropped_before += kernel_drops(sock)  # a worker that died had this socket before us
            self.edge.listen(sock)
        for sock, transport in listeners.streams:
            self.streams.listen(sock, transport, self.certificates if transport == "tls" else None)

    def serve(self) -> None:
        """Run the loop until SIGTERM, SIGINT or `loop.stop`."""
        signal.signal(signal.SIGTERM, lambda *_: self.loop.stop())
        signal.signal(signal.SIGINT, lambda *_: self.loop.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
        sys.setswitchinterval(GIVE_WAY_S)
        self.loop.run()

    def close(self) -> None:
        """Close every socket."""
        self.streams.close()
        self.edge.close()
        self.loop.close()

    # --- what it is told -----------------------------------------------------------------------------------

    def apply(self, config: RelayConfig) -> List[str]:
        """Take up what can change under running calls; the names of the keys that wait for a restart."""
        waiting = needing_restart(self.config, config)
        self.config = live(self.config, config)
        self.turn.reconfigure(_turn_config(self.config, self.workers))
        self.edge.opened_by_hand = _opened_by_hand(self.config)
        return waiting

    def obey(self, shard: Optional[Shard], services: "Iterable[Addr]") -> None:
        """Let clients reach the relayed addresses of the fleet that `shard` names, and none of its `services`."""
        self.turn.obey(_policy(self.config, shard, services))
        self.turn.alternates = None if shard is None else Alternates(shard)
        self.turn.nodes = frozenset() if shard is None else shard.nodes.keys() - {self.config.node}

    # --- the loop ------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> Optional[float]:
        if now >= self._next_expire:
            self._next_expire = now + EXPIRE_EVERY_S
            self._every_half_second(now)
        # The lab's delayed packets wake the loop far more often than the timers need.
        if now >= self._next_timers:
            self._next_timers = now + TICK_S
            self._every_tick(now)
            self.loop.tick_s = TICK_S if self._is_hurried() else LAZY_TICK_S
        return self._wish(now)

    def _wish(self, now: float) -> Optional[float]:
        """When to tick again at the latest."""
        held = [self.egress.release(now)]
        if self.last_mile is not None:
            held.append(self.last_mile.release(now))
        return min((due for due in held if due is not None), default=None)

    def _every_half_second(self, now: float) -> None:
        if self.turn.expire(now):
            self._next_expire = now  # there is more of it: at the next tick
        if self.register is not None:
            self.register.beats[self.worker] += 1
        if self.certificates is not None:
            self.certificates.poll()

    def _is_hurried(self) -> bool:
        """Is there anything whose timers are finer than a tenth of a second?"""
        return self.streams.open > 0 or self.turn.judging or self.register is not None

    def _every_tick(self, now: float) -> None:
        self.streams.tick(now)
        self.turn.judge()

    def _survived(self, error: Exception) -> None:
        """A bug of ours: counted and told, and calls go on."""
        self.drops["bug"] += 1
        # Not by `traceback`: that reads the sources, and a play may have put a newer zipapp under us.
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "?" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        self.log("bug", error=f"{type(error).__name__}: {error}"[:200], where=where)

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped at our sockets since the start, or since that of the process before us."""
        return self.edge.kernel_drops() - self._dropped_before

    def go_on_from(self, kernel_drops: int) -> None:
        """Another process has counted so many at the sockets that we have now."""
        self._dropped_before = self.edge.kernel_drops() - kernel_drops

    # --- what it tells -------------------------------------------------------------------------------------

    def figures(self) -> Dict[str, Any]:
        """The figures document (metrics.py) of this process, but for what the fleet and the operator add."""
        no_socket = Counter({f"no_socket_{name}": count for name, count in self.edge.pool.errors.items()})
        certificates = self.certificates
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
            "kernel_drops": self.kernel_drops(),
            "streams": self.streams.figures(),
            "tls": None
            if certificates is None
            else {"not_after_unix": certificates.not_after_unix(), "refused": certificates.refused},
            "process": metrics.process(),
            "loop_lag_ms": self.loop.lag(),
        }

    def _by_transport(self) -> Dict[str, int]:
        live_now = Counter({"udp": 0, "tcp": 0, "tls": 0})
        live_now.update(allocation.transport for allocation in self.turn.allocations.values())
        return dict(live_now)


def _policy(config: RelayConfig, shard: Optional[Shard], services: "Iterable[Addr]") -> PeerPolicy:
    """Who may be a peer: public addresses, what the configuration allows, and the fleet's relayed addresses."""
    others = [] if shard is None else [row for name, row in shard.nodes.items() if name != config.node]
    ports = (config.turn_port, config.tls_port, config.overlay_port, config.stamp_port, config.metrics_port)
    return PeerPolicy(
        config.allow_peers,
        relays=dict.fromkeys(config.addresses, config.relay_ports),
        own_addresses=config.own_addresses,
        service_ports=[port for port in ports if port is not None],
        neighbours=[(address, row.relay_ports) for row in others for address in row.addresses],
        services=[*services, *((row.address, row.overlay_port) for row in others)],
    )


def _turn_config(config: RelayConfig, workers: int) -> TurnConfig:
    """What one of `workers` processes goes by: each has its part of what no other can count for it."""
    return TurnConfig(
        config.realm,
        dict(config.users),
        config.secrets,
        relay_families=tuple(family_of(address) for address in config.addresses),
        user_quota=config.user_quota,
        total_quota=config.total_quota,
        refusals_per_second=-(-REFUSALS_PER_SECOND // workers),
        revoked=config.revoked,
        session_kbit_s=config.session_kbit_s,
        node_mbit_s=None if config.node_mbit_s is None else config.node_mbit_s / workers,
        password_algorithms=config.password_algorithms,
    )


def _opened_by_hand(config: RelayConfig) -> PeerPolicy:
    """What the operator allows on our own addresses, beside live allocations."""
    return PeerPolicy(config.allow_peers, own_addresses=config.own_addresses)


def _certificates(config: RelayConfig, log: Log) -> Optional[Certificates]:
    if config.tls_port is None or config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificates(config.tls_certificate, config.tls_key, log)
