"""Which call shows that the nodes of a wave still carry calls. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from commcli.errors import CommcliError, Refused
from commcli.fleet.model import Fleet, Node
from commcli.probe.ask import Ask, check

SECONDS = 4.0


def ask_for(fleet: Fleet, wave: Sequence[Node], *, seconds: float = SECONDS) -> Ask:
    """A call between two markets with a node of the wave as an edge, or else, if none is one, as the relay between.

    The other end is outside of the wave where that can be, so that what was not changed is at one end. Raises Refused
    where no such call can be made.
    """
    for a, b, via in _candidates(fleet, wave):
        ask = Ask(a.id, b.id, seconds=seconds, via=via, profile="audio")
        try:
            check(fleet, ask)
        except CommcliError:
            continue
        return ask
    names = ", ".join(node.id for node in wave)
    raise Refused(
        f"--gate call: no probe call can be made at or through {names}",
        hint="It takes two edges of different markets with a probe_python. --gate status asks the relays only.",
    )


def _candidates(fleet: Fleet, wave: Sequence[Node]) -> Iterator[tuple[Node, Node, str | None]]:
    inside = {node.id for node in wave}
    edges = [node for node in fleet.edge_nodes() if node.state == "active"]
    edges.sort(key=lambda node: node.id in inside)
    for one in edges[::-1]:
        if one.id in inside:
            yield from ((one, other, None) for other in edges if _are_apart(fleet, one, other))
    for node in wave:
        outside = [edge for edge in edges if edge.id != node.id]
        for at, one in enumerate(outside):
            yield from ((one, other, node.id) for other in outside[at + 1 :] if _are_apart(fleet, one, other))


def _are_apart(fleet: Fleet, one: Node, other: Node) -> bool:
    return one.id != other.id and fleet.markets_of(one.id) != fleet.markets_of(other.id)
