"""Every buffer of the overlay has a bound, says how full it is, and keeps the bound whatever a neighbour sends.

The neighbour here has its keys and means harm; the relay is the one in the middle of a path. Nothing is flushed before
the buffers are read: what a turn of the loop gathers is a buffer too.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from commcli.relay.overlay import telemetry, train
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.telemetry import Row
from commcli.relay.overlay.wire import DATA, IN_BLOCK, MTU, NACK, PARITY, PROBE, REPORT, TRAIN, VIDEO
from commcli.relay.protect import resend
from commcli.relay.protect.plan import Plan as Protection
from tests.relay.overlay_world import PORTS, Plan, World
from tests.relay.test_overlay import entry, header, hop_tag, hops_of, number

ROGUE, MIDDLE, FAR = "br-1", "us-1", "hk-1"
PATH = (ROGUE, MIDDLE, FAR)
HEAD = hops_of(PATH)
LOW, HIGH = PORTS
BIG = b"x" * 1100
ALL_MEANS = Protection(resend=True, copies=(8, 60.0), parity=(8, 4, 60.0, 4))


@dataclass
class Rogue:
    """The neighbour, with all that it may rightly sign."""

    net: World = field(
        default_factory=lambda: World(Plan(PATH, [PATH, PATH[::-1], (MIDDLE, ROGUE), (ROGUE, MIDDLE)]))
    )
    sequence: int = 1 << 40
    packet: int = 1 << 40

    @property
    def victim(self) -> Overlay:
        return self.net.nodes[MIDDLE]

    @property
    def onward(self) -> Segment:
        """The victim's segment to the next relay."""
        return self.victim.routes.segments[FAR]

    def buffer(self, name: str) -> dict[str, int]:
        return self.victim.buffers()[name]

    def send(self, kind: int, body: bytes, *, rest: bytes = b"", marks: int = 0, skip: int = 0) -> None:
        """One datagram with a good tag reaches the victim; `skip`: so many sequences are left out before it."""
        self.sequence += 1 + skip
        message = header(kind, len(body), self.sequence, marks=marks, unix=self.net.unix) + body
        self.hand(hop_tag(message, ROGUE, MIDDLE) + message + rest)

    def hand(self, data: bytes) -> None:
        self.victim.receive(self.net.plan.overlay(ROGUE), [data], self.net.now, self.net.unix)

    def media(
        self, payload: bytes = BIG, *, path: Sequence[str] = PATH, port: int = LOW, to: int = LOW, marks: int = 0,
        skip: int = 0,
    ) -> None:  # fmt: skip
        """A packet from one of its own relayed addresses to one of the other edge's."""
        self.packet += 1
        head, far = hops_of(path), path[-1]
        src, dst = self.net.plan.relayed(ROGUE, port), self.net.plan.relayed(far, to)
        row = entry(head, src, dst, payload, ROGUE, far, self.packet)
        self.send(DATA, head + b"\x01" + row, rest=payload, marks=marks, skip=skip)


def many_flows(rogue: Rogue) -> None:
    for port in range(LOW, LOW + 100):
        for to in range(LOW, LOW + 100):
            rogue.media(b"", port=port, to=to)
            rogue.onward.waiting.clear()


def many_paths(rogue: Rogue) -> None:
    for made_up in range(6000):
        head = b"\x34" + number(ROGUE) + number(MIDDLE) + struct.pack(">I", made_up)
        rogue.send(DATA, head + b"\x01" + bytes(34))


def many_gaps(rogue: Rogue) -> None:
    for _ in range(20):
        rogue.media(skip=9000)
        rogue.media(skip=1)


def a_long_turn(rogue: Rogue) -> None:
    for _ in range(6000):
        rogue.media()


def bare_without_heads(rogue: Rogue) -> None:
    """Anybody who can write its address may send these."""
    for count in range(3000):
        rogue.hand(struct.pack(">QI", count, 0) + b"\x24" + bytes(1200))


def runs_without_heads(rogue: Rogue) -> None:
    """The same, as the kernel hands them over when they come together."""
    for count in range(300):
        run = b"".join(struct.pack(">QI", count, index << 24) + b"\x24" + bytes(240) for index in range(250))
        rogue.victim.receive_train(rogue.net.plan.overlay(ROGUE), run, 253, rogue.net.now, rogue.net.unix)


def heads_without_bare(rogue: Rogue) -> None:
    ends = rogue.net.plan.relayed(ROGUE), rogue.net.plan.relayed(FAR)
    row = entry(HEAD, *ends, bytes(1200), ROGUE, FAR, 7)
    _, body = train.coupled(bytes(8), HEAD, [(row, bytes(1200))] * 63)
    for count in range(500):
        rogue.send(TRAIN, struct.pack(">Q", count) + body[8:])


def media_under_protection(rogue: Rogue) -> None:
    for word in (0, 1, VIDEO):
        rogue.onward.use(word, ALL_MEANS)
    for word in (0, 1, VIDEO):
        for _ in range(1500):
            rogue.media(marks=word << 6)
        rogue.onward.flush(rogue.net.now, rogue.net.unix)


