"""What a lossy segment between two relays leaves of a call: residual loss, overhead and added delay of the protection.

Real relays and real TURN clients, each in a network namespace, over the user-space WAN of tests/wan. For every RTT a
pair of relays with a call between them (audio 50 packets/s, video 900 kbit/s, both directions), all at once; then row
by row the loss of the one segment between them. To be read:

  residual   packets of the clients that never came, of those sent (audio and video apart)
  late       came, but more than 100 ms after the usual delay of the same pair without loss
  overhead   bytes on the segment for a byte of media, over the same without loss, less 1
  added      one-way delay, client to client, less the usual one: what the repair takes. A `!` behind it: the machine
             was too busy with other things for figures of this row to count

`python -m tests.bench.overlay_wan [--loss 1,3,5,10,20] [--burst 1,3] [--rtt 20,80,200] [--seconds 20] [--calls 1]
[--backup]`; with --backup there is a disjoint path over a third relay, whose first segment is just as bad.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import figures
from tests.wan import load, namespace
from tests.wan.load import Call
from tests.wan.media import AUDIO, VIDEO
from tests.wan.relays import Relays, both_ways
from tests.wan.wan import Figures, Wan
from tests.wan.weather import Weather

SETTLE_S, USUAL_S = 4.0, 6.0
LATE_S = 0.1
# More than this between due and done, and the WAN itself has added to the delay. More than this on half of all packets,
# and a relay or a client did: no repair can, so the machine was busy with something else.
TOO_LATE_MS, STARVED_MS = 5.0, 3.0
# (loss in %, mean burst, RTT in ms) -> the most residual loss and overhead, both in %.
TARGETS = {(3.0, 1.0, 80): (0.1, 15.0), (10.0, 3.0, 80): (1.0, 100.0)}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two relays with a segment of a given RTT, and the places of their clients; `third` is another way around."""

    rtt_ms: int
    number: int

    @property
    def relays(self) -> tuple[str, str, str]:
        return f"a-{self.rtt_ms}", f"b-{self.rtt_ms}", f"third-{self.rtt_ms}"

    @property
    def places(self) -> tuple[str, str]:
        return f"caller-{self.rtt_ms}", f"callee-{self.rtt_ms}"

    def addresses(self) -> dict[str, str]:
        return {name: f"10.77.{self.number}.{host}" for host, name in enumerate(self.relays + self.places, 1)}

    def bad_links(self) -> list[tuple[str, str]]:
        """The segments that lose: the direct one, and the first one of the way around."""
        a, b, third = self.relays
        return [(a, b), (a, third)]


