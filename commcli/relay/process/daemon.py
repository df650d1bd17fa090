"""The relay process: sockets on one side, the pure protocol machines on the other, the loop between them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from commcli.relay.clients.udp import Addr, raise_descriptor_limit
from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.log import Log
from commcli.relay.process import sisters
from commcli.relay.process.front import Front, Listeners, open_listeners
from commcli.relay.process.handover import HandoverFailed
from commcli.relay.process.membership import NO_TABLE, Membership
from commcli.relay.process.operations import Operations
from commcli.relay.process.readiness import Readiness
from commcli.relay.process.register import Register
from commcli.relay.process.sisters import Hub, Packets
from commcli.relay.process.sockets import Sockets
from commcli.relay.process.state import StateUnusable
from commcli.relay.process.takeover import Takeover
from commcli.relay.process.upgrade import Upgrade, own_command
from commcli.relay.table.shard import Shard
from commcli.relay.turn.road import Road

WAYS_EVERY_S, RTT_EVERY_S = 0.1, 5.0  # how soon other processes know of changes


class OverlayCarrier:
    """The overlay as what takes an edge's packets to other nodes."""

    def __init__(self, fleet: Membership, drops: "Counter[str]") -> None:
        self._fleet, self._overlay, self._drops = fleet, fleet.overlay, drops
        self.egress_of = fleet.overlay.egress_of

    def carry(
        self, egress: str, src: Addr, dst: Addr, payloads: List[bytes], road: Road, now: float, unix: float
    ) -> bool:
        """Send them by the overlay, or drop them (counted); False if they are to go straight."""
        if road.direct:
            # Who may bypass the overlay may not bypass the law: a user id is easily had.
            if self._overlay.permits_straight(egress):
                return False
            self._drops["direct_forbidden"] += len(payloads)
        elif road.via is None and self._overlay.goes_straight(egress):
            return False
        else:
            self._overlay.send(egress, src, dst, payloads, now, unix, road.via, road.plain)
        return True


class Group(NamedTuple):
    """What a relay of several processes gives to the one that stands for all of them."""

    workers: int
    listeners: Listeners
    register: Register
    socks: Mapping[int, socket.socket]  # to the others, by their number
    readiness: Readiness


