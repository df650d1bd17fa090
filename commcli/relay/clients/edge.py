"""The client side of a relay: its listening sockets, its relayed addresses, and the packets between them.

Two hot loops, one each way. Both read what came together, ask the pure server about each packet, and send what goes
the same way together.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from functools import partial
from types import MappingProxyType
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple

from commcli.relay.clients.udp import Addr, BatchSocket, Egress, RelayPool, kernel_drops, split
from commcli.relay.loop import Loop
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.auth import Client
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.road import Road
from commcli.relay.turn.server import Frames, FromPeer, Server, TurnConfig, Ways

# From peers in one turn of the loop, so that it stays within a tick.
MOST_DATAGRAMS = 1024


class Relayed(BatchSocket):
    """The socket of one relayed address."""

    __slots__ = ("relay",)

    def __init__(self, relay: Addr, sock: socket.socket, drops: "Counter[str]") -> None:
        super().__init__(sock, drops)
        self.relay = relay


class Carrier(Protocol):
    """What takes packets to the relayed addresses of other nodes (the overlay)."""

    def egress_of(self, ip: str, port: int) -> Optional[str]:
        """The node whose relayed address this is, None if it is nobody's."""

    def carry(
        self, egress: str, src: Addr, dst: Addr, payloads: List[bytes], road: Road, now: float, unix: float
    ) -> bool:
        """Send them there, or drop them (counted). False: they are to go straight, as any packets to a peer."""


class StreamSender(Protocol):
    """The connections of clients that came by TCP or TLS."""

    def send(self, client: Client, data: bytes) -> None:
        """Send a whole frame to this client, or drop it."""

    def send_all(self, client: Client, frames: Sequence[bytes]) -> None:
        """Send whole frames to this client, or drop some of them."""


OpenListener = Callable[[socket.socket, "Counter[str]", Callable[[BatchSocket, int], None]], BatchSocket]


class Grounds(NamedTuple):
    """Where an edge stands: the addresses of this node, and which of its relay ports are this process's own.

    `bound`: of an address that is not the machine's own (1:1 NAT), the one that its sockets are bound to.
    """

    addresses: Tuple[str, ...]
    relay_ports: Tuple[int, int]
    slice_: Tuple[int, int] = (0, 1)
    bound: Mapping[str, str] = MappingProxyType({})


