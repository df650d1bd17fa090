"""All that one process of a relay knows and the next one needs: as JSON, and sockets by number.

In portions while the one still serves, then the rest in one piece, so that the time in which nobody serves does not
grow with the calls. What the configuration and the table say is not in it: the next process reads them itself.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Sequence

from commcli.relay.turn.server import Told

if TYPE_CHECKING:
    from commcli.relay.clients.udp import Addr
    from commcli.relay.process.daemon import Relay

# Transports of clients whose sessions are in a process's own memory: the standard library can not move them.
UNMOVABLE = ("tls",)
# Allocations that are handed over in one turn of the loop: a few ms.
PORTION = 50

_UNUSABLE = (ValueError, KeyError, TypeError, IndexError, OSError)


class StateUnusable(Exception):
    """What another process kept can not be used here; the text is one line."""


def unmovable(relay: Relay) -> int:
    """The allocations that an upgrade would end."""
    return sum(allocation.transport in UNMOVABLE for allocation in relay.turn.allocations.values())


class Giver:
    """The state of a relay on its way out. The relay may go on after each step."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._told: Told = {}
        self._relayed: Dict[Addr, socket.socket] = {}  # that the other one has
        self._count = 0  # sockets given
        self._descriptors: List[int] = []  # of the present step

    def portion(self, now: float) -> Dict[str, Any]:
        """Some more allocations, {} when there are no more of them to tell. Their sockets are `descriptors`."""
        self._descriptors = []
        kept = self._relay.turn.kept_allocations(now, self._told, UNMOVABLE, PORTION)
        wanted = [(ip, port) for row in kept["rows"] for ip, port in row["relays"]]
        return {"turn": kept, "relayed": self._give(wanted)} if kept["rows"] else {}

    def rest(self, now: float) -> Dict[str, Any]:
        """All else, between two turns of the loop: nothing may be read after this, if the other one is to go on."""
        self._descriptors = []
        relay, sockets = self._relay, self._relay.edge.pool.sockets
        relay.edge.whole()
        left = [a for a in relay.turn.allocations.values() if a.transport in UNMOVABLE]
        ending = {relayed for allocation in left for relayed in allocation.relays}
        closed = [relayed for relayed, sock in self._relayed.items() if sockets.get(relayed) is not sock]
        return {
            "closed": closed,
            "relayed": self._give(relayed for relayed in sockets if relayed not in ending),
            "turn": relay.turn.kept(now, self._told, UNMOVABLE),
            "streams": relay.streams.kept(now, self._put),
            "operations": relay.operations.kept(self._put),
            "fleet": None if relay.fleet is None else relay.fleet.kept(now),
            "drops": relay.drops,
            "kernel_drops": relay.kernel_drops(),
            "cut": len(left),
        }

    @property
    def descriptors(self) -> List[int]:
        """The sockets of the last step, in order of their numbers."""
        return self._descriptors

    def _give(self, relayed: Iterable[Addr]) -> List[Any]:
        """Those of these addresses that the other one has not: (ip, port, number of the socket)."""
        sockets, given = self._relay.edge.pool.sockets, []
        for address in relayed:
            if self._relayed.get(address) is not sockets[address]:
                self._relayed[address] = sockets[address]
                given.append((*address, self._put(sockets[address])))
        return given

    def _put(self, sock: socket.socket) -> int:
        self._descriptors.append(sock.fileno())
        self._count += 1
        return self._count - 1


class Taker:
    """The state of another process on its way in."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._descriptors: List[int] = []

    def portion(self, state: Mapping[str, Any], descriptors: Sequence[int], now: float) -> None:
        """Raises StateUnusable."""
        self._descriptors += descriptors
        try:
            self._open(state["relayed"])
            self._relay.turn.take_allocations(state["turn"], now)
        except _UNUSABLE as error:
            raise StateUnusable(f"{type(error).__name__}: {error}") from error

    def rest(self, state: Mapping[str, Any], descriptors: Sequence[int], now: float) -> None:
        """Raises StateUnusable."""
        self._descriptors += descriptors
        relay = self._relay
        try:
            for ip, port in state["closed"]:
                relay.edge.pool.close((ip, port))
            self._open(state["relayed"])
            relay.turn.take(state["turn"], now)
            relay.streams.take(state["streams"], self._sock, now)
            relay.operations.take(state["operations"], self._sock)
            if relay.fleet is not None and state["fleet"] is not None:
                relay.fleet.take(state["fleet"], now)
            relay.drops.update(state["drops"])
            relay.go_on_from(state["kernel_drops"])
        except _UNUSABLE as error:
            raise StateUnusable(f"{type(error).__name__}: {error}") from error

    def _open(self, relayed: Iterable[Any]) -> None:
        for ip, port, number in relayed:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM, 0, self._descriptors[number])
            sock.setblocking(False)
            self._relay.edge.pool.adopt((ip, port), sock)

    def _sock(self, number: int) -> socket.socket:
        sock = socket.socket(fileno=self._descriptors[number])
        sock.setblocking(False)
        return sock
