"""What the relay adds to a packet's way, p50 and p99, beside coturn's, at a thousand and ten thousand packets a second.

Client and peer are one thread with one clock that sends and looks for packets without ever sleeping; every other
packet goes up, the rest down. The same without a relay is measured in the same round: what is beyond it is the
relay's. To be read: medians of the rounds. `python -m tests.bench.latency [ROUNDS]`
"""

from __future__ import annotations

import contextlib
import gc
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench import figures, rivals
from tests.bench.rivals import Rival
from tests.bench.turn_client import CHANNEL, connect, udp

ROUNDS = 5
RATES = {1_000: 2.0, 10_000: 1.0}  # packets a second: for how many seconds a round
SIZE = 160  # as 20 ms of sound
LINGER_NS = 200_000_000
DIRECT = "no relay"

_stamp = struct.Struct("!Q")


@dataclass(frozen=True)
class Way:
    """Two connected sockets; what the client sends and gets begins with `header`."""

    client: socket.socket
    peer: socket.socket
    header: bytes

    def send(self, number: int) -> None:
        """Packet `number`, with the time of its sending."""
        body = _stamp.pack(time.perf_counter_ns()) + bytes(SIZE - 8)
        if number & 1:
            self.client.send(self.header + body)
        else:
            self.peer.send(body)

    def take(self, delays_ns: list[int]) -> None:
        """Note the delay of whatever has come."""
        for receiver, skip in ((self.peer, 0), (self.client, len(self.header))):
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = receiver.recv(2048)
                    delays_ns.append(time.perf_counter_ns() - _stamp.unpack_from(data, skip)[0])


@dataclass
class Delays:
    """p50 and p99 of each round in microseconds, and how many packets never came."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    lost: int = 0


@contextmanager
def _way(rival: Rival | None) -> Iterator[Way]:
    with udp() as client, udp() as peer:
        header = b""
        if rival is None:
            client.connect(peer.getsockname())
            peer.connect(client.getsockname())
        else:
            peer.connect(connect(client, rival.server, peer.getsockname()))
            header = struct.pack("!HH", CHANNEL, SIZE)
        client.setblocking(False)
        peer.setblocking(False)
        yield Way(client, peer, header)


def _measure(way: Way, rate: int, delays: Delays) -> None:
    count, gap_ns = int(rate * RATES[rate]), 1_000_000_000 // rate
    seen: list[int] = []
    due = time.perf_counter_ns()
    for number in range(count):
        while time.perf_counter_ns() < due:
            way.take(seen)
        way.send(number)
        due += gap_ns
    end = time.perf_counter_ns() + LINGER_NS
    while len(seen) < count and time.perf_counter_ns() < end:
        way.take(seen)
    delays.p50.append(figures.percentile(seen, 0.5) / 1000)
    delays.p99.append(figures.percentile(seen, 0.99) / 1000)
    delays.lost += count - len(seen)


def _rounds(contestants: list[Rival], rate: int, rounds: int) -> dict[str, Delays]:
    ways: list[Rival | None] = [None, *contestants]
    found = {DIRECT if rival is None else rival.name: Delays() for rival in ways}
    for number in range(rounds):
        for rival in ways if number % 2 == 0 else ways[::-1]:
            with _way(rival) as way:
                _measure(way, rate, found[DIRECT if rival is None else rival.name])
    return found


def _show(rate: int, found: dict[str, Delays]) -> None:
    for name, delays in found.items():
        p50, p99 = figures.spread(delays.p50, ".0f"), figures.spread(delays.p99, ".0f")
        print(f"    {name:8} p50 {p50} us, p99 {p99} us; lost {delays.lost}", flush=True)
    direct = found.pop(DIRECT)
    added = {
        name: {
            "p50": statistics.median(delays.p50) - statistics.median(direct.p50),
            "p99": statistics.median(delays.p99) - statistics.median(direct.p99),
        }
        for name, delays in found.items()
    }
    for which in ("p50", "p99"):
        text = ", ".join(f"{name} {of_one[which]:.0f} us" for name, of_one in added.items())
        ours, *theirs = (of_one[which] for of_one in added.values())
        ratio = ours / theirs[0] if theirs and theirs[0] > 0 else float("nan")
        figures.line(
            f"added {which} at {rate} packets/s",
            f"{text}: {ratio:.2f} x coturn" if theirs else text,
            ratio,
            None,
            "x",
        )


def main() -> None:
    """Print the delays with no relay, ours and coturn's, and what the relays add."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"latency: one call of {SIZE} B packets, half of them each way, {rounds} rounds", flush=True)
    gc.disable()
    with rivals.together("latency") as contestants:
        for rate in RATES:
            _show(rate, _rounds(contestants, rate, rounds))


if __name__ == "__main__":
    main()