@dataclass(frozen=True, slots=True)
class Usual:
    """A pair without loss: median delay (s), and bytes on the segments for a byte of media."""

    delay_s: float
    bytes_a_byte: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair under one weather. Shares are 0..1, delays s."""

    link_loss: float
    lost: dict[int, int]
    sent: dict[int, int]
    late: int
    bytes_a_byte: float
    delays_s: list[float]

    @property
    def residual(self) -> float:
        return sum(self.lost.values()) / sum(self.sent.values())


class Bench:
    """Pairs at work."""

    def __init__(self, wan: Wan, relays: Relays, pairs: Sequence[Pair], calls: int) -> None:
        self._wan, self._relays, self._pairs = wan, relays, pairs
        self._calls = {pair: [_connect(relays, pair) for _ in range(calls)] for pair in pairs}
        self.usual: dict[Pair, Usual] = {}
        load.run(self._everybody(), 1.0)
        for pair, cell in self.measure(USUAL_S).items():
            self.usual[pair] = Usual(figures.percentile(cell.delays_s, 0.5), cell.bytes_a_byte)

    def set(self, loss: float, burst: float) -> None:
        """The weather of every pair's segments from now on; loss 0..1."""
        for pair in self._pairs:
            for one, other in pair.bad_links():
                self._wan.link(one, other, loss=loss, burst=burst)

    def settle(self) -> None:
        """Let the relays see the weather."""
        load.run(self._everybody(), SETTLE_S)

    def measure(self, seconds: float) -> dict[Pair, Cell]:
        """What becomes of the calls meanwhile."""
        for call in self._everybody():
            call.reset()
        before = self._wan.figures()
        load.run(self._everybody(), seconds)
        after = self._wan.figures()
        _warn(after)
        return {pair: self._cell(pair, before, after) for pair in self._pairs}

    def done(self, pair: Pair) -> str:
        """What the first relay of a pair does now for audio and video on their segment."""
        one, other, _ = pair.relays
        plans = self._relays.ask(one, "status")["overlay"]["segments"][other]["out"]["plan"]
        return ", ".join(f"{word} {_plan(plans[word])}" for word in ("audio", "video") if word in plans)

    def close(self) -> None:
        for call in self._everybody():
            call.close()

    def _everybody(self) -> list[Call]:
        return [call for calls in self._calls.values() for call in calls]

    def _cell(self, pair: Pair, before: Figures, after: Figures) -> Cell:
        by_class = {
            class_: [tally for call in self._calls[pair] for tally in call.tallies(class_)]
            for class_ in (AUDIO, VIDEO)
        }
        tallies = by_class[AUDIO] + by_class[VIDEO]
        delays = [delay for tally in tallies for delay in tally.delays_s]
        usual_s = self.usual[pair].delay_s if pair in self.usual else math.inf
        packets, lost, octets = _crossed(pair, before, after)
        return Cell(
            link_loss=lost / packets,
            lost={class_: sum(t.sent - len(t.arrived) for t in of) for class_, of in by_class.items()},
            sent={class_: sum(t.sent for t in of) for class_, of in by_class.items()},
            late=sum(delay > usual_s + LATE_S for delay in delays),
            bytes_a_byte=octets / sum(tally.sent_bytes for tally in tallies),
            delays_s=delays,
        )


def _plan(plan: Mapping[str, Any]) -> str:
    """A class's plan as the relay's status tells it, in a few words."""
    words = ["resend"] if plan["resend"] else []
    words += [f"copy after {plan['copies']}"] if plan["copies"] else []
    if plan["parity"]:
        k, m, depth = plan["parity"]
        words.append(f"RS({k},{m})" + (f" every {depth}" if depth > 1 else ""))
    words += ["backup"] if plan["backup"] else []
    return ("+".join(words) or plan["reason"]) + (" (leave)" if plan["leave"] else "")


def _connect(relays: Relays, pair: Pair) -> Call:
    one, other, _ = pair.relays
    return load.connect(relays, (pair.places[0], one), (pair.places[1], other))


def _crossed(pair: Pair, before: Figures, after: Figures) -> tuple[int, int, int]:
    """(packets, lost, octets) on the pair's bad segments in both directions between two figures."""
    links = [link for one, other in pair.bad_links() for link in ((one, other), (other, one))]
    now = [after.links[link] for link in links if link in after.links]
    then = [before.links[link] for link in links if link in before.links]
    return (
        sum(c.packets for c in now) - sum(c.packets for c in then),
        sum(c.lost for c in now) - sum(c.lost for c in then),
        sum(c.octets for c in now) - sum(c.octets for c in then),
    )


def _warn(told: Figures) -> None:
    late_ms = told.late_ms[0.99] or 0.0
    overflow = {node: packets for node, packets in told.overflow.items() if packets}
    if overflow or late_ms > TOO_LATE_MS:
        print(f"  SPOILED: the WAN itself was late by {late_ms:.1f} ms (p99), overflow {overflow or 0}")


HEAD = (
    "   set      RTT    link   residual              of audio   of video   late    overhead"
    "   added p50   p95   p99 ms   at the end"
)


