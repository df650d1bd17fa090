"""What asks for no repair meets what the network does; and what each segment met, told by its receiver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from commcli.relay.overlay import wire
from commcli.relay.overlay.arrivals import Arrivals
from commcli.relay.overlay.ledger import KEPT_S, MOST_KEPT, Ledger
from commcli.relay.protect.plan import Plan as Protection
from tests.relay.bad_days_world import DELAY_S, NODES, TALK, WAYS, BadWorld, BoundPlan, section
from tests.relay.lossy_world import LossyWorld
from tests.relay.overlay_world import UNIX_0, Plan

CHAIN = [["br-1", "us-1", "hk-1"], ["hk-1", "us-1", "br-1"]]
LOSSY = {"delay_ms": 10, "loss": 0.05}


def _lossy(rule: Mapping[str, object] = LOSSY, seed: int = 1) -> LossyWorld:
    """Losses between us-1 and hk-1, both ways."""
    rules = {("us-1", "hk-1"): rule, ("hk-1", "us-1"): rule}
    return LossyWorld(Plan(["br-1", "us-1", "hk-1"], CHAIN), rules, seed=seed)


def test_plain_media_loses_what_the_network_loses_and_others_beside_it_do_not() -> None:
    net = _lossy()
    net.run(1.0)
    plain, guarded = net.call("br-1", "hk-1", plain=True), net.call("br-1", "hk-1")
    net.run(20.0)
    until = net.now - 1.0
    bare, mended = net.share(plain, 103.0, until), net.share(guarded, 103.0, until)
    assert bare.lost == bare.hit and 0.04 < bare.residual < 0.06
    assert mended.hit > 0.04 * mended.sent and mended.residual < 0.002
    assert max(bare.added) < 0.005, "nothing waits for anything"


def test_plain_media_is_protected_by_nothing_whatever_the_segment_is_like() -> None:
    net = _lossy()
    sent: Counter[str] = Counter()

    def look(node: str, to: str, data: bytes, _lost: bool) -> None:
        kind, word = data[wire.HEADER_AT] & 15, data[wire.HEADER_AT + 1] >> 6
        if kind not in (wire.DATA, wire.AGAIN, wire.TRAIN, wire.BARE, wire.PARITY):
            return
        sent[f"{kind}/{word if kind != wire.BARE else 0}"] += 1

    net.watch = look
    net.run(1.0)
    net.call("br-1", "hk-1", plain=True)
    net.run(10.0)
    assert set(sent) == {f"{wire.DATA}/{wire.PLAIN}"}
    for node in net.nodes.values():
        for segment in node.routes.segments.values():
            assert segment.classes[wire.PLAIN].extra_bytes == 0


def test_plain_packets_ride_in_no_train() -> None:
    """A train loses all of its packets with its head, which no network does."""
    net = BadWorld(BoundPlan(NODES, WAYS), delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0)
    for node in net.nodes.values():
        for segment in node.routes.segments.values():
            for word in wire.PROTECTED:
                segment.use(word, Protection())
    net.forget()
    burst = [b"\x80" + bytes(1000) for _ in range(40)]
    ends = net.plan.relayed("ae-1"), net.plan.relayed("kr-1")
    kinds = []
    for plain in (False, True):
        net.passed.clear()
        net.nodes["ae-1"].send("kr-1", *ends, burst, net.now, net.unix, None, plain)
        net.flush("ae-1")
        net.settle()
        kinds.append({data[wire.HEADER_AT] & 15 for _, _, data in net.passed} - {wire.HELLO})
    assert kinds == [{wire.BARE, wire.TRAIN}, {wire.DATA}]
    assert len(net.delivered) == 80


@pytest.mark.parametrize(
    ("kind", "marks"), [(wire.PARITY, wire.PLAIN << 6), (wire.DATA, wire.PLAIN << 6 | wire.IN_BLOCK)]
)
def test_nobody_keeps_what_is_plain_to_rebuild_it(kind: int, marks: int) -> None:
    net = BadWorld(BoundPlan(NODES, WAYS), delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0, TALK)
    net.forget()
    peer = net.nodes["sg-1"].routes.segments["ae-1"].peer
    assert peer.arrivals is not None
    body = section(net, WAYS[0], 1 << 60) if kind == wire.DATA else bytes(40)
    message = wire.HEADER.pack(
        wire.kind_byte(kind), marks, len(body), peer.arrivals.highest + 1, int(net.unix * 1e6)
    )
    seal = net.nodes["ae-1"].routes.segments["sg-1"].peer._seal()
    seal.update(message + body)
    net.hand("sg-1", seal.digest() + message + body + b"media", net.plan.overlay("ae-1"))
    assert net.nodes["sg-1"].drops == {"shape": 1}
    assert "rebuilders" not in net.nodes["sg-1"].buffers()


def test_a_lossy_plain_call_alone_moves_no_path() -> None:
    """Whoever asks to see what the network does is not to be taken elsewhere because of what it does."""
    net = LossyWorld(
        Plan(["br-1", "us-1", "hk-1", "sg-1"], [["br-1", "us-1", "hk-1"], ["br-1", "sg-1", "hk-1"]]),
        {("br-1", "us-1"): {"delay_ms": 10, "loss": 0.25}},
    )
    net.run(3.0)
    net.call("br-1", "hk-1", plain=True)
    net.run(8.0)
    assert net.nodes["br-1"].routes.egresses["hk-1"].lane.path == ("br-1", "us-1", "hk-1")


# --- what a segment met ------------------------------------------------------------------------------------


def _row(net: Any, sender: str, receiver: str) -> dict[str, Any]:
    (row,) = [row for row in net.nodes[receiver].segments()["segments"] if row["from"] == sender]
    assert row["to"] == receiver
    return dict(row)


@pytest.mark.parametrize(
    ("loss", "burst", "plain"), [(0.0, 1, False), (0.05, 1, False), (0.1, 4, False), (0.1, 1, True)]
)
def test_a_segments_row_is_what_its_link_did(loss: float, burst: int, plain: bool) -> None:
    net = _lossy({"delay_ms": 10, "loss": loss, "burst": burst})
    put: list[tuple[float, int, bool]] = []  # of us-1 to hk-1: when, its own sequence or -1, is it lost

    def look(node: str, to: str, data: bytes, is_lost: bool) -> None:
        if (node, to) == ("us-1", "hk-1"):
            is_again = data[wire.HEADER_AT] & 15 == wire.AGAIN
            put.append((net.now, -1 if is_again else int.from_bytes(data[16:24], "big"), is_lost))

    net.watch = look
    net.run(1.0)
    net.call("br-1", "hk-1", video=False, plain=plain)
    net.run(4.0)
    net.weather("us-1", "hk-1", {"delay_ms": 10})
    net.run(2.0)  # the last of the lost are noticed, and asked for
    row = _row(net, "us-1", "hk-1")
    gone = [(sequence, is_lost) for at, sequence, is_lost in put if at <= net.now - 0.010001]
    came = [sequence for sequence, is_lost in gone if not is_lost and sequence > 0]
    lost = sum(is_lost for sequence, is_lost in gone if min(came) <= sequence <= max(came))
    again = [is_lost for sequence, is_lost in gone if sequence < 0]
    assert row["expected"] == max(came) - min(came) + 1
    assert row["lost"] == lost
    rebuilt = net.nodes["hk-1"].routes.segments["us-1"].repair.counts()["rebuilt"]
    assert row["repaired"] + row["duplicates"] == again.count(False) + rebuilt
    assert row["unrepaired"] == row["lost"] - row["repaired"] >= 0
    assert row["reordered"] == 0
    (sends,) = [row for row in net.nodes["us-1"].segments()["sends"] if row["to"] == "hk-1"]
    assert isinstance(sends["sent_again"], int) and sends["sent_again"] <= len(again)


def test_a_row_tells_delays_round_trip_and_since_when() -> None:
    net = BadWorld(
        BoundPlan(NODES, WAYS),
        delay_s=lambda a, b: 0.03 if (a, b) == ("ae-1", "sg-1") else 0.01,
        ahead_s={"sg-1": 0.005},
    )
    net.run(4.0, TALK)
    row = _row(net, "ae-1", "sg-1")
    assert row["delay_ms"] == {"p50": pytest.approx(35, abs=0.1), "p95": pytest.approx(35, abs=0.1)}
    assert row["rtt_ms"] == pytest.approx(40, abs=6)
    assert UNIX_0 + 100 <= row["started_unix"] <= UNIX_0 + 100.5
    assert row["sent_again"] is None
    assert set(row) == {
        "from", "to", "expected", "lost", "repaired", "unrepaired", "reordered", "duplicates", "sent_again",
        "delay_ms", "rtt_ms", "started_unix",
    }  # fmt: skip


def test_a_book_that_begins_again_says_so() -> None:
    net = BadWorld(BoundPlan(NODES, WAYS), delay_s=lambda _a, _b: DELAY_S)
    net.run(3.0, TALK)
    before = _row(net, "ae-1", "sg-1")
    net.begin_again("sg-1")
    assert net.nodes["sg-1"].segments()["segments"] == [], "nothing is known yet, which is not nothing lost"
    net.run(1.0, TALK)
    after = _row(net, "ae-1", "sg-1")
    assert after["started_unix"] > before["started_unix"] + 2 and after["expected"] < before["expected"]


def test_an_idle_segment_forgets_its_delays_and_a_busy_one_keeps_few() -> None:
    book, ledger = Arrivals(0), Ledger()
    assert ledger.row() is None
    for tick in range(100):
        book.samples.extend(range(1000 * tick, 1000 * tick + 500))
        ledger.look(book, 0.2 * tick, UNIX_0)
        book.samples.clear()
    kept = sum(len(delays) for _, delays in ledger._delays)
    assert kept <= MOST_KEPT * (KEPT_S / 0.2 + 1)
    row = ledger.row()
    assert row is not None
    assert row["delay_ms"] == {"p50": pytest.approx(74.5, abs=1.1), "p95": pytest.approx(97, abs=1.1)}
    ledger.look(book, 20 + KEPT_S, UNIX_0)
    row = ledger.row()
    assert row is not None and row["delay_ms"] is None
