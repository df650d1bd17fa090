"""What a transit relay adds to a packet's way, p50 and p99, at a thousand, 20 000 and 100 000 packets a second.

The neighbours are one thread with one clock that sends and looks for packets without ever sleeping: 50 flows of 1000 B
in turns of a millisecond, sealed before they are sent. Right after, the same bytes go straight to a socket of the
egress: what is beyond that is the relay's. What the relay's own neighbours add, an ingress that seals and an
egress that opens, is not in here. To be read: medians of the rounds. `python -m tests.bench.transit_latency [ROUNDS]`
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from commcli.relay.clients.udp import BatchSocket, train_size
from tests.bench import figures, transit
from tests.bench.transit import Load, Moment, Rig
from tests.bench.turn_client import udp

ROUNDS = 5
RATES = (1_000, 20_000, 100_000)
FLOWS, SIZE, FRAME, EVERY_S = 50, 1000, 10, 0.001
MOMENTS, PARTS = 40, 15  # sealed at a time, and how often in a round
LINGER_NS = 20_000_000

Arrived = tuple[
    bytes, int, float, float
]  # a datagram or train, the length of its datagrams, monotonic and Unix time
Read = Callable[[], Sequence[tuple[bytes, int]]]


@dataclass
class Delays:
    """p50 and p99 of each round in microseconds, and how many packets never came."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    lost: int = 0

    def round(self, seen_ns: Sequence[int], sent: int) -> None:
        """Add one round's."""
        self.p50.append(figures.percentile(seen_ns, 0.5) / 1000)
        self.p99.append(figures.percentile(seen_ns, 0.99) / 1000)
        self.lost += sent - len(seen_ns)


def _play(
    moments: Sequence[Moment], first: int, send: Callable[[Moment], None], read: Read, seen_ns: list[int]
) -> list[Arrived]:
    """Send each in time and note the delay of what comes of these (their packets count from `first` on); all of what
    comes is given back.
    """
    came: list[Arrived] = []
    sent_ns: list[int] = []
    a_moment = moments[0].packets
    expected, before = a_moment * len(moments), len(seen_ns)

    def look() -> None:
        for data, size in read():
            now_ns = time.perf_counter_ns()
            came.append((data, size, time.monotonic(), time.time()))
            numbers = [(index - first) // a_moment for index in transit.indices(data, size)]
            seen_ns.extend(now_ns - sent_ns[number] for number in numbers if 0 <= number < len(sent_ns))

    due = time.perf_counter_ns()
    for moment in moments:
        while time.perf_counter_ns() < due:
            look()
        sent_ns.append(time.perf_counter_ns())
        send(moment)
        due += int(EVERY_S * 1e9)
    end = time.perf_counter_ns() + LINGER_NS
    while len(seen_ns) - before < expected and time.perf_counter_ns() < end:
        look()
    return came


def _round(rig: Rig, sink: BatchSocket, load: Load, hop: Delays, direct: Delays) -> None:
    by_hop: list[int] = []
    straight: list[int] = []
    to = sink.sock.getsockname()

    def read() -> list[tuple[bytes, int]]:
        return [(data, train_size(of) if of else 0) for data, of, _, _ in sink.read(2)]

    for part in range(PARTS):
        rig.turn()
        first = part * MOMENTS * load.a_moment
        moments = rig.ingress.moments(load, first, MOMENTS * load.a_moment)
        for arrived in _play(
            moments, first, lambda moment: moment.send(rig.ingress), rig.egress.read, by_hop
        ):
            rig.egress.heard(*arrived)
        _play(moments, first, lambda moment: moment.send(rig.ingress, to), read, straight)
    sent = PARTS * MOMENTS * load.a_moment
    hop.round(by_hop, sent)
    direct.round(straight, sent)


def _show(rate: int, hop: Delays, direct: Delays) -> None:
    for name, delays in (("direct", direct), ("one hop", hop)):
        p50, p99 = figures.spread(delays.p50, ".0f"), figures.spread(delays.p99, ".0f")
        print(f"    {name:8} p50 {p50} us, p99 {p99} us; lost {delays.lost}", flush=True)
    for which in ("p50", "p99"):
        added = [one - other for one, other in zip(getattr(hop, which), getattr(direct, which), strict=True)]
        figures.line(
            f"added {which} at {rate} packets/s",
            f"{figures.spread(added, '.0f')} us",
            statistics.median(added),
            None,
            "us",
        )


def main() -> None:
    """Print the delays without and with the hop, and what it adds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"transit_latency: {FLOWS} flows of {SIZE} B, {rounds} rounds", flush=True)
    gc.disable()
    with udp(transit.ADDRESSES[transit.EGRESS]) as sock:
        sock.setblocking(False)
        sink = BatchSocket(sock, Counter())
        for rate in RATES:
            load, hop, direct = Load(FLOWS, SIZE, int(rate * EVERY_S), FRAME), Delays(), Delays()
            with transit.rig() as rig:
                if load.a_moment > 1:
                    rig.warm(load, EVERY_S)
                for _ in range(rounds):
                    _round(rig, sink, load, hop, direct)
                _show(rate, hop, direct)
            gc.collect()


if __name__ == "__main__":
    main()