def blocks_that_never_end(rogue: Rogue) -> None:
    for word in (0, 1, VIDEO):
        for count in range(3000):
            rogue.media(marks=word << 6 | IN_BLOCK)
            rogue.onward.waiting.clear()
            offsets = struct.pack(">8H", *range(8))
            lost = struct.pack(">BBBBQ", 8, 4, count % 4, 0, rogue.sequence + 1000 * count) + offsets
            rogue.send(PARITY, lost + b"\x04\x00" + bytes(1024), marks=word << 6)


def reports_of_everybody(rogue: Rogue) -> None:
    """Of segments that are none of its business."""
    for count in range(200):
        rows = [Row(count, 1000 + n, 0, *[count] * 7) for n in range(telemetry.MAX_ROWS)]
        rogue.send(REPORT, telemetry.pack(rows))


def requests_for_all(rogue: Rogue) -> None:
    """It asks the victim for what the victim has sent it, again and again."""
    back = rogue.victim.routes.segments[ROGUE]
    back.use(0, Protection(resend=True))
    plan = rogue.net.plan
    for _ in range(2000):
        rogue.victim.send(
            ROGUE, plan.relayed(MIDDLE), plan.relayed(ROGUE), [BIG], rogue.net.now, rogue.net.unix
        )
    first = int.from_bytes(back.flush(rogue.net.now, rogue.net.unix)[0][16:24], "big")
    for _ in range(50):
        rogue.net.now += 0.009
        for start in range(first, first + 2000, resend.MAX_AT_ONCE):
            rogue.send(NACK, resend.pack(range(start, start + resend.MAX_AT_ONCE)))


def long_packets(rogue: Rogue) -> None:
    for _ in range(600):
        rogue.media(bytes(60_000))


def numbers_with_gaps(rogue: Rogue) -> None:
    """Packets to the victim's own clients."""
    for _ in range(100):
        rogue.packet += 9000
        rogue.media(path=PATH[:2])


def control_to_answer(rogue: Rogue) -> None:
    probe = b"\x30" + HEAD[1:]
    for count in range(10_000):
        rogue.send(MTU, bytes(100))
        rogue.send(PROBE, probe + struct.pack(">I", count))


Flood = Callable[[Rogue], None]
# What is flooded, the buffers that must be full afterwards, and the share of their bound that "full" means.
FLOODS: list[tuple[Flood, dict[str, float]]] = [
    (many_flows, {"flows": 0.5}),  # of the two tables one is ours alone
    (many_paths, {"steps": 0.4}),
    (many_gaps, {"missing": 0.2}),  # one of two neighbours, one of two books
    (numbers_with_gaps, {"missing": 0.2}),
    (a_long_turn, {"waiting": 0.35}),  # packets alone, towards one neighbour of two
    (long_packets, {"waiting": 0.2}),
    (bare_without_heads, {"trains": 0.25}),
    (runs_without_heads, {"trains": 0.25}),
    (heads_without_bare, {"trains": 0.02}),
    (media_under_protection, {"sent": 0.9, "copies": 0.9}),
    (blocks_that_never_end, {"rebuilders": 0.9}),
    (reports_of_everybody, {}),
    (requests_for_all, {}),
    (control_to_answer, {"waiting": 0.15}),
]


@pytest.mark.parametrize(("flood", "full"), FLOODS, ids=[flood.__name__ for flood, _ in FLOODS])
def test_a_flood_stops_at_the_bound(flood: Flood, full: dict[str, float]) -> None:
    rogue = Rogue()
    rogue.media()
    rogue.onward.waiting.clear()
    tracemalloc.start()
    try:
        flood(rogue)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    buffers = rogue.victim.buffers()
    for name, buffer in buffers.items():
        for unit in ("bytes", "entries"):
            if unit in buffer:
                assert buffer[unit] <= buffer[f"most_{unit}"], (name, buffer)
    for name, share in full.items():
        fill = max(
            buffers[name].get(unit, 0) / buffers[name].get(f"most_{unit}", 1) for unit in ("bytes", "entries")
        )
        assert fill >= share, (name, buffers[name])
    assert held < 64 << 20, f"{held >> 20} MiB"
    assert rogue.victim.drops["forged"] == rogue.victim.drops["shape"] == 0, rogue.victim.drops


def test_every_buffer_names_a_bound_for_what_it_counts() -> None:
    rogue = Rogue()
    media_under_protection(rogue)
    blocks_that_never_end(rogue)
    buffers = rogue.victim.buffers()
    assert {"flows", "steps", "missing", "waiting", "trains", "sent", "copies", "blocks", "rebuilders",
            "mending", "segments_reported"} <= set(buffers)  # fmt: skip
    for name, buffer in buffers.items():
        counted = {unit for unit in ("bytes", "entries") if unit in buffer}
        assert counted, name
        assert all(buffer[f"most_{unit}"] > 0 for unit in counted), (name, buffer)


def test_what_is_not_used_is_freed() -> None:
    rogue = Rogue()
    media_under_protection(rogue)
    blocks_that_never_end(rogue)
    bare_without_heads(rogue)
    many_gaps(rogue)
    rogue.net.run(400)
    buffers = rogue.victim.buffers()
    left = {name: buffer.get("bytes", buffer.get("entries", 0)) for name, buffer in buffers.items()}
    for name in ("sent", "copies", "blocks", "rebuilders", "trains", "waiting", "missing", "flows"):
        assert left.get(name, 0) == 0, (name, buffers)
