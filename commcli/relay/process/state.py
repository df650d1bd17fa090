"""All that one process of a relay knows and the next one needs: as JSON, and sockets by number.

What the configuration and the table say is not in it; the next process reads them itself.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Sequence

if TYPE_CHECKING:
    from commcli.relay.process.daemon import Relay

# Transports of clients whose sessions are in a process's own memory: the standard library can not move them.
UNMOVABLE = ("tls",)


def unmovable(relay: Relay) -> int:
    """The allocations that an upgrade would end."""
    return sum(a.transport in UNMOVABLE for a in relay.turn.allocations.values())


class Parcel:
    """Sockets on their way to another process."""

    def __init__(self) -> None:
        self.descriptors: List[int] = []

    def put(self, sock: socket.socket) -> int:
        """Its number there."""
        self.descriptors.append(sock.fileno())
        return len(self.descriptors) - 1


def kept(relay: Relay, parcel: Parcel, now: float) -> Dict[str, Any]:
    """The state of a relay between two turns of its loop, its clients' sockets in `parcel`. It may go on after this."""
    relay.edge.whole()
    left = [a for a in relay.turn.allocations.values() if a.transport in UNMOVABLE]
    ending = {relayed for allocation in left for relayed in allocation.relays}
    sockets = [(relayed, sock) for relayed, sock in relay.edge.pool.sockets.items() if relayed not in ending]
    return {
        "relayed": [(*relayed, parcel.put(sock)) for relayed, sock in sockets],
        "turn": relay.turn.kept(now, UNMOVABLE),
        "streams": relay.streams.kept(now, parcel.put),
        "operations": relay.operations.kept(parcel.put),
        "fleet": None if relay.fleet is None else relay.fleet.kept(now),
        "drops": relay.drops,
        "kernel_drops": relay.kernel_drops(),
        "cut": len(left),
    }


def take(relay: Relay, state: Mapping[str, Any], descriptors: Sequence[int], now: float) -> None:
    """Go on with what another process `kept`. Raises ValueError, KeyError, TypeError, IndexError or OSError."""
    sock: Callable[[int], socket.socket] = _Opened(descriptors)
    for ip, port, number in state["relayed"]:
        relay.edge.pool.adopt((ip, port), sock(number))
    relay.turn.take(state["turn"], now)
    relay.streams.take(state["streams"], sock, now)
    relay.operations.take(state["operations"], sock)
    if relay.fleet is not None and state["fleet"] is not None:
        relay.fleet.take(state["fleet"], now)
    relay.drops.update(state["drops"])
    relay.go_on_from(state["kernel_drops"])


class _Opened:
    """Sockets by their number in a parcel."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors

    def __call__(self, number: int) -> socket.socket:
        sock = socket.socket(fileno=self._descriptors[number])
        sock.setblocking(False)
        return sock
