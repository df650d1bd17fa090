"""The lab's last mile: what every client of this edge has between itself and us, both ways. Never on in production.

All of it is synthetic, and made here: packets of clients are held after they were received, and those for clients
before they are sent. Every client has a link of its own each way, so that one does not fill the other's queue. Over
TCP and TLS nothing is lost but what does not fit the queue: what the rule loses comes a round trip later, and what
follows waits for it.
"""

from __future__ import annotations

import heapq
import itertools
import random
import socket
from collections import Counter
from functools import partial
from typing import Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from commcli.relay.clients.edge import StreamSender
from commcli.relay.clients.udp import MAX_HELD, Addr, BatchSocket, Received, split
from commcli.relay.shaping import Link
from commcli.relay.turn.auth import Client

# What IP and UDP, and IP and TCP, add to a packet on the wire: by "is IPv6".
UDP_HEADERS = {False: 28, True: 48}
TCP_HEADERS = {False: 40, True: 60}
# Forgotten all at once beyond this: ports come and go.
MOST_LINKS = 4096


class LastMile:
    """The rule, the link of each client in each direction, and what is on its way on them."""

    def __init__(
        self, drops: "Counter[str]", clock: Callable[[], float], hurry: Callable[[float], None]
    ) -> None:
        """`hurry(when)`: `release` is to be called by then (monotonic seconds)."""
        self.rule: Optional[Mapping[str, object]] = None
        self._drops, self._clock, self._hurry = drops, clock, hurry
        self._seed = 0
        self._links: Dict[Tuple[Client, bool], Link] = {}
        self._held: List[Tuple[float, int, Client, Callable[[], None]]] = []
        self._order = itertools.count()

    def set_rule(self, rule: Optional[Mapping[str, object]], seed: int) -> None:
        """The last mile of every client from now on, as a Link takes it; None: none. Raises ValueError."""
        if rule is not None:
            Link(rule, random.Random(seed))
        self.rule, self._seed = rule, seed
        self._links.clear()

    @property
    def clear(self) -> bool:
        """Does everything pass at once?"""
        return self.rule is None and not self._held

    def cross(
        self, client: Client, up: bool, size: int, arrive: Callable[[], None], *, reliable: bool = False
    ) -> None:
        """Call `arrive` when a packet of `size` bytes, all headers counted, has crossed; never if it is lost."""
        now = self._clock()
        release = self._link(client, up, now, size, reliable)
        if release is None:
            self._drops["lab_last_mile"] += 1
        elif len(self._held) >= MAX_HELD:
            self._drops["lab_queue_full"] += 1
        else:
            heapq.heappush(self._held, (release, next(self._order), client, arrive))
            self._hurry(release)

    def _link(self, client: Client, up: bool, now: float, size: int, reliable: bool) -> Optional[float]:
        if self.rule is None:
            # Behind what was on its way when the rule was taken back: order is kept.
            return max((row[0] for row in self._held if row[2] == client), default=now)
        link = self._links.get((client, up))
        if link is None:
            if len(self._links) >= MOST_LINKS:
                self._links.clear()
            link = Link(self.rule, random.Random("%d/%r/%d" % (self._seed, client, up)))
            self._links[client, up] = link
        return link.release(size, now, reliable=reliable)

    def release(self, now: float) -> Optional[float]:
        """Let arrive what is due; when the next packet is, None when nothing is on its way."""
        if self._held and self._held[0][0] <= now:
            self._hurry(now)  # what they bring for others goes at the end of this turn, which is not to wait
        while self._held and self._held[0][0] <= now:
            heapq.heappop(self._held)[3]()
        return self._held[0][0] if self._held else None

    def forget(self, client: Client) -> None:
        """This client is gone, with everything on its way."""
        self._links.pop((client, True), None)
        self._links.pop((client, False), None)
        if any(row[2] == client for row in self._held):
            self._held = [row for row in self._held if row[2] != client]
            heapq.heapify(self._held)


class FarSocket(BatchSocket):
    """The socket that UDP clients send to, at the near end of their last mile."""

    __slots__ = ("_come", "_headers", "_here", "_mile")

    def __init__(
        self,
        mile: LastMile,
        sock: socket.socket,
        drops: "Counter[str]",
        come: Callable[[BatchSocket, int], None],
    ) -> None:
        """`come(self, 0)` is to call `read`: something has crossed, of which no event tells."""
        super().__init__(sock, drops)
        self._mile, self._come = mile, come
        self._here: "List[Received]" = []
        self._headers = UDP_HEADERS[sock.family == socket.AF_INET6]

    def read(self, turn: int) -> "List[Received]":
        """What has crossed the last mile."""
        received = super().read(turn)
        if self._mile.clear and not self._here:
            return received
        for data, ancillary, flags, source in received:
            for datagram in split(data, ancillary):
                row: Received = (datagram, [], flags, source)
                self._mile.cross(source[:2], True, len(datagram) + self._headers, partial(self._arrive, row))
        here, self._here = self._here, []
        return here

    def _arrive(self, row: "Received") -> None:
        self._here.append(row)
        self._come(self, 0)

    def send(self, data: bytes, to: Addr) -> None:
        if self._mile.clear:
            super().send(data, to)
        else:
            arrive = partial(super().send, data, to)
            self._mile.cross(to[:2], False, len(data) + self._headers, arrive)

    def send_all(self, datagrams: Sequence[bytes], to: Addr) -> None:
        if self._mile.clear:
            super().send_all(datagrams, to)
        else:
            for datagram in datagrams:
                self.send(datagram, to)


class Edge(Protocol):
    """Who is asked and told of stream clients (stream.Handlers)."""

    def frames(self, client: Client, frames: List[bytes], now: float) -> None: ...
    def closed(self, client: Client) -> None: ...
    def holds(self, client: Client) -> bool: ...


class FarStreams:
    """Between an edge and its stream clients: to the edge it is the streams, to the streams the edge."""

    def __init__(self, mile: LastMile, edge: Edge, clock: Callable[[], float]) -> None:
        """`streams` is to be set before anything is sent."""
        self._mile, self._edge, self._clock = mile, edge, clock
        self.streams: Optional[StreamSender] = None

    def frames(self, client: Client, frames: List[bytes], now: float) -> None:
        """Frames left the client."""
        if self._mile.clear:
            self._edge.frames(client, frames, now)
            return
        for frame in frames:
            self._cross(client, True, frame, partial(self._arrive, client, frame))

    def _arrive(self, client: Client, frame: bytes) -> None:
        self._edge.frames(client, [frame], self._clock())

    def closed(self, client: Client) -> None:
        """The stream is gone, with what was on its way."""
        self._mile.forget(client)
        self._edge.closed(client)

    def holds(self, client: Client) -> bool:
        """Has this client an allocation?"""
        return self._edge.holds(client)

    def send(self, client: Client, data: bytes) -> None:
        """A frame leaves for the client."""
        assert self.streams is not None
        if self._mile.clear:
            self.streams.send(client, data)
        else:
            self._cross(client, False, data, partial(self.streams.send, client, data))

    def send_all(self, client: Client, frames: Sequence[bytes]) -> None:
        """Frames leave for the client."""
        assert self.streams is not None
        if self._mile.clear:
            self.streams.send_all(client, frames)
        else:
            for frame in frames:
                self.send(client, frame)

    def _cross(self, client: Client, up: bool, frame: bytes, arrive: Callable[[], None]) -> None:
        size = len(frame) + TCP_HEADERS[":" in client[0]]
        self._mile.cross(client, up, size, arrive, reliable=True)
