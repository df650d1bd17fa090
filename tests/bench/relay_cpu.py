"""CPU of the relay for each packet it relays, ours beside coturn's, under the load of coturn's own turnutils_uclient.

Ten clients with a channel each send a packet a millisecond for three seconds to an echo peer. The relays take turns,
and the first of a pair is the second of the next. A message that came back was relayed twice; what was lost counts
as not relayed. The same again with three such loads at once. To be read: the ratio.
`python -m tests.bench.relay_cpu [PAIRS]`
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench import figures, rivals
from tests.bench.rivals import Rival
from tests.relay.serving import ADDRESS, free_port

PAIRS = 5
SIZES = (200, 1000)
CLIENTS, MESSAGES = 10, 3000
TARGET = 1.0
LOADS = (1, 3)
APART_S = 1.1  # two starts: to one address a relay refuses ten requests a second, and no more
TIMEOUT_S = 60


@dataclass(frozen=True)
class Run:
    """One load on one relay."""

    us_a_packet: float
    sent: int
    received: int


@contextmanager
def _echo_peer() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(["turnutils_peer", "-L", ADDRESS, "-p", str(port)], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _run(rival: Rival, peer_port: int, size: int, loads: int) -> Run:
    command = ["turnutils_uclient", "-p", str(rival.port), "-u", rivals.USER, "-w", rivals.PASSWORD]
    command += ["-e", ADDRESS, "-r", str(peer_port), "-X", "-g", "-c"]
    command += ["-m", str(CLIENTS), "-n", str(MESSAGES), "-z", "1", "-l", str(size), ADDRESS]
    before = rival.cpu_s()
    clients = []
    for _ in range(loads):
        clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        time.sleep(APART_S)
    outputs = [client.communicate(timeout=TIMEOUT_S)[0] for client in clients]
    spent = rival.cpu_s() - before
    counts = [re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", output)[-1] for output in outputs]
    sent, received = (sum(int(count) for count in column) for column in zip(*counts, strict=True))
    return Run(1e6 * spent / (2 * received), sent, received)


def _pairs(contestants: list[Rival], peer_port: int, size: int, loads: int, pairs: int) -> None:
    runs: dict[str, list[Run]] = {rival.name: [] for rival in contestants}
    for number in range(pairs):
        for rival in contestants if number % 2 == 0 else contestants[::-1]:
            runs[rival.name].append(_run(rival, peer_port, size, loads))
    for name, of_one in runs.items():
        lost = " ".join(str(run.sent - run.received) for run in of_one)
        cost = figures.spread([run.us_a_packet for run in of_one])
        print(f"    {size:4} B {name:8} {cost} us a packet; lost of {of_one[0].sent}: {lost}", flush=True)
    ours, *theirs = ([run.us_a_packet for run in of_one] for of_one in runs.values())
    for their in theirs:
        figures.ratio_line(
            f"CPU a packet, {size} B, {loads * CLIENTS} clients", figures.ratios(ours, their), TARGET
        )


def main() -> None:
    """Print both relays' CPU a packet and the ratio."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(
        f"relay_cpu: {CLIENTS} clients, {MESSAGES} messages each, ChannelData, by turnutils_uclient",
        flush=True,
    )
    if shutil.which("turnutils_uclient") is None:
        print("relay_cpu: turnutils_uclient is not installed (Debian package coturn): nothing measured")
        return
    with rivals.together("relay_cpu") as contestants, _echo_peer() as peer_port:
        for loads in LOADS:
            for size in SIZES:
                _pairs(contestants, peer_port, size, loads, pairs)


if __name__ == "__main__":
    main()
