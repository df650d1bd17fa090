"""Which keys of the overlay relays hold, and the next step towards those that the inventory names. Pure.

A key is changed in three steps, each for every node before the next begins: all *accept* the new key, all *send*
with it, all *retire* the old one. So no relay ever gets a packet under a key that it does not hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

from commcli.errors import BadInput, Refused
from commcli.fleet.model import Fleet
from commcli.fleet.secrets import Secret
from commcli.relay.mesh.neighbours import key_id
from commcli.remote import relayfiles

Word = Literal["accept", "send", "retire"]


@dataclass(frozen=True, slots=True)
class Key:
    """A master secret of the overlay, by the name under which the inventory has it."""

    name: str
    master: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one relay holds, by names of keys; None stands for keys that the inventory does not name.

    `sends`: those that it sends with, one unless pairs differ; `accepts`: those that it accepts from every other node;
    `orders`: the keys of a pair as the relay has them, each that occurs.
    """

    sends: frozenset[str | None]
    accepts: frozenset[str]
    orders: frozenset[tuple[str | None, ...]]


class Step(NamedTuple):
    """What comes next: the names of the keys that each of some nodes is to hold, the first of them sends."""

    word: Word
    orders: Mapping[str, tuple[str, ...]]


class Keyring:
    """The keys of a fleet. `goal` is what every relay shall hold in the end; the first of it sends."""

    def __init__(self, fleet: Fleet, secrets: Mapping[str, Secret]) -> None:
        """`secrets` has "overlay" and, while a key is being changed, "overlay_next". Raises BadInput."""
        self.fleet = fleet
        now = _keys(fleet, secrets, relayfiles.OVERLAY)
        coming = _keys(fleet, secrets, relayfiles.OVERLAY_NEXT) if relayfiles.OVERLAY_NEXT in secrets else ()
        self.changes = bool(coming)
        self._keys = {key.name: key for key in (*coming, *now)}
        if len({key.master for key in self._keys.values()}) != len(self._keys):
            raise BadInput(f"fleet {fleet.name}: one overlay secret stands there twice")
        if len(self._keys) > relayfiles.MOST_KEYS:
            raise BadInput(f"fleet {fleet.name}: more than {relayfiles.MOST_KEYS} overlay secrets")
        self.goal = tuple(self._keys)
        self._names = cache(self._names_of)

    def masters(self, order: Sequence[str]) -> list[str]:
        """The secrets of these keys."""
        return [self._keys[name].master for name in order]

    def holding(self, node: str, told: Mapping[str, Sequence[str]]) -> Holding:
        """What `node` holds by its own word: the ids of its keys by other node, in their order."""
        orders = []
        for other in self.fleet.nodes:
            if other != node:
                names = self._names(*sorted((node, other)))
                orders.append(tuple(names.get(key) for key in told.get(other, ())))
        accepts = frozenset(name for name in self.goal if all(name in order for order in orders))
        return Holding(frozenset(order[0] for order in orders if order), accepts, frozenset(orders))

    def _names_of(self, low: str, high: str) -> dict[str, str]:
        """The names of a pair's keys by their ids."""
        return {key_id(relayfiles.pair_key(key.master, low, high)): name for name, key in self._keys.items()}

    def next_step(self, holdings: Mapping[str, Holding]) -> Step | None:
        """What to do now, None when every node holds what it should.

        Raises Refused where a relay sends with a key that the inventory does not name: those that are told
        other keys would not understand it any more.
        """
        strangers = sorted(node for node, held in holdings.items() if None in held.sends)
        if strangers:
            raise Refused(
                f"{', '.join(strangers)}: sends with a key that the inventory does not name",
                hint="name the old secret as overlay and the new one as overlay_next",
            )
        first = self.goal[0]
        behind = [node for node, held in holdings.items() if first not in held.accepts]
        if behind:
            return Step("accept", {node: self._still(holdings[node].sends) for node in behind})
        behind = [node for node, held in holdings.items() if held.sends - {first}]
        if behind:
            return Step("send", dict.fromkeys(behind, self.goal))
        behind = [node for node, held in holdings.items() if held.orders - {self.goal}]
        return Step("retire", dict.fromkeys(behind, self.goal)) if behind else None

    def _still(self, sends: Collection[str | None]) -> tuple[str, ...]:
        """All keys, with one in front with which the node sends already: the oldest of them, which everybody has."""
        used = [name for name in self.goal if name in sends] or [self.goal[-1]]
        return (used[-1], *(name for name in self.goal if name != used[-1]))


def _keys(fleet: Fleet, secrets: Mapping[str, Secret], name: str) -> tuple[Key, ...]:
    lines = relayfiles.secret_lines(fleet, secrets, name)
    return tuple(
        Key(name if number == 1 else f"{name} (line {number})", line) for number, line in enumerate(lines, 1)
    )
