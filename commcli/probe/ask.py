"""What a probe call is asked to be, and whether it may be: checked before anything starts. Pure.

A market stands for its first edge that is active; a node for itself, also while it drains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput, Refused, Usage
from commcli.fleet.model import Fleet, Node
from commcli.fleet.zones import forbidding
from commcli.probe.profiles import PROFILES

TRANSPORTS = ("udp", "tcp", "tls")
MOST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What to call: markets or node ids. `transport`: from each end to its edge.

    `direct` has the relays bypass the overlay, `via` has it pass this one relay between the edges, `plain` has it
    repair nothing.
    """

    a: str
    b: str
    direct: bool = False
    seconds: float = 8.0
    profile: str = "sd"
    transport: str = "udp"
    via: str | None = None
    plain: bool = False

    def row(self) -> dict[str, Any]:
        """How it was asked, for the document."""
        return {
            "direct": self.direct,
            "via": self.via,
            "plain": self.plain,
            "transport": self.transport,
            "profile": self.profile,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class End:
    """One end as it was asked for, and the edge that it means."""

    asked: str
    market: str | None
    node: Node

    def row(self) -> dict[str, Any]:
        return {"asked": self.asked, "market": self.market, "node": self.node.id}


def resolve(fleet: Fleet, word: str) -> End:
    """A node by its id, or a market's first edge that is active. Raises Usage or BadInput with one line."""
    if word in fleet.nodes:
        return End(word, None, fleet.nodes[word])
    market = fleet.markets.get(word)
    if market is None:
        raise Usage(f"no market and no node is called {word!r}")
    for edge in market.edges:
        if fleet.nodes[edge].state == "active":
            return End(word, market.id, fleet.nodes[edge])
    raise BadInput(f"market {word}: none of its edges ({', '.join(market.edges) or 'it has none'}) is active")


def check(fleet: Fleet, ask: Ask) -> tuple[End, End]:
    """Both ends, if such a call can be made. Raises Usage, BadInput, or Refused where a zone forbids its path."""
    if ask.profile not in PROFILES:
        raise Usage(f"no profile is called {ask.profile!r} (known: {', '.join(PROFILES)})")
    if ask.transport not in TRANSPORTS:
        raise Usage(f"no transport is called {ask.transport!r} (known: {', '.join(TRANSPORTS)})")
    if not 0 < ask.seconds <= MOST_SECONDS:
        raise Usage(f"a call lasts up to {MOST_SECONDS:g} s, not {ask.seconds:g}")
    ends = resolve(fleet, ask.a), resolve(fleet, ask.b)
    _check_nodes(ends, ask)
    _check_path(fleet, ends, ask)
    return ends


def _check_nodes(ends: tuple[End, End], ask: Ask) -> None:
    nodes = sorted({end.node.id: end.node for end in ends}.items())
    if missing := [name for name, node in nodes if not node.probe_python]:
        raise BadInput(
            [f"node {name}: no probe_python in the inventory" for name in missing],
            hint="A probe call needs a python on the node that has aiortc.",
        )
    if ask.transport == "tls" and (closed := [name for name, node in nodes if node.ports.tls is None]):
        raise BadInput([f"node {name}: no tls port in the inventory" for name in closed])


def _check_path(fleet: Fleet, ends: tuple[End, End], ask: Ask) -> None:
    """What the relays would drop is refused here, with the zone's name."""
    edges = [end.node.id for end in ends]
    if ask.via is not None:
        if ask.direct:
            raise Usage("--direct and --via exclude each other: one passes no relay between the edges")
        if ask.via not in fleet.nodes:
            raise Usage(f"no node is called {ask.via!r}")
        if ask.via in edges:
            raise Usage(f"{ask.via} is an edge of this call: it can not be the relay between them")
        state = fleet.nodes[ask.via].state
        if state != "active":
            raise Refused(f"node {ask.via} is {state}: it relays for no others")
        edges.insert(1, ask.via)
    elif not ask.direct:
        return
    for path in (edges, edges[::-1]):
        zone = forbidding(fleet, path)
        if zone is not None:
            reason = f": {zone.reason}" if zone.reason else ""
            raise Refused(f"zone {zone.id} forbids {' → '.join(path)}{reason}")
