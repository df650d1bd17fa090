"""CPU of a transit relay for each packet it forwards, beside coturn's relaying the same packets.

Batched: 50 flows of 1000 B packets, which arrive at our relay as an ingress relay sends them (the turns of its loop
a millisecond apart, trains by UDP_SEGMENT) and at coturn as ChannelData of 50 allocations; at a rate that both can
carry, and as fast as the relay takes them with a few hundred on the way. Without offload: the same datagrams by
plain sends, so that none arrive together but by chance.
Audio: one flow of 160 B packets, 50 and 500 a second, between live neighbours that say hello, probe and report; what
the relay costs while nothing flows is in the figure, and shown.
Everything is authenticated, and what arrives is counted at the egress neighbour. The relays take turns.
To be read: the ratio. `python -m tests.bench.transit_cpu [PAIRS]`
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from commcli.relay.clients.udp import train_size
from tests.bench import figures, rivals, transit
from tests.bench.rivals import Rival
from tests.bench.transit import TICK_S, Moment, Rig
from tests.bench.turn_client import channel_data, connect, udp

PAIRS = 5
FLOWS, SIZE, EVERY_S = 50, 1000, 0.001
RATE, LASTS_S = 20_000, 1.5
MOST_PACKETS = 60_000  # of one go as fast as possible
ON_THE_WAY = 20  # moments, each of one packet a flow
AUDIO_BYTES, AUDIO = 160, {50: 6.0, 500: 3.0}  # packets a second: for how many seconds
LINGER_S, STUCK_S = 0.2, 0.05
BATCHED_TARGET, AUDIO_TARGET = 0.2, 1.0

Send = Callable[[Moment], None]
Take = Callable[[], int]  # packets that wait at the sink


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


# --- as it comes from an ingress, pre-sealed ---------------------------------------------------------------


def _paced(moments: Sequence[Moment], send: Send, take: Take) -> int:
    """Send each in time; packets that came."""
    began, came = time.perf_counter(), 0
    for moment in moments:
        while (wait_s := began + moment.at_s - time.perf_counter()) > 0:
            came += take()
            time.sleep(min(wait_s, EVERY_S / 4))
        send(moment)
    return came


def _flat_out(moments: Sequence[Moment], send: Send, take: Take) -> int:
    """Send each when an earlier one has come, or is taken for lost; packets that came."""
    came = sent = 0
    for moment in moments:
        end = time.perf_counter() + STUCK_S
        while sent - came >= ON_THE_WAY * FLOWS and time.perf_counter() < end:
            came += take()
        if sent - came >= ON_THE_WAY * FLOWS:
            came = sent  # lost: `_run` counts again
        send(moment)
        sent += moment.packets
    return came


def _run(relay: Rival, moments: Sequence[Moment], send: Send, take: Take, play: Callable[..., int]) -> Run:
    received = 0

    def counted() -> int:
        nonlocal received
        some = take()
        received += some
        return some

    counted()
    received = 0
    sent = sum(moment.packets for moment in moments)
    before, began = relay.cpu_s(), time.perf_counter()
    play(moments, send, counted)
    end = time.perf_counter() + LINGER_S
    took_s = time.perf_counter() - began
    while received < sent and time.perf_counter() < end:
        counted()
    return Run(relay.cpu_s() - before, took_s, sent, received)


def _ours(rig: Rig, moments: Sequence[Moment], play: Callable[..., int], plain: bool) -> Run:
    rig.egress.turn += 2

    def take() -> int:
        came = rig.egress.batches.read(rig.egress.turn)
        return sum(transit.count(data, train_size(of) if of else 0) for data, of, _, _ in came)

    def send(moment: Moment) -> None:
        moment.send(rig.ingress, plain=plain)

    while take():
        pass
    return _run(rig.relay, moments, send, take, play)


@dataclass(frozen=True)
class Clients:
    """Of coturn: one a flow, each with a channel to the sink."""

    rival: Rival
    sockets: list[socket.socket]
    sink: socket.socket


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


def _waiting(sink: socket.socket) -> int:
    count, receive = 0, sink.recv
    with contextlib.suppress(BlockingIOError):
        while True:
            receive(2048)
            count += 1
    return count


def _theirs(coturn: Clients, moments: Sequence[Moment], play: Callable[..., int]) -> Run:
    frame, at = channel_data(bytes(SIZE)), 0

    def send(moment: Moment) -> None:
        nonlocal at
        for _ in range(moment.packets):
            coturn.sockets[at].send(frame)
            at = (at + 1) % FLOWS

    return _run(coturn.rival, moments, send, lambda: _waiting(coturn.sink), play)


def _batched(rig: Rig, coturn: Clients | None, pairs: int, name: str) -> None:
    """One load of 50 flows; `name` says which."""
    flat_out, plain = "flat out" in name, "plain" in name
    a_moment = FLOWS if flat_out else int(RATE * EVERY_S)
    packets = MOST_PACKETS if flat_out else int(RATE * LASTS_S)
    play = _flat_out if flat_out else _paced
    runs: dict[str, list[Run]] = {}

    def ours() -> None:
        moments = rig.ingress.record(FLOWS, SIZE, a_moment, EVERY_S, packets)
        runs.setdefault("commcli", []).append(_ours(rig, moments, play, plain))

    def theirs() -> None:
        if coturn is not None:
            moments = [Moment(number * EVERY_S, [], [], a_moment) for number in range(packets // a_moment)]
            runs.setdefault("coturn", []).append(_theirs(coturn, moments, play))

    for number in range(pairs):
        for go in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            go()
    _show(name, runs, BATCHED_TARGET if not plain else None)


def _show(name: str, runs: dict[str, list[Run]], target: float | None) -> None:
    for rival, of_one in runs.items():
        cost = figures.spread([run.us_a_packet for run in of_one])
        rate = figures.spread([run.received / run.took_s / 1000 for run in of_one], ".0f")
        lost = " ".join(str(run.sent - run.received) for run in of_one)
        print(
            f"    {rival:8} {cost} us a packet at {rate} k packets/s; lost of {of_one[0].sent}: {lost}",
            flush=True,
        )
    if len(runs) > 1:
        ours, theirs = ([run.us_a_packet for run in runs[rival]] for rival in ("commcli", "coturn"))
        figures.ratio_line(name, figures.ratios(ours, theirs), target)


# --- one call's audio, live ------------------------------------------------------------------------------------


def _live(rig: Rig, rate: int, seconds: float) -> Run:
    """A flow between live neighbours; rate 0: nothing flows."""
    edges = (rig.ingress, rig.egress)
    began = time.monotonic()
    end, tick_at, due = began + seconds, began, began if rate else float("inf")
    sent = received = 0
    payload, before = bytes(AUDIO_BYTES), rig.relay.cpu_s()
    while (now := time.monotonic()) < end + LINGER_S:
        unix = time.time()
        if now >= tick_at:
            tick_at = now + TICK_S
            for edge in edges:
                edge.overlay.tick(now, unix)
        if now >= due and now < end:
            due += 1 / rate
            sent += 1
            rig.ingress.say([payload], 0, now, unix)
        for edge in edges:
            received += edge.hear(now, unix)
            edge.moment(0.0, 0, now, unix).send(edge)
        wait_s = min(tick_at, due if due < end else tick_at) - time.monotonic()
        select.select([edge.batches.sock for edge in edges], [], [], max(0.0, wait_s))
    return Run(rig.relay.cpu_s() - before, seconds, sent, received)


def _coturns_audio(coturn: Clients, rate: int, seconds: float) -> Run:
    frame, client, sink = channel_data(bytes(AUDIO_BYTES)), coturn.sockets[0], coturn.sink
    began = due = time.monotonic()
    sent = received = 0
    before = coturn.rival.cpu_s()
    while (now := time.monotonic()) < began + seconds + LINGER_S:
        if now >= due and now < began + seconds:
            due += 1 / rate
            sent += 1
            client.send(frame)
        wait_s = (due if due < began + seconds else began + seconds + LINGER_S) - time.monotonic()
        if select.select([sink], [], [], max(0.0, wait_s))[0]:
            received += _waiting(sink)
    return Run(coturn.rival.cpu_s() - before, seconds, sent, received)


def _audio(rig: Rig, coturn: Clients | None, pairs: int, rate: int) -> None:
    seconds = AUDIO[rate]
    runs: dict[str, list[Run]] = {}
    idle = []
    for number in range(pairs):
        idle.append(_live(rig, 0, seconds / 2))
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            if turn == 0:
                runs.setdefault("commcli", []).append(_live(rig, rate, seconds))
            elif coturn is not None:
                runs.setdefault("coturn", []).append(_coturns_audio(coturn, rate, seconds))
    share = figures.spread([100 * run.cpu_s / (run.took_s + LINGER_S) for run in idle])
    print(f"    commcli  {share} % of a CPU while nothing flows", flush=True)
    _show(f"CPU a packet, audio of one flow, {rate}/s", runs, AUDIO_TARGET)


def main() -> None:
    """Print both relays' CPU a packet and the ratio, for each load."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(f"transit_cpu: {FLOWS} flows of {SIZE} B, then one of {AUDIO_BYTES} B, {pairs} pairs", flush=True)
    with _coturns_clients() as coturn:
        with transit.rig() as rig:
            for name in (f"{RATE // 1000} k packets/s", "flat out", "plain sends"):
                _batched(rig, coturn, pairs, f"CPU a packet, {FLOWS} flows, {name}")
            _say_drops(rig)
        for rate in AUDIO:
            with transit.rig() as rig:
                _live(rig, rate, 1.0)
                _audio(rig, coturn, pairs, rate)
                _say_drops(rig)


def _say_drops(rig: Rig) -> None:
    drops = rig.drops()
    if drops:
        print(f"    the relay's drops: {drops}", flush=True)


if __name__ == "__main__":
    main()