class Edge:
    """TURN listeners, relayed sockets, and the data path between them."""

    def __init__(
        self,
        grounds: Grounds,
        config: TurnConfig,
        policy: PeerPolicy,
        loop: Loop,
        egress: Egress,
    ) -> None:
        self.loop, self.egress, self.drops = loop, egress, egress.drops
        self.carrier: Optional[Carrier] = None
        self.streams: Optional[StreamSender] = None
        # The lab's one holds what crosses it, and says when something has.
        self.open_listener: OpenListener = lambda sock, drops, _come: BatchSocket(sock, drops)
        # Is it a live relayed address of a sister process? Those are reached through the kernel.
        self.is_sisters: Callable[[Addr], bool] = lambda _peer: False
        self._own = frozenset((*grounds.addresses, *grounds.bound.values()))
        self._bound = grounds.bound
        self._known = {own: known for known, own in grounds.bound.items()}
        self.opened_by_hand = PeerPolicy()  # what the operator allows on our own addresses
        self._listeners: Dict[bool, BatchSocket] = {}  # by "is IPv6"
        self._relayed: Dict[Addr, Relayed] = {}
        self._ended_drops = 0
        self._frames: Frames = {}  # for clients, until the end of the turn
        loop.turn_ends = self._turn_ends
        self.pool = RelayPool(
            grounds.addresses,
            grounds.relay_ports,
            secrets.randbelow,
            self._opened,
            self._closed,
            grounds.slice_,
            grounds.bound,
        )
        self.turn = Server(config, self.pool, policy, os.urandom)

    def listen(self, sock: socket.socket) -> None:
        """Serve clients that send to this bound UDP socket; one a family."""
        batches = self.open_listener(sock, self.drops, self._from_clients)
        self._listeners[sock.family == socket.AF_INET6] = batches
        self.loop.add(sock, partial(self._from_clients, batches))

    def whole(self) -> None:
        """Let every socket send what it is given as it is: another process that has them goes by that."""
        for batches in (*self._listeners.values(), *self._relayed.values()):
            batches.whole()

    def close(self) -> None:
        """Close every socket."""
        for relay in list(self.pool.sockets):
            self.pool.close(relay)
        for batches in self._listeners.values():
            self.loop.remove(batches.sock)
            batches.sock.close()

    # --- from clients --------------------------------------------------------------------------------------

    def _from_clients(self, batches: BatchSocket, _events: int) -> None:
        now, channel_data = self.loop.now, self.turn.channel_data
        ways: Ways = {}
        for data, ancillary, _flags, client in batches.read(self.loop.turns):
            if len(client) > 2:  # IPv6: without flow and scope
                client = client[:2]
            datagrams = split(data, ancillary) if ancillary else (data,)
            if data and data[0] & 0xC0 == 0x40 and (not ancillary or _all_channel_data(datagrams)):
                channel_data(datagrams, client, now, ways)
            else:
                for datagram in datagrams:
                    self._message(datagram, client, batches, ways)
        if ways:
            self._to_peers(ways, now)

    def _message(self, datagram: bytes, client: Client, batches: BatchSocket, ways: Ways) -> None:
        self._before(datagram, ways, self.loop.now)
        for action in self.turn.handle(datagram, client, self.loop.now, time.time()):
            if action[0] == "client":
                batches.send(action[2], client)
            else:
                ways.setdefault((action[1], action[2]), []).append(action[3])

    def frames(self, client: Client, frames: Sequence[bytes], now: float) -> None:
        """Whole frames of a stream client."""
        unix = time.time()
        ways: Ways = {}
        for frame in frames:
            self._before(frame, ways, now)
            for action in self.turn.handle(frame, client, now, unix):
                if action[0] == "peer":
                    ways.setdefault((action[1], action[2]), []).append(action[3])
                elif self.streams is not None:
                    self.streams.send(client, action[2])
        if ways:
            self._to_peers(ways, now)

    def _before(self, message: bytes, ways: Ways, now: float) -> None:
        """Send what came before a request: a Refresh that ends the allocation must not take its last packets along."""
        if ways and len(message) > 1 and not (message[0] & 0xC1 or message[1] & 0x10):
            self._to_peers(ways, now)
            ways.clear()

    def closed(self, client: Client) -> None:
        """The stream of this client is gone."""
        self.turn.closed(client)

    def holds(self, client: Client) -> bool:
        """Has this client an allocation?"""
        return client in self.turn.allocations

    def _to_peers(self, ways: Ways, now: float) -> None:
        """Send packets where their peers are: here, at another node, or anywhere else."""
        for (allocation, peer), payloads in ways.items():
            src = allocation.towards(peer[0])
            if allocation.road.via is not None:
                self._pinned(allocation, src, peer, payloads, now)
                continue
            here = self.turn.by_relay.get(peer)
            if here is not None:
                self.turn.from_peers(((here, src, payloads),), now, self._frames)
                continue
            to = peer
            if peer[0] in self._own:
                if not self.is_sisters(peer) and not self.opened_by_hand.permits(*peer):
                    # Some other program's socket among our relay ports: only live allocations are peers there.
                    self.drops["no_allocation"] += len(payloads)
                    continue
                to = (self._bound.get(peer[0], peer[0]), peer[1])
            if self.carrier is not None:
                egress = self.carrier.egress_of(*peer)
                if egress is not None and self.carrier.carry(
                    egress, src, peer, payloads, allocation.road, now, time.time()
                ):
                    continue
            if allocation.expires <= now:  # it ended between these packets and now
                self.drops["no_allocation"] += len(payloads)
            elif self.egress.shaper is None:
                self._relayed[src].send_all(payloads, to)
            else:
                self._relayed[src].whole()
                for payload in payloads:
                    self.egress.send(self._relayed[src].sock, payload, to, now)

    def _pinned(
        self, allocation: Allocation, src: Addr, peer: Addr, payloads: List[bytes], now: float
    ) -> None:
        """Over the relay that the user asked for, or nowhere: what went another way would be taken for that one."""
        egress = None if self.carrier is None else self.carrier.egress_of(*peer)
        if self.carrier is None or egress is None:
            self.drops["via_no_egress"] += len(payloads)
        else:
            self.carrier.carry(egress, src, peer, payloads, allocation.road, now, time.time())

    # --- to clients ----------------------------------------------------------------------------------------

    def _opened(self, relay: Addr, sock: socket.socket) -> None:
        self._relayed[relay] = relayed = Relayed(relay, sock, self.drops)
        self.loop.join(sock, relayed)

    def _closed(self, relay: Addr, sock: socket.socket) -> None:
        self.loop.remove(sock)
        self._ended_drops += kernel_drops(sock)
        del self._relayed[relay]

    def _turn_ends(self, ready: List[Relayed]) -> None:
        """Read the relayed sockets that are ready, and send what this turn brought for clients."""
        if ready:
            received: List[FromPeer] = []
            by_relay, turns, count = self.turn.by_relay, self.loop.turns, 0
            # Not always the same ones first: what is over the limit has to wait.
            first = turns % len(ready)
            for relayed in ready[first:] + ready[:first]:
                if count > MOST_DATAGRAMS:
                    break
                allocation = by_relay.get(relayed.relay)
                if allocation is None:
                    self._unclaimed(relayed)
                    continue
                for data, ancillary, _flags, peer in relayed.read(turns):
                    if len(peer) > 2:  # IPv6: without flow and scope
                        peer = peer[:2]
                    datagrams = split(data, ancillary) if ancillary else (data,)
                    received.append((allocation, peer, datagrams))
                    count += len(datagrams)
            if self._known:
                received = [
                    (allocation, self._named(allocation, peer), data) for allocation, peer, data in received
                ]
            self.turn.from_peers(received, self.loop.now, self._frames)
        if self._frames:
            self._flush()

    def _named(self, allocation: Allocation, peer: Addr) -> Addr:
        """The name that this client has for a peer: of what came from our own machine, its public address."""
        known = self._known.get(peer[0])
        if known is None:
            return peer
        public = (known, peer[1])
        # A service of this machine, opened by hand, may have been addressed by the private address itself.
        by_private = not self.is_sisters(public) and allocation.permitted(peer[0], self.loop.now)
        return peer if by_private else public

    def _unclaimed(self, relayed: Relayed) -> None:
        """A port that is only reserved, or was closed in this very turn."""
        if relayed.relay in self._relayed:
            self.drops["no_allocation"] += len(relayed.read(self.loop.turns))

    def _flush(self) -> None:
        frames, self._frames = self._frames, {}
        listeners, streams = self._listeners, self.streams
        for allocation, some in frames.items():
            client = allocation.client
            if not allocation.streamed:
                listeners[":" in client[0]].send_all(some, client)
            elif streams is not None:
                streams.send_all(client, some)

    def deliver(self, src: Addr, dst: Addr, payloads: Sequence[bytes], now: float) -> None:
        """Hand what came for the relayed address `dst` to its client, if that client permits `src`.

        It goes at the end of the loop's turn, so that frames of one client go together.
        """
        allocation = self.turn.by_relay.get(dst)
        if allocation is None:
            self.drops["no_allocation"] += len(payloads)
        else:
            self.turn.from_peers(((allocation, src, payloads),), now, self._frames)

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped at our sockets, since the start."""
        listening = sum(kernel_drops(batches.sock) for batches in self._listeners.values())
        return self._ended_drops + listening + sum(kernel_drops(sock) for sock in self.pool.sockets.values())


def _all_channel_data(datagrams: Sequence[bytes]) -> bool:
    # A request may come as the last and shorter one of a train.
    return all(datagram[0] & 0xC0 == 0x40 for datagram in datagrams)
