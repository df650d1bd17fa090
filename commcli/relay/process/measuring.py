"""The STAMP mesh of a node at work: its two sockets, what sends and answers on them, and the clock that both go by."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Callable, List, Mapping, Optional

from commcli.relay.mesh.budget import USUAL, Budget
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import Reflector
from commcli.relay.mesh.stamp import ErrorEstimate
from commcli.relay.process import timesync

if TYPE_CHECKING:
    import socket

    from commcli.relay.clients.udp import Egress
    from commcli.relay.loop import Loop
    from commcli.relay.process.stamped import Arrival, StampedSocket

CLOCK_EVERY_S = 60.0
# How long test packets wait, which is in no figure: the more of them at once, the less each costs.
EVERY_S = 0.05


class Measuring:
    """Its sender and its reflector; `stamps` brings the peers' test packets, `answers` the answers to ours."""

    def __init__(
        self,
        node: str,
        stamps: Optional[StampedSocket],
        answers: Optional[StampedSocket],
        egress: Egress,
        loop: Loop,
        budget: Budget = USUAL,
        clock: Callable[[], ErrorEstimate] = timesync.clock,
    ) -> None:
        self.stamps, self.answers = stamps, answers
        self._send, self._loop, self._clock = egress.send, loop, clock
        self.mesh, self.reflector = Mesh(node, os.urandom, budget), Reflector(node)
        self._next_clock = self._next_at = 0.0

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        self.mesh.set_peers(peers)
        self.reflector.set_peers(peers)

    @property
    def socks(self) -> List[socket.socket]:
        """What is open."""
        return [stamped.sock for stamped in (self.stamps, self.answers) if stamped is not None]

    def close(self) -> None:
        """Close both sockets."""
        for stamped in (self.stamps, self.answers):
            if stamped is not None:
                if not stamped.is_told:
                    self._loop.remove(stamped.sock)
                stamped.sock.close()

    def tick(self, now: float) -> None:
        """Whatever is due. Call it every 20 to 50 ms."""
        if now >= self._next_clock:
            self._next_clock = now + CLOCK_EVERY_S
            clock = self._clock()
            self.mesh.set_clock(clock)
            self.reflector.set_clock(clock)
        if now >= self._next_at:
            self._next_at = now + min(EVERY_S, self.mesh.interval_s)
            self._turn(now)

    def _turn(self, now: float) -> None:
        send, monotonic, clock = self._send, time.monotonic, time.time
        if self.stamps is not None:
            sock, answer = self.stamps.sock, self.reflector.receive
            for data, source, age_s, ttl in self._read(self.stamps):
                unix = clock()
                reply = answer(data, source, unix - age_s, unix, ttl)
                if reply is not None:
                    send(sock, reply, source, now)
        if self.answers is not None:
            sock, take, request = self.answers.sock, self.mesh.receive_reply, self.mesh.request
            for data, source, age_s, _ in self._read(self.answers):
                take(data, source, monotonic() - age_s, clock() - age_s)
            for session in self.mesh.due(now):
                send(sock, request(session, monotonic(), clock()), session.addr, now)

    def _read(self, stamped: StampedSocket) -> List[Arrival]:
        """What waits. Where the kernel does not say when it came, from now on at once and not at the next tick."""
        was_told = stamped.is_told
        arrivals = stamped.read()
        if was_told and not stamped.is_told:
            self._loop.add(stamped.sock, lambda _events: self._turn(self._loop.now))
        return arrivals