def _row(loss: float, burst: float, pair: Pair, cell: Cell, usual: Usual, done: str) -> str:
    added = [1000 * (figures.percentile(cell.delays_s, q) - usual.delay_s) for q in (0.5, 0.95, 0.99)]
    kind = "iid" if burst == 1 else f"x{burst:g}"
    share = {class_: 100 * cell.lost[class_] / cell.sent[class_] for class_ in cell.sent}
    return (
        f"  {loss:3g} % {kind:3} {pair.rtt_ms:4} {100 * cell.link_loss:6.2f} %"
        f" {100 * cell.residual:6.3f} % ({sum(cell.lost.values()):4}/{sum(cell.sent.values())})"
        f" {share[AUDIO]:8.3f} % {share[VIDEO]:8.3f} % {100 * cell.late / sum(cell.sent.values()):5.2f} %"
        f" {100 * (cell.bytes_a_byte / usual.bytes_a_byte - 1):8.1f} %"
        f"   {added[0]:8.1f}{'!' if abs(added[0]) > STARVED_MS else ' '} {added[1]:5.0f} {added[2]:5.0f}      {done}"
    )


def _judge(loss: float, burst: float, pair: Pair, cell: Cell, usual: Usual) -> None:
    targets = TARGETS.get((loss, burst, pair.rtt_ms))
    if targets is None:
        return
    what = f"{loss:g} % {'independent' if burst == 1 else 'bursty'} at {pair.rtt_ms} ms"
    overhead = 100 * (cell.bytes_a_byte / usual.bytes_a_byte - 1)
    figures.line(f"{what}: residual", f"{100 * cell.residual:.3f} %", 100 * cell.residual, targets[0], "%")
    figures.line(f"{what}: overhead", f"{overhead:.1f} %", overhead, targets[1], "%")


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="overlay_wan")
    parser.add_argument("--loss", type=_numbers, default=[1.0, 3.0, 5.0, 10.0, 20.0])
    parser.add_argument("--burst", type=_numbers, default=[1.0, 3.0])
    parser.add_argument("--rtt", type=_numbers, default=[20.0, 80.0, 200.0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--backup", action="store_true")
    return parser.parse_args()


def _links(pairs: Iterable[Pair]) -> dict[tuple[str, str], Weather]:
    return {link: Weather(delay_ms=pair.rtt_ms / 2) for pair in pairs for link in pair.bad_links()}


def _table(bench: Bench, pairs: Sequence[Pair], wanted: argparse.Namespace) -> None:
    found = []
    print(HEAD)
    for loss in wanted.loss:
        for burst in wanted.burst:
            bench.set(loss / 100, burst)
            bench.settle()
            for pair, cell in bench.measure(wanted.seconds).items():
                print(_row(loss, burst, pair, cell, bench.usual[pair], bench.done(pair)), flush=True)
                found.append((loss, burst, pair, cell, bench.usual[pair]))
    for row in found:
        _judge(*row)


def main() -> None:
    """Print the table."""
    wanted = _arguments()
    if reason := namespace.refusal():
        print(f"overlay_wan: {reason}: nothing measured")
        return
    pairs = [Pair(round(rtt), number) for number, rtt in enumerate(wanted.rtt, 1)]
    print(
        f"overlay_wan: {wanted.calls} call(s) a pair of relays, {wanted.seconds:g} s a row, {SETTLE_S:g} s after the"
        f" change; {'a backup path as bad' if wanted.backup else 'no other path'}"
    )
    addresses = {name: address for pair in pairs for name, address in pair.addresses().items()}
    with tempfile.TemporaryDirectory(prefix="commcli-wan-") as folder, Wan(addresses, _links(pairs)) as wan:
        count = 3 if wanted.backup else 2
        with Relays(wan, Path(folder), [node for pair in pairs for node in pair.relays[:count]]) as relays:
            relays.publish(_routes(pairs, wanted.backup))
            relays.wait_until_paths_answer()
            bench = Bench(wan, relays, pairs, wanted.calls)
            try:
                _table(bench, pairs, wanted)
            finally:
                bench.close()


def _routes(pairs: Iterable[Pair], backup: bool) -> dict[str, dict[str, dict[str, list[str]]]]:
    routes: dict[str, dict[str, dict[str, list[str]]]] = {}
    for pair in pairs:
        a, b, third = pair.relays
        routes |= both_ways([a, b], [a, third, b]) if backup else both_ways([a, b])
    return routes


if __name__ == "__main__":
    main()
