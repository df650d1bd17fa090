"""CPU of a transit relay for each packet it forwards, beside coturn's relaying the same packets.

Batched: 50 flows of video, each frame ten packets of 1000 B. They come to our relay as an ingress relay sends them
(the turns of its loop a millisecond apart, trains by UDP_SEGMENT) and to coturn as ChannelData of 50 allocations; at
two rates that both can carry, and as fast as the relay takes them with a thousand on the way. By plain sends: the
same datagrams without offload, so that none arrive together but by chance.
Audio: one flow of 160 B packets, 50 and 500 a second; what the relay costs while nothing flows (hellos, probes) is in
the figure, and shown.
Everything is authenticated, and what arrives is counted at the egress neighbour. The relays take turns.
To be read: the ratio. `python -m tests.bench.transit_cpu [PAIRS]`
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench import figures, rivals, transit
from tests.bench.rivals import Rival
from tests.bench.transit import Load, Rig
from tests.bench.turn_client import channel_data, connect, udp

PAIRS = 5
FLOWS, SIZE, FRAME, EVERY_S = 50, 1000, 10, 0.001
RATES, LASTS_S = (20_000, 40_000), 1.0
FLAT_OUT = Load(FLOWS, SIZE, 100, FRAME)  # what a millisecond brings then
MOST_PACKETS, CHUNK = 60_000, 10_000  # of one go as fast as possible, sealed so many at a time
ON_THE_WAY = 1000
AUDIO_BYTES, AUDIO = 160, {50: 6.0, 500: 3.0}  # packets a second: for how many seconds
LINGER_S, STUCK_S = 0.2, 0.05
BATCHED_TARGET, AUDIO_TARGET = 0.2, 1.0


@dataclass(frozen=True)
class Run:
    """One load on one relay."""

    cpu_s: float
    took_s: float
    sent: int
    received: int

    @property
    def us_a_packet(self) -> float:
        """CPU of the relay."""
        return 1e6 * self.cpu_s / max(self.received, 1)


@dataclass(frozen=True)
class Way:
    """How packets get to a relay and from it."""

    relay: Rival
    prepare: Callable[
        [Load, int, int], list[Callable[[], None]]
    ]  # so many from this on: sends of a moment each
    take: Callable[[], int]  # packets that have come
    turn: Callable[[], int]  # the same, and what else the neighbours have to do
    sockets: list[socket.socket]  # where it comes


# --- the ways -----------------------------------------------------------------------------------------------


def _ours(rig: Rig, *, plain: bool = False) -> Way:
    def prepare(load: Load, first: int, count: int) -> list[Callable[[], None]]:
        rig.ingress.turn()  # what it says is sealed before these, so it has to leave before them
        moments = rig.ingress.moments(load, first, count)
        return [lambda moment=moment: moment.send(rig.ingress, plain=plain) for moment in moments]  # type: ignore[misc]

    sockets = [edge.batches.sock for edge in (rig.ingress, rig.egress)]
    return Way(rig.relay, prepare, rig.egress.turn, rig.turn, sockets)


@dataclass(frozen=True)
class Clients:
    """Of coturn: one a flow, each with a channel to the sink."""

    rival: Rival
    sockets: list[socket.socket]
    sink: socket.socket

    def take(self) -> int:
        """Packets that wait at the sink."""
        count, receive = 0, self.sink.recv
        with contextlib.suppress(BlockingIOError):
            while True:
                receive(2048)
                count += 1
        return count

    def way(self) -> Way:
        """The same loads by coturn."""

        def prepare(load: Load, first: int, count: int) -> list[Callable[[], None]]:
            frame, made = channel_data(bytes(load.size)), []
            for start in range(first, first + count, load.a_moment):
                sends = [self.sockets[load.flow(index)].send for index in range(start, start + load.a_moment)]
                made.append(lambda sends=sends: [send(frame) for send in sends])
            return made  # type: ignore[return-value]

        return Way(self.rival, prepare, self.take, self.take, [self.sink])


@contextmanager
def _coturns_clients() -> Iterator[Clients | None]:
    with ExitStack() as stack:
        if rivals.coturn not in rivals.starts("transit_cpu"):
            yield None
            return
        rival = stack.enter_context(rivals.coturn())
        sink = stack.enter_context(udp())
        clients = [stack.enter_context(udp()) for _ in range(FLOWS)]
        for client in clients:
            connect(client, rival.server, sink.getsockname())
        sink.setblocking(False)
        yield Clients(rival, clients, sink)


# --- the loads ----------------------------------------------------------------------------------------------


class _Count:
    """What was sent and has come in one run."""

    def __init__(self, way: Way) -> None:
        self.way = way
        while way.turn():
            pass
        self.sent = self.received = 0
        self._cpu_s = self._took_s = 0.0
        self.go_on()

    def go_on(self) -> None:
        """What the relay does from now on is measured."""
        self._cpu_before_s, self._began = self.way.relay.cpu_s(), time.perf_counter()

    def pause(self) -> None:
        """Wait for the last packets; what the relay does from then on is not measured."""
        sent_s = time.perf_counter()
        end = sent_s + LINGER_S
        while self.received < self.sent and time.perf_counter() < end:
            self.turn()
        self._cpu_s += self.way.relay.cpu_s() - self._cpu_before_s
        self._took_s += min(time.perf_counter(), sent_s + STUCK_S) - self._began

    def take(self) -> None:
        """See what has come."""
        self.received += self.way.take()

    def turn(self) -> None:
        """The same, and let the neighbours do what they have to."""
        self.received += self.way.turn()

    def run(self) -> Run:
        """All of it."""
        return Run(self._cpu_s, self._took_s, self.sent, self.received)


def _paced(way: Way, load: Load, every_s: float, seconds: float) -> Run:
    """A moment in each `every_s`."""
    count, began = _Count(way), time.perf_counter()
    due = began
    while due < began + seconds:
        (send,) = way.prepare(load, count.sent, load.a_moment)
        while (wait_s := due - time.perf_counter()) > 0:
            select.select(way.sockets, [], [], wait_s)
            count.take()
        send()
        count.sent += load.a_moment
        due += every_s
    count.pause()
    return count.run()


def _flat_out(way: Way, load: Load) -> Run:
    """A moment as soon as there are fewer than ON_THE_WAY, or those are taken for lost. Sealing is not measured."""
    count, lost = _Count(way), 0
    count.pause()
    while count.sent < MOST_PACKETS:
        sends = way.prepare(load, count.sent, CHUNK)
        count.go_on()
        for send in sends:
            end = time.perf_counter() + STUCK_S
            while count.sent - count.received - lost >= ON_THE_WAY:
                count.take()
                if time.perf_counter() > end:
                    lost = count.sent - count.received
            send()
            count.sent += load.a_moment
        count.pause()
    return count.run()


def _audio(way: Way, rate: int, seconds: float) -> Run:
    """One flow of small packets; rate 0: nothing flows."""
    load, count = Load(1, AUDIO_BYTES, 1), _Count(way)
    began = time.perf_counter()
    end, due = began + seconds, began if rate else float("inf")
    while (now := time.perf_counter()) < end:
        if now >= due:
            way.prepare(load, count.sent, 1)[0]()
            count.sent += 1
            due += 1 / rate
        wait_s = min(due - time.perf_counter(), transit.TICK_S)
        select.select(way.sockets, [], [], max(0.0, wait_s))
        count.turn()
    count.pause()
    return count.run()


# --- the figures --------------------------------------------------------------------------------------------


def _pairs(what: str, ways: list[Way], go: Callable[[Way], Run], pairs: int, target: float | None) -> None:
    runs: dict[str, list[Run]] = {way.relay.name: [] for way in ways}
    for number in range(pairs):
        for way in ways if number % 2 == 0 else ways[::-1]:
            runs[way.relay.name].append(go(way))
    for name, of_one in runs.items():
        cost = figures.spread([run.us_a_packet for run in of_one])
        rate = figures.spread([run.received / run.took_s / 1000 for run in of_one], ".3g")
        lost = " ".join(str(run.sent - run.received) for run in of_one)
        print(f"    {name:8} {cost} us a packet at {rate} k/s; lost of {of_one[0].sent}: {lost}", flush=True)
    ours, *theirs = ([run.us_a_packet for run in of_one] for of_one in runs.values())
    for their in theirs:
        figures.ratio_line(what, figures.ratios(ours, their), target)


def _batched(coturn: Clients | None, pairs: int) -> None:
    with transit.rig() as rig:
        rig.warm(FLAT_OUT, EVERY_S)
        theirs = [] if coturn is None else [coturn.way()]
        name = f"CPU a packet, {FLOWS} flows, "
        for rate in RATES:
            load = Load(FLOWS, SIZE, int(rate * EVERY_S), FRAME)
            _pairs(
                f"{name}{rate // 1000} k/s",
                [_ours(rig), *theirs],
                lambda way, load=load: _paced(way, load, EVERY_S, LASTS_S),  # type: ignore[misc]
                pairs,
                BATCHED_TARGET,
            )
        _pairs(
            name + "flat out",
            [_ours(rig), *theirs],
            lambda way: _flat_out(way, FLAT_OUT),
            pairs,
            BATCHED_TARGET,
        )
        _pairs(
            f"{name}{RATES[0] // 1000} k/s, plain sends",
            [_ours(rig, plain=True), *theirs],
            lambda way: _paced(way, Load(FLOWS, SIZE, int(RATES[0] * EVERY_S), FRAME), EVERY_S, LASTS_S),
            pairs,
            None,
        )
        _say_drops(rig)


def _one_flow(coturn: Clients | None, pairs: int, rate: int) -> None:
    with transit.rig() as rig:
        way = _ours(rig)
        _audio(way, rate, AUDIO[rate])
        idle = [_audio(way, 0, AUDIO[rate]) for _ in range(2)]
        share = figures.spread([100 * run.cpu_s / run.took_s for run in idle])
        print(f"    commcli  {share} % of a CPU while nothing flows", flush=True)
        ways = [way] if coturn is None else [way, coturn.way()]
        _pairs(
            f"CPU a packet, audio of one flow, {rate}/s",
            ways,
            lambda way: _audio(way, rate, AUDIO[rate]),
            pairs,
            AUDIO_TARGET,
        )
        _say_drops(rig)


def _say_drops(rig: Rig) -> None:
    drops = rig.drops()
    if drops:
        print(f"    the relay's drops: {drops}", flush=True)


def main() -> None:
    """Print both relays' CPU a packet and the ratio, for each load."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(f"transit_cpu: {FLOWS} flows of {SIZE} B, then one of {AUDIO_BYTES} B, {pairs} pairs", flush=True)
    with _coturns_clients() as coturn:
        _batched(coturn, pairs)
        for rate in AUDIO:
            _one_flow(coturn, pairs, rate)


if __name__ == "__main__":
    main()