class Relay(Front):
    """One relay. `run` serves until SIGTERM; everything it knows can be asked over the control socket.

    Of several processes this is the hub, worker 0: it has what there is one of, and the others ask it.
    """

    def __init__(
        self,
        config: RelayConfig,
        version: str,
        log: Log,
        read: Optional[Callable[[], RelayConfig]] = None,
        group: Optional[Group] = None,
        sockets: Optional[Sockets] = None,
    ) -> None:
        """Opens every socket that `sockets` has not. `read()` reads the configuration again.

        Raises ConfigError when one can not be bound.
        """
        workers, register = (1, None) if group is None else (group.workers, group.register)
        super().__init__(config, version, log, 0, workers, register)
        self.sockets = Sockets() if sockets is None else sockets
        self.listen(open_listeners(config, sockets=self.sockets) if group is None else group.listeners)
        self.hub: Optional[Hub] = None
        self.fleet: Optional[Membership] = None
        self._next_ways = self._next_rtt = 0.0
        if config.base is not None:
            self.fleet = Membership(self)
            self.edge.carrier = OverlayCarrier(self.fleet, self.drops)
        if group is not None:
            self.hub = Hub(group.socks, group.register, self.loop, self.drops, self._carry)
        self.upgrade = Upgrade(self, own_command())
        commands = {
            "upgrade": self.upgrade.command,
            **({} if self.fleet is None else self.fleet.commands()),
        }
        readiness = None if group is None else group.readiness
        self.loop.settle = self._settle
        self.operations = Operations(self, read or (lambda: self.config), commands, readiness, self.sockets)
        self._tell()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self.operations.listen_to_signals()
        self.log("relay_started", node=self.config.node, address=self.config.address, version=self.version)
        self.serve()
        if self.upgrade.done:
            self.upgrade.linger()
            return  # what is open here is open in the next process too
        self.upgrade.close()
        self.log("relay_stopped", node=self.config.node)
        self.close()

    def close(self) -> None:
        """Close every socket."""
        self.operations.close()
        if self.hub is not None:
            self.hub.close()
        if self.fleet is not None:
            self.fleet.close()
        super().close()

    # --- packets between the overlay and the other processes -------------------------------------------------

    def deliver(self, src: Addr, dst: Addr, payloads: Sequence[bytes], now: float) -> None:
        """What the overlay brought for one of our relayed addresses."""
        if self.hub is None or dst in self.turn.by_relay or not self.hub.deliver(src, dst, payloads):
            self.edge.deliver(src, dst, payloads, now)

    def _carry(self, packets: Packets) -> None:
        """What another process has for another node."""
        src, dst, payloads, road = packets
        egress = None if self.fleet is None else self.fleet.overlay.egress_of(*dst)
        if self.fleet is None or egress is None:
            self.drops["no_egress"] += len(payloads)  # the table has changed under it
        else:
            self.fleet.overlay.send(
                egress, src, dst, payloads, self.loop.now, time.time(), road.via, road.plain
            )

    def _settle(self, now: float) -> None:
        """The end of a turn: send what it brought for other nodes and for the other processes."""
        if self.fleet is not None:
            self.fleet.flush(now)
        if self.hub is not None:
            self.hub.flush()

    def _tell(self) -> None:
        """Let the other processes know what they go by."""
        if self.hub is None:
            return
        self.hub.tell(sisters.CONFIG, sisters.packed_config(self.config, self.turn.drain))
        if self.fleet is not None:
            self.hub.tell(sisters.TABLE, self.fleet.tables.document)
            self.hub.tell(sisters.SERVICES, sisters.document(self.fleet.services))
            self._tell_ways()

    def _tell_ways(self) -> None:
        assert self.hub is not None and self.fleet is not None
        self.hub.tell(sisters.WAYS, sisters.document(sorted(self.fleet.straight())))

    def _keep_told(self, hub: Hub, now: float) -> None:
        if self.fleet is not None and now >= self._next_ways:
            self._next_ways = now + WAYS_EVERY_S
            self._tell_ways()
        if self.fleet is not None and now >= self._next_rtt:
            self._next_rtt = now + RTT_EVERY_S
            hub.tell(sisters.RTT, sisters.document(self.fleet.rtt_ms()))
        hub.tick()

    # --- what the operator asks for ------------------------------------------------------------------------

    def reconfigure(self, config: RelayConfig) -> List[str]:
        """Apply what can change under running calls; the names of the keys that wait for a restart.

        Raises ConfigError when the certificate can not be used: the old one stays, and all else is applied, since it
        may revoke somebody.
        """
        waiting = self.apply(config)
        if self.fleet is None:
            self.obey(None, ())
        else:
            self.fleet.reload()
        certificates = self.certificates
        if certificates is not None and not certificates.reload() and certificates.context is not None:
            raise ConfigError(f"the certificate stays as it was, all else is applied: {certificates.refused}")
        return waiting

    def obey(self, shard: Optional[Shard], services: "Iterable[Addr]") -> None:
        """As any front, and so do the other processes."""
        super().obey(shard, services)
        self._tell()

    def drain_to(self, sessions: int, stop: bool) -> None:
        """Take no new client."""
        self.turn.drain = True
        self._tell()

    def undrain(self) -> None:
        """Take new clients again."""
        self.turn.drain = False
        self._tell()

    # --- the loop ------------------------------------------------------------------------------------------

    def _every_half_second(self, now: float) -> None:
        super()._every_half_second(now)
        if self.fleet is not None and self.turn.alternates is not None:
            self.turn.alternates.measured(self.fleet.rtt_ms())

    def _is_hurried(self) -> bool:
        return super()._is_hurried() or (self.fleet is not None and bool(self.fleet.services))

    def _wish(self, now: float) -> Optional[float]:
        held = super()._wish(now)
        due = None if self.fleet is None else self.fleet.overlay.wish(now)
        return min(due, held) if due is not None and held is not None else due if held is None else held

    def _every_tick(self, now: float) -> None:
        self.operations.tick(now)
        self.upgrade.tick(now)
        super()._every_tick(now)
        if self.fleet is not None:
            self.fleet.tick(now, time.time())
        if self.hub is not None:
            self._keep_told(self.hub, now)

    # --- what it tells -------------------------------------------------------------------------------------

    def sessions(self) -> int:
        """Live allocations, of all processes."""
        return len(self.turn.allocations) if self.register is None else self.register.sessions()

    def status(self) -> Dict[str, Any]:
        """The document of the control command `status` (shape: docs of `control`)."""
        overlay = None if self.fleet is None else self.fleet.overlay.status()
        return {**self.figures(), "overlay": overlay, "upgrade": self.upgrade.status()}

    def figures(self) -> Dict[str, Any]:
        """The status but for the overlay's flows: cheap, since any local user may ask for the metrics."""
        fleet: Dict[str, Any] = {"peers": {}, "table": NO_TABLE}
        if self.fleet is not None:
            fleet = {**self.fleet.status(), "overlay": self.fleet.overlay.figures()}
        own = {**super().figures(), **fleet}
        return own if self.hub is None else self.hub.figures(own, time.monotonic())


def serve(
    config: RelayConfig,
    version: str,
    read: Optional[Callable[[], RelayConfig]] = None,
    takeover: Optional[Takeover] = None,
) -> int:
    """Run one relay until it is told to stop; 3 when it can not start. `read()` reads the configuration again.

    `takeover`: the relay that runs is to be ours.
    """
    log = Log(as_json=config.log_json)
    if config.allow_peers:
        log(
            "peers_allowed",
            networks=",".join(config.allow_peers),
            note="private peers are reachable through this relay",
        )
    raise_descriptor_limit()
    try:
        workers = config.workers or len(os.sched_getaffinity(0))
        if takeover is not None:
            relay = taken_over(takeover, config, version, log, read, workers)
        elif workers > 1:
            from commcli.relay.process.workers import Parent

            return Parent(config, version, log, read or (lambda: config), workers).run()
        else:
            relay = Relay(config, version, log, read)
    except ConfigError as error:
        print(f"commcli-relay: {error}", file=sys.stderr)
        return 3
    relay.run()
    return 0


def taken_over(
    takeover: Takeover,
    config: RelayConfig,
    version: str,
    log: Log,
    read: Optional[Callable[[], RelayConfig]],
    workers: int,
) -> Relay:
    """A relay in the place of the one that runs, with its calls. Raises ConfigError: then that one knows why."""
    try:
        if workers > 1:
            raise ConfigError(f"{workers} processes can not take over from one: drain it, then restart it")
        relay = Relay(config, version, log, read, sockets=takeover.sockets(config))
        relay.operations.hush()
        relay.upgrade.predecessor = takeover.finish(relay)
    except Exception as error:
        known = isinstance(error, (ConfigError, HandoverFailed, StateUnusable))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        takeover.refuse(reason)
        raise ConfigError(f"upgrade: {reason}") from error
    relay.upgrade.taken_over = relay.upgrade.predecessor.document
    return relay
