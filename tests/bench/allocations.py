"""Many allocations: resident memory for each idle one with 10 000 live, and how long a new one takes, beside coturn's.

Every client has a source address of its own, as real ones have: a relay limits refusals a source. Memory is what the
process grew by while the allocations, each with a channel and its permission, were made. The time of allocate + bind
is open loop: from the moment when it was due, at 200 a second, to the answer of the ChannelBind: three round trips,
with the 10 000 still there. `python -m tests.bench.allocations [LIVE]`
"""

from __future__ import annotations

import itertools
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench import figures, rivals
from tests.bench.rivals import Rival
from tests.bench.turn_client import Refused, Setup
from tests.relay.serving import ADDRESS

LIVE, TOGETHER = 10_000, 32
RATE, SECONDS = 200, 6
MEMORY_TARGET_KB, P99_TARGET_MS = 20, 10
AGAIN_S, GIVE_UP_S = 0.5, 5.0


@dataclass
class _Client:
    sock: socket.socket
    setup: Setup
    due: float
    asked: float


class Crowd:
    """Clients on their way to an allocation with a channel. `took` holds the seconds of those that arrived."""

    def __init__(self, rival: Rival, sources: Iterator[str]) -> None:
        self.took: list[float] = []
        self.failed = 0
        self._server, self._sources = rival.server, sources
        self._peer = (ADDRESS, 9)
        self._under_way: dict[int, _Client] = {}
        self._poll = select.epoll()

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, due: float) -> None:
        """Send another client, which was due then."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((next(self._sources), 0))
        sock.connect(self._server)
        sock.setblocking(False)
        client = _Client(sock, Setup(self._peer), due, time.perf_counter())
        self._under_way[sock.fileno()] = client
        self._poll.register(sock.fileno(), select.EPOLLIN)
        sock.send(client.setup.request)

    def serve(self, until: float) -> None:
        """Take answers until then, or until the next if that comes first."""
        for number, _ in self._poll.poll(max(0.0, until - time.perf_counter())):
            client = self._under_way[number]
            try:
                if client.setup.answer(client.sock.recv(2048)):
                    self._ask(client)
            except (Refused, OSError):
                self._leave(client, arrived=False)
            if client.setup.bound:
                self.took.append(time.perf_counter() - client.due)
                self._leave(client, arrived=True)

    def remind(self) -> None:
        """Ask again what got no answer; give up what never will."""
        now = time.perf_counter()
        for client in list(self._under_way.values()):
            if now - client.due > GIVE_UP_S:
                self._leave(client, arrived=False)
            elif now - client.asked > AGAIN_S:
                self._ask(client)

    def finish(self) -> None:
        """Serve all that are under way, to their end."""
        while self._under_way:
            self.serve(time.perf_counter() + 0.05)
            self.remind()
        self._poll.close()

    def _ask(self, client: _Client) -> None:
        client.asked = time.perf_counter()
        client.sock.send(client.setup.request)

    def _leave(self, client: _Client, *, arrived: bool) -> None:
        self.failed += not arrived
        self._poll.unregister(client.sock.fileno())
        del self._under_way[client.sock.fileno()]
        client.sock.close()  # an allocation needs no open socket of ours to stay


def _sources() -> Iterator[str]:
    octets = itertools.product(range(1, 200), range(250), range(1, 250))
    return (f"127.{high}.{middle}.{low}" for high, middle, low in octets)


def _fill(rival: Rival, sources: Iterator[str], live: int) -> tuple[float, int]:
    """(bytes each, how many there are)."""
    crowd, before, started = Crowd(rival, sources), rival.resident_bytes(), 0
    while started < live:
        while len(crowd) < TOGETHER and started < live:
            crowd.start(time.perf_counter())
            started += 1
        crowd.serve(time.perf_counter() + AGAIN_S)
        crowd.remind()
    crowd.finish()
    there = len(crowd.took)
    return (rival.resident_bytes() - before) / max(there, 1), there


def _open_loop(rival: Rival, sources: Iterator[str]) -> Crowd:
    crowd, due = Crowd(rival, sources), time.perf_counter()
    for _ in range(RATE * SECONDS):
        while time.perf_counter() < due:
            crowd.serve(due)
        crowd.start(due)
        due += 1 / RATE
    crowd.finish()
    return crowd


def _measure(rival: Rival, live: int) -> None:
    ours, sources = rival.name == "commcli", _sources()
    each, there = _fill(rival, sources, live)
    figures.line(
        f"memory an allocation, {rival.name}",
        f"{each / 1000:.1f} kB, {there} of {live} live",
        each / 1000,
        MEMORY_TARGET_KB if ours else None,
        "kB",
    )
    crowd = _open_loop(rival, sources)
    # Who never arrived took longer than anybody.
    took_ms = [1000 * took for took in crowd.took] + [1000 * GIVE_UP_S] * crowd.failed
    p50, p99 = figures.percentile(took_ms, 0.5), figures.percentile(took_ms, 0.99)
    figures.line(
        f"allocate + bind at {RATE}/s, {rival.name}",
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms; failed {crowd.failed} of {RATE * SECONDS}",
        p99,
        P99_TARGET_MS if ours else None,
        "ms",
    )


def main() -> None:
    """Print memory and p99 of both relays, each newly started."""
    live = int(sys.argv[1]) if len(sys.argv) > 1 else LIVE
    print(f"allocations: {live} idle ones, then {RATE} more a second for {SECONDS} s", flush=True)
    for start in rivals.starts("allocations"):
        with start() as rival:
            _measure(rival, live)


if __name__ == "__main__":
    main()
