"""How exactly the user-space WAN of tests/wan does what it is told: delay, loss, bursts and rate, set beside measured.

Numbered datagrams from a socket of one namespace to one of another; sent at time.time(), received at the kernel's
SO_TIMESTAMPNS of the same clock. Whoever measures a network on this WAN reads here what the WAN itself adds.
`python -m tests.bench.wan_accuracy`
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Sequence
from itertools import pairwise

from tests.bench import figures
from tests.wan import namespace
from tests.wan.wan import Wan

_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("=qq")
_HEAD = struct.Struct("!Id")
HEADERS_BYTES = 28

Arrivals = list[tuple[int, float, float]]  # number, sent and received (unix s)


class Line:
    """One direction between two nodes of a WAN, with its sockets."""

    def __init__(self, wan: Wan) -> None:
        self.wan = wan
        self._sender, self._receiver = wan.udp("a"), wan.udp("b")
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._receiver.setblocking(False)

    def run(self, packets: int, packets_per_s: float, size_bytes: int) -> Arrivals:
        """Send at an even pace; what arrived, in order."""
        to, padding = self._receiver.getsockname(), bytes(size_bytes - _HEAD.size)
        found: Arrivals = []
        began = time.monotonic()
        for number in range(packets):
            while (wait_s := began + number / packets_per_s - time.monotonic()) > 0:
                self._drain(found)
                time.sleep(min(wait_s, 0.0005))
            self._sender.sendto(_HEAD.pack(number, time.time()) + padding, to)
        quiet_since, seen = time.monotonic(), 0
        while time.monotonic() < quiet_since + 1.0:
            self._drain(found)
            if len(found) > seen:
                quiet_since, seen = time.monotonic(), len(found)
            time.sleep(0.001)
        return found

    def _drain(self, found: Arrivals) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._receiver.recvmsg(2048, 64)
            except BlockingIOError:
                return
            seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
            found.append((*_HEAD.unpack_from(data), seconds + nanoseconds / 1e9))

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


def _delays(line: Line) -> None:
    print("  delay, ms      set    packets/s   Mbit/s     p50       p99       max    lost")
    for delay_ms, packets_per_s, size in (
        (0, 500, 200), (1, 500, 200), (10, 500, 200), (40, 500, 200), (100, 500, 200),
        (100, 4100, 1190), (100, 20_000, 1190),
    ):  # fmt: skip
        line.wan.link("a", "b", delay_ms=delay_ms)
        packets = round(2 * packets_per_s)
        arrivals = line.run(packets, packets_per_s, size)
        delays = [1000 * (received - sent) for _, sent, received in arrivals]
        p50, p99 = (figures.percentile(delays, share) for share in (0.5, 0.99))
        mbit = packets_per_s * (size + HEADERS_BYTES) * 8 / 1e6
        print(
            f"            {delay_ms:6g} {packets_per_s:12} {mbit:8.1f} {p50:9.3f} {p99:9.3f} {max(delays):9.3f}"
            f" {packets - len(arrivals):7}",
            flush=True,
        )
    line.wan.link("a", "b", delay_ms=0)


def _losses(line: Line) -> None:
    print("  loss, %        set     burst    measured   3 sigma of chance   mean burst measured (set)")
    packets = 16_000
    for burst in (1, 3):
        for loss in (0.01, 0.03, 0.05, 0.1, 0.2):
            line.wan.link("a", "b", loss=loss, burst=burst)
            numbers = [number for number, _, _ in line.run(packets, 8000, 60)]
            measured = 1 - len(numbers) / packets
            sigma = math.sqrt(loss * (1 - loss) * (2 * burst - 1) / packets)
            runs = _runs(numbers)
            expected = burst if burst > 1 else 1 / (1 - loss)
            print(
                f"            {100 * loss:6g} {burst:9} {100 * measured:10.2f} {300 * sigma:12.2f}"
                f" {sum(runs) / max(1, len(runs)):20.2f} ({expected:.2f})",
                flush=True,
            )
    line.wan.link("a", "b", loss=0, burst=1)


def _runs(numbers: Sequence[int]) -> list[int]:
    return [after - before - 1 for before, after in pairwise(numbers) if after > before + 1]


def _rates(line: Line) -> None:
    print("  rate, kbit/s   set    measured (of IP packets, offered twice as much)")
    for rate_kbit in (500, 2000, 20_000):
        line.wan.link("a", "b", rate_kbit=rate_kbit)
        size = 1000
        arrivals = line.run(
            packets := max(200, rate_kbit // 2), 2 * rate_kbit * 1000 / 8 / (size + HEADERS_BYTES), size
        )
        took_s = arrivals[-1][2] - arrivals[0][2]
        measured = (len(arrivals) - 1) * (size + HEADERS_BYTES) * 8 / took_s / 1000
        print(
            f"            {rate_kbit:6} {measured:11.1f}   {packets - len(arrivals)} of {packets} dropped",
            flush=True,
        )
    line.wan.link("a", "b", rate_kbit=None)


def main() -> None:
    """Print set beside measured."""
    if reason := namespace.refusal():
        print(f"wan_accuracy: {reason}: nothing measured")
        return
    print("wan_accuracy: one direction between two namespaces", flush=True)
    with Wan({"a": "10.77.0.1", "b": "10.77.0.2"}) as wan:
        line = Line(wan)
        try:
            _delays(line)
            _losses(line)
            _rates(line)
        finally:
            line.close()
        told = wan.figures()
        late = ", ".join(f"{1000 * (told.late_ms[share] or 0):.0f}" for share in (0.5, 0.99, 1.0))
        print(f"  by its own account late by {late} us (half, 99 %, all); overflow {dict(told.overflow)}")


if __name__ == "__main__":
    main()
