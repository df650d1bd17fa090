"""CPU of the relay for each packet of a video burst, ours beside coturn's.

Ten packets of 1100 B at once, as a key frame is, through one allocation with a channel: a thousand times a second,
where most of the cost is to wake a relay that has nothing else to do, or one after the other with a few on the way,
where it is busy all the time.
A burst leaves its sender as ten plain sends, or as one send that the kernel cuts up (UDP_SEGMENT): that reaches a
relay as what a NIC with receive offload hands over. It is taken by a receiver that reads packet by packet, or by one
that takes them together (UDP_GRO): on loopback the sender pays for cutting up what a plain receiver gets, on a wire
nobody's CPU would. The relays take turns. `python -m tests.bench.bursts [PAIRS]`
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench import figures, rivals
from tests.bench.rivals import Rival
from tests.bench.turn_client import Addr, channel_data, connect, udp

PAIRS = 5
PACKETS, SIZE = 10, 1100  # of a burst, and B
BURSTS, EVERY_S = 1000, 0.001
LINGER_S = 0.2
ON_THE_WAY = 4  # bursts, while the relay is kept busy
TARGET = 0.5
UDP_SEGMENT, UDP_GRO = 103, 104


@dataclass(frozen=True)
class Form:
    """Which way the bursts go, who leaves the cutting up or the gathering to the kernel, and is the relay kept busy."""

    down: bool
    segment: bool
    gro: bool
    busy: bool = False

    def __str__(self) -> str:
        way = "to client" if self.down else "to peer"
        sent = "UDP_SEGMENT" if self.segment else "plain sends"
        return f"{way}, {sent}, {'UDP_GRO' if self.gro else 'plain'} receiver{', busy' if self.busy else ''}"


FORMS = [
    *(
        Form(True, segment, gro, busy)
        for busy in (False, True)
        for segment in (False, True)
        for gro in (False, True)
    ),
    *(Form(False, segment, gro) for segment in (False, True) for gro in (False, True)),
]


@dataclass(frozen=True)
class Run:
    """One load on one relay."""

    us_a_packet: float
    lost: int


@contextmanager
def _call(rival: Rival, form: Form) -> Iterator[tuple[Callable[[], None], socket.socket, int]]:
    """How to send a burst, who receives, and how long a packet is there."""
    with udp() as client, udp() as peer:
        relayed = connect(client, rival.server, peer.getsockname())
        payload = bytes(SIZE)
        framed = channel_data(payload)
        source, receiver = (peer, client) if form.down else (client, peer)
        sent, received = (payload, framed) if form.down else (framed, payload)
        receiver.setblocking(False)
        receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, int(form.gro))
        yield _sender(source, relayed if form.down else rival.server, sent, form), receiver, len(received)


def _sender(source: socket.socket, to: Addr, packet: bytes, form: Form) -> Callable[[], None]:
    if form.down:
        source.connect(to)
    if form.segment:
        whole = [packet * PACKETS]
        how = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", len(packet)))]
        return lambda: void(source.sendmsg(whole, how))

    def plain() -> None:
        for _ in range(PACKETS):
            source.send(packet)

    return plain


def void(_result: object) -> None:
    """Forget a result."""


def _take(receiver: socket.socket, size: int, until: float) -> int:
    """Packets that come until then."""
    came = 0
    while True:
        remaining = until - time.perf_counter()
        with contextlib.suppress(BlockingIOError):
            while True:
                length = len(receiver.recv(65535))
                assert length % size == 0, f"{length} B came where {size} B packets were sent"
                came += length // size
        if remaining <= 0:
            return came
        select.select([receiver], [], [], remaining)


def _paced(send: Callable[[], None], receiver: socket.socket, size: int) -> int:
    """Send the bursts in time; packets that came."""
    came, due = 0, time.perf_counter()
    for _ in range(BURSTS):
        send()
        due += EVERY_S
        came += _take(receiver, size, due)
    return came


def _busy(send: Callable[[], None], receiver: socket.socket, size: int) -> int:
    """Send each burst when an earlier one has come (or is taken for lost); packets that came."""
    came, wanted = 0, -ON_THE_WAY * PACKETS
    receiver.setblocking(True)
    receiver.settimeout(LINGER_S)
    for _ in range(BURSTS):
        send()
        wanted += PACKETS
        try:
            while came < wanted:
                came += len(receiver.recv(65535)) // size
        except TimeoutError:
            wanted = came
    receiver.setblocking(False)
    return came


def _run(rival: Rival, form: Form) -> Run:
    with _call(rival, form) as (send, receiver, size):
        before = rival.cpu_s()
        came = (_busy if form.busy else _paced)(send, receiver, size)
        came += _take(receiver, size, time.perf_counter() + LINGER_S)
        spent = rival.cpu_s() - before
    return Run(1e6 * spent / max(came, 1), BURSTS * PACKETS - came)


def _pairs(contestants: list[Rival], form: Form, pairs: int) -> None:
    runs: dict[str, list[Run]] = {rival.name: [] for rival in contestants}
    for number in range(pairs):
        for rival in contestants if number % 2 == 0 else contestants[::-1]:
            runs[rival.name].append(_run(rival, form))
    for name, of_one in runs.items():
        cost = figures.spread([run.us_a_packet for run in of_one])
        lost = " ".join(str(run.lost) for run in of_one)
        print(f"    {name:8} {cost} us a packet; lost of {BURSTS * PACKETS}: {lost}", flush=True)
    ours, *theirs = ([run.us_a_packet for run in of_one] for of_one in runs.values())
    for their in theirs:
        figures.ratio_line(str(form), figures.ratios(ours, their), TARGET if form.down else None)


def main() -> None:
    """Print both relays' CPU a packet and the ratio, for each form of sender and receiver."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(f"bursts: {PACKETS} packets of {SIZE} B at once, {1 / EVERY_S:.0f} bursts a second", flush=True)
    with rivals.together("bursts") as contestants:
        for form in FORMS:
            _pairs(contestants, form, pairs)


if __name__ == "__main__":
    main()
