"""Calls between TURN clients of a WAN: sends each call's schedule in both directions and tallies what comes."""

from __future__ import annotations

import heapq
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.wan import media
from tests.wan.media import AUDIO, VIDEO, Tally
from tests.wan.relays import Relays
from tests.wan.turn_client import TurnClient

DRAIN_S = 1.0


@dataclass(slots=True)
class End:
    """One end of a call. heard: what the other end sends, by class; numbers: of its own next packets."""

    client: TurnClient
    heard: dict[int, Tally] = field(default_factory=lambda: {AUDIO: Tally(), VIDEO: Tally()})
    numbers: dict[int, int] = field(default_factory=lambda: {AUDIO: 0, VIDEO: 0})
    strangers: int = 0


@dataclass(slots=True)
class Call:
    """Two TURN clients that talk to each other."""

    ends: tuple[End, End]

    def tallies(self, class_: int) -> list[Tally]:
        """Both directions of a class."""
        return [end.heard[class_] for end in self.ends]

    def reset(self) -> None:
        """Count anew, and only what is sent from now on."""
        for end, other in (self.ends, self.ends[::-1]):
            end.heard = {class_: Tally(first=number) for class_, number in other.numbers.items()}

    def close(self) -> None:
        for end in self.ends:
            end.client.close()


def connect(relays: Relays, a: tuple[str, str], b: tuple[str, str]) -> Call:
    """A call between clients, each given as (place, node of its relay)."""
    one, other = relays.client(*a), relays.client(*b)
    one.bind(other.relayed)
    other.bind(one.relayed)
    return Call((End(one), End(other)))


def run(calls: Sequence[Call], seconds: float, *, seed: int = 1) -> None:
    """Let the calls send for `seconds`, and listen a little longer."""
    directions = [
        (number, end, other)
        for number, call in enumerate(calls)
        for end, other in (call.ends, call.ends[::-1])
    ]
    sends = [_sends(order, number, seconds, seed) for order, (number, _, _) in enumerate(directions)]
    listeners = {end.client.sock: end for _, end, _ in directions}
    began = time.monotonic()
    for at, order, class_, size in heapq.merge(*sends):
        _listen(listeners, began + at)
        number, end, other = directions[order]
        tally = other.heard[class_]
        tally.sent += 1
        tally.sent_bytes += size
        end.client.send(media.packet(class_, number, end.numbers[class_], size, time.time()))
        end.numbers[class_] += 1
    _listen(listeners, time.monotonic() + DRAIN_S)


def _sends(order: int, call: int, seconds: float, seed: int) -> Iterator[tuple[float, int, int, int]]:
    """One direction's (seconds, its order, class, bytes), shifted: not all directions send at one instant."""
    shift_s = media.AUDIO_S * (0.618 * order % 1)
    for at, class_, size in media.schedule(seconds, seed + call):
        yield at + shift_s, order, class_, size


def _listen(listeners: Mapping[socket.socket, End], until: float) -> None:
    """Tally what comes until that time (monotonic s), and what is there already."""
    while True:
        wait_s = until - time.monotonic()
        if wait_s <= 0:
            return
        for sock in select.select(list(listeners), (), (), wait_s)[0]:
            _hear(listeners[sock])


def _hear(end: End) -> None:
    for payload, unix in end.client.receive():
        try:
            end.heard[media.class_of(payload)].came(payload, unix)
        except ValueError:
            end.strangers += 1
