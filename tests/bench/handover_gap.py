"""For how long nobody is served while a relay is upgraded, and what that costs a call.

One relay as a node runs it, with 1, 100 and 1000 allocations, is upgraded 30 times in a row. Somebody calls meanwhile,
200 packets a second each way. `python -m tests.bench.handover_gap [RUNS]`

To be read: the gap, from when the old process stops reading until the new one reads, by the clock that both have; the
longest that a packet took around an upgrade, and beside it the same just before, which is the machine's own; and the
packets that did not arrive.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import figures, rivals, turn_client
from tests.relay.serving import ADDRESS
from tests.relay.upgrading import Node

RUNS = 30
SIZES = (1, 100, 1000)
PACKETS_A_SECOND = 200
QUIET_S = 0.4
# Of 1000 allocations: their state is sent in portions, and the figures of all of them in the gap.
TARGET_MS = {1: 10.0, 100: 20.0, 1000: 50.0}
_stamp = struct.Struct("!Id")


class Listener(threading.Thread):
    """What arrives at a socket: the delay in seconds by number."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self._sock, self.delays = sock, dict[int, float]()
        self.ends = False
        sock.settimeout(0.2)

    def run(self) -> None:
        while not self.ends:
            with contextlib.suppress(TimeoutError):
                data = self._sock.recv(2048)
                number, sent = _stamp.unpack(data[-_stamp.size :])
                self.delays[number] = time.monotonic() - sent


class Call:
    """One allocation, and numbered packets both ways from `begin` to `end`."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._peer, self._client = turn_client.udp(), turn_client.udp()
        self._relayed = turn_client.connect(self._client, server, self._peer.getsockname())
        self.listeners = [Listener(self._peer), Listener(self._client)]
        self.sent = 0
        self._ends = False
        self._talking = threading.Thread(target=self._talk, daemon=True)
        for thread in (*self.listeners, self._talking):
            thread.start()

    def _talk(self) -> None:
        due = time.monotonic()
        while not self._ends:
            payload = bytes(148) + _stamp.pack(self.sent, time.monotonic())
            self._client.send(turn_client.channel_data(payload))
            self._peer.sendto(payload, self._relayed)
            self.sent += 1
            due += 1 / PACKETS_A_SECOND
            time.sleep(max(0.0, due - time.monotonic()))

    def longest_ms(self, since: int) -> float:
        """The longest delay, either way, of the packets from this number on."""
        return 1000 * max(
            delay
            for listener in self.listeners
            for number, delay in list(listener.delays.items())
            if number >= since
        )

    def lost(self) -> int:
        """End it; the packets of both ways that did not arrive."""
        self._ends = True
        self._talking.join()
        time.sleep(1.0)
        for listener in self.listeners:
            listener.ends = True
            listener.join()
        self._peer.close()
        self._client.close()
        return 2 * self.sent - sum(len(listener.delays) for listener in self.listeners)


@contextlib.contextmanager
def allocations(node: Node, count: int) -> Iterator[None]:
    """So many allocations, each with a channel, that say nothing."""
    socks = []
    try:
        for number in range(count):
            # A relay counts refusals a source address.
            socks.append(turn_client.udp(f"127.98.{number >> 8}.{number & 255}"))
            turn_client.connect(socks[-1], node.server, (ADDRESS, 9))
        yield
    finally:
        for sock in socks:
            sock.close()


def upgrades(node: Node, call: Call, runs: int) -> dict[str, list[float]]:
    """Milliseconds of each run, by what they say."""
    found: dict[str, list[float]] = {"gap": [], "around": [], "before": []}
    time.sleep(QUIET_S)
    for _ in range(runs):
        since = call.sent
        time.sleep(QUIET_S)
        found["before"].append(call.longest_ms(since))
        since = call.sent
        answer: dict[str, Any] = node.ask("upgrade")
        if not answer["ok"]:
            raise RuntimeError(answer["error"])
        time.sleep(QUIET_S)  # the process before us is still ending
        found["gap"].append(answer["gap_ms"])
        found["around"].append(call.longest_ms(since))
    return found


def measure(size: int, runs: int) -> None:
    """Print the figures of one size."""
    with tempfile.TemporaryDirectory(prefix="commcli-bench-") as folder:
        node = Node(Path(folder) / "node")
        (node.base / "etc/turn.users").write_text(f"{rivals.USER}:{rivals.PASSWORD}\n")
        try:
            node.serve()
            with allocations(node, size - 1):
                call = Call(node.server)
                found = upgrades(node, call, runs)
                told = node.ask("status")
                lost, sent = call.lost(), 2 * call.sent
        finally:
            node.end()
    if told["allocations"] != size:
        raise RuntimeError(f"{told['allocations']} allocations are left of {size}")
    print(f"{size} allocations, {runs} upgrades")
    for name, what in (
        ("gap", "nobody is served"),
        ("around", "longest packet in an upgrade"),
        ("before", "longest packet before it"),
    ):
        p50, p95 = (figures.percentile(found[name], share) for share in (0.5, 0.95))
        target = TARGET_MS[size] if name == "gap" else None
        figures.line(what, f"p50 {p50:.1f}  p95 {p95:.1f} ms", p95, target, "ms")
    figures.line("packets lost", f"{lost} of {sent}", lost, 0, "packets")


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    for size in SIZES:
        measure(size, runs)


if __name__ == "__main__":
    main()
