"""The client side of a relay: its listening sockets, its relayed addresses, and the packets between them.

Two hot loops, one each way. Both read what came together, ask the pure server about each packet, and send what goes
the same way together.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

from commcli.relay.allocation import Allocation
from commcli.relay.auth import Client
from commcli.relay.loop import Loop
from commcli.relay.peers import PeerPolicy
from commcli.relay.turn import Server, TurnConfig
from commcli.relay.udp import Addr, BatchSocket, Egress, RelayPool, kernel_drops, split

# A packet of an allocation, and the peer that it is for.
Carried = Tuple[Allocation, Addr, bytes]


class Carrier(Protocol):
    """What takes packets to the relayed addresses of other nodes (the overlay)."""

    def egress_of(self, ip: str, port: int) -> Optional[str]:
        """The node whose relayed address this is, None if it is nobody's."""

    def carry(
        self, egress: str, src: Addr, dst: Addr, payload: bytes, direct: bool, now: float, unix: float
    ) -> bool:
        """Send it there, or drop it (counted). False: it is to go straight, as any packet to a peer."""


class StreamSender(Protocol):
    """The connections of clients that came by TCP or TLS."""

    def send(self, client: Client, data: bytes) -> None:
        """Send a whole frame to this client, or drop it."""


class Grounds(NamedTuple):
    """Where an edge stands: the addresses of this node, and which of its relay ports are this process's own."""

    addresses: Tuple[str, ...]
    relay_ports: Tuple[int, int]
    slice_: Tuple[int, int] = (0, 1)


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
        # Is it a live relayed address of a sister process? Those are reached through the kernel.
        self.is_sisters: Callable[[Addr], bool] = lambda _peer: False
        self._own = frozenset(grounds.addresses)
        self.opened_by_hand = PeerPolicy()  # what the operator allows on our own addresses
        self._listeners: Dict[bool, BatchSocket] = {}  # by "is IPv6"
        self._relayed: Dict[Addr, BatchSocket] = {}
        self._ended_drops = 0
        self.pool = RelayPool(
            grounds.addresses,
            grounds.relay_ports,
            secrets.randbelow,
            self._opened,
            self._closed,
            grounds.slice_,
        )
        self.turn = Server(config, self.pool, policy, os.urandom)

    def listen(self, sock: socket.socket) -> None:
        """Serve clients that send to this bound UDP socket; one a family."""
        batches = BatchSocket(sock, self.drops)
        self._listeners[sock.family == socket.AF_INET6] = batches
        self.loop.add(sock, lambda _events: self._from_clients(batches))

    def close(self) -> None:
        """Close every socket."""
        for relay in list(self.pool.sockets):
            self.pool.close(relay)
        for batches in self._listeners.values():
            self.loop.remove(batches.sock)
            batches.sock.close()

    # --- from clients --------------------------------------------------------------------------------------

    def _from_clients(self, batches: BatchSocket) -> None:
        now, unix = time.monotonic(), time.time()
        channel_data = self.turn.channel_data
        carried: List[Carried] = []
        for data, ancillary, _flags, client in batches.read(self.loop.turns):
            if len(client) > 2:  # IPv6: without flow and scope
                client = client[:2]
            for datagram in split(data, ancillary) if ancillary else (data,):
                if datagram and 0x40 <= datagram[0] < 0x80:
                    packet = channel_data(datagram, client, now)
                    if packet is not None:
                        carried.append(packet)
                else:
                    for action in self.turn.handle(datagram, client, now, unix):
                        if action[0] == "client":
                            batches.send(action[2], client)
                        else:
                            carried.append(action[1:])
        if carried:
            self._to_peers(carried, now, unix)

    def frames(self, client: Client, frames: Sequence[bytes], now: float) -> None:
        """Whole frames of a stream client."""
        unix = time.time()
        carried: List[Carried] = []
        for frame in frames:
            for action in self.turn.handle(frame, client, now, unix):
                if action[0] == "peer":
                    carried.append(action[1:])
                elif self.streams is not None:
                    self.streams.send(client, action[2])
        if carried:
            self._to_peers(carried, now, unix)

    def closed(self, client: Client) -> None:
        """The stream of this client is gone."""
        self.turn.closed(client)

    def holds(self, client: Client) -> bool:
        """Has this client an allocation?"""
        return client in self.turn.allocations

    def _to_peers(self, carried: List[Carried], now: float, unix: float) -> None:
        """Send packets on; those that follow each other on one way go together."""
        if len(carried) == 1:
            allocation, peer, payload = carried[0]
            self._to_peer(allocation, peer, [payload], now, unix)
            return
        at = 0
        while at < len(carried):
            allocation, peer, payload = carried[at]
            payloads = [payload]
            at += 1
            while at < len(carried) and carried[at][0] is allocation and carried[at][1] == peer:
                payloads.append(carried[at][2])
                at += 1
            self._to_peer(allocation, peer, payloads, now, unix)

    def _to_peer(
        self, allocation: Allocation, peer: Addr, payloads: List[bytes], now: float, unix: float
    ) -> None:
        """Send packets where this peer is: here, at another node, or anywhere else."""
        here = self.turn.by_relay.get(peer)
        if here is not None:
            self._to_client(here, self.turn.to_client(here, allocation.towards(peer[0]), payloads, now))
            return
        if peer[0] in self._own and not self.is_sisters(peer) and not self.opened_by_hand.permits(*peer):
            # Some other program's socket among our relay ports: only live allocations are peers there.
            self.drops["no_allocation"] += len(payloads)
            return
        src = allocation.towards(peer[0])
        if self.carrier is not None:
            egress = self.carrier.egress_of(*peer)
            if egress is not None:
                carry, direct = self.carrier.carry, allocation.direct
                payloads = [
                    data for data in payloads if not carry(egress, src, peer, data, direct, now, unix)
                ]
        if not payloads:
            return
        if allocation.expires <= now:  # it ended between these packets and now
            self.drops["no_allocation"] += len(payloads)
        elif self.egress.shaper is None:
            self._relayed[src].send_all(payloads, peer)
        else:
            for payload in payloads:
                self.egress.send(self._relayed[src].sock, payload, peer, now)

    # --- to clients ----------------------------------------------------------------------------------------

    def _opened(self, relay: Addr, sock: socket.socket) -> None:
        batches = BatchSocket(sock, self.drops)
        self.loop.add(sock, lambda _events: self._from_peers(relay, batches))
        self._relayed[relay] = batches

    def _closed(self, relay: Addr, sock: socket.socket) -> None:
        self.loop.remove(sock)
        self._ended_drops += kernel_drops(sock)
        del self._relayed[relay]

    def _from_peers(self, relay: Addr, batches: BatchSocket) -> None:
        now = time.monotonic()
        received = batches.read(self.loop.turns)
        allocation = self.turn.by_relay.get(relay)
        if allocation is None:  # a port that is only reserved
            self.drops["no_allocation"] += len(received)
            return
        to_client, frames = self.turn.to_client, []
        for data, ancillary, _flags, peer in received:
            if len(peer) > 2:
                peer = peer[:2]
            datagrams = split(data, ancillary) if ancillary else (data,)
            frames += to_client(allocation, peer, datagrams, now)
        self._to_client(allocation, frames)

    def _to_client(self, allocation: Allocation, frames: List[bytes]) -> None:
        client = allocation.client
        if len(client) == 2:
            self._listeners[":" in client[0]].send_all(frames, client)
        elif self.streams is not None:
            for frame in frames:
                self.streams.send(client, frame)

    def deliver(self, src: Addr, dst: Addr, payload: bytes, now: float) -> None:
        """Hand what came for the relayed address `dst` to its client, if that client permits `src`."""
        allocation = self.turn.by_relay.get(dst)
        if allocation is None:
            self.drops["no_allocation"] += 1
        else:
            self._to_client(allocation, self.turn.to_client(allocation, src, [payload], now))

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped at our sockets, since the start."""
        listening = sum(kernel_drops(batches.sock) for batches in self._listeners.values())
        return self._ended_drops + listening + sum(kernel_drops(sock) for sock in self.pool.sockets.values())
