"""Calls over overlays over bad segments, in simulated time: what is left of the loss, and what that costs.

Two seeds each, so that nothing is met by luck; tests/bench/protection.py has the whole table.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.relay.lossy_world import LossyWorld, Policer, Rule, Share, Stream
from tests.relay.overlay_world import Plan

ONE_HOP = Plan(["aa-1", "bb-1"], [("aa-1", "bb-1"), ("bb-1", "aa-1")])
TWO_WAYS = Plan(
    ["aa-1", "tt-1", "uu-1", "bb-1"],
    [("aa-1", "tt-1", "bb-1"), ("aa-1", "uu-1", "bb-1"), ("bb-1", "tt-1", "aa-1"), ("bb-1", "uu-1", "aa-1")],
)
SETTLE_S, LINGER_S = 10.0, 1.5
# Two minutes' worth of calls take seconds; a machine that runs eight of these suites takes longer.
SEEDS = [1, 2]
pytestmark = pytest.mark.parametrize("seed", SEEDS)


def lossy(loss: float, burst: float = 1.0, rtt_ms: float = 80) -> Rule:
    return {"delay_ms": rtt_ms / 2, "loss": loss, "burst": burst}


def measured(net: LossyWorld, streams: list[Stream], seconds: float) -> tuple[Share, float]:
    """What became of what is sent from now on for so long, and the share of protecting bytes."""
    began, before = net.now, net.bytes.copy()
    net.run(seconds)
    ended, spent = net.now, net.bytes - before
    net.run(LINGER_S)
    return net.share(streams, began, ended), added(spent)


def added(spent: Counter[tuple[str, str, str]]) -> float:
    """Bytes of parity, repeats, copies and requests for a byte of media."""
    of_kind: Counter[str] = Counter()
    for (_, _, kind), count in spent.items():
        of_kind[kind] += count
    return (of_kind["again"] + of_kind["parity"] + of_kind["nack"]) / of_kind["data"]


@pytest.mark.parametrize(
    ("loss", "burst", "residual", "overhead"), [(0.03, 1.0, 0.001, 0.15), (0.1, 3.0, 0.01, 1.0)]
)
def test_a_lossy_segment_loses_next_to_nothing(
    seed: int, loss: float, burst: float, residual: float, overhead: float
) -> None:
    net = LossyWorld(ONE_HOP, {}, lossy(loss, burst), seed)
    streams = net.call("aa-1", "bb-1")
    net.run(SETTLE_S)
    share, extra = measured(net, streams, 10.0)
    assert share.hit / share.sent > 0.7 * loss, "the segment did lose"
    assert share.residual <= residual
    assert extra <= overhead
    assert sum(stream.duplicates for stream in streams) == 0


def test_each_segment_of_a_path_mends_its_own(seed: int) -> None:
    net = LossyWorld(
        Plan(["aa-1", "tt-1", "bb-1"], [("aa-1", "tt-1", "bb-1"), ("bb-1", "tt-1", "aa-1")]),
        {},
        lossy(0.05, 2.0, rtt_ms=40),
        seed,
    )
    streams = net.call("aa-1", "bb-1")
    net.run(SETTLE_S)
    share, extra = measured(net, streams, 8.0)
    assert share.hit / share.sent > 0.07
    assert share.residual <= 0.001
    assert extra <= 0.3


def test_the_first_losses_of_a_segment_that_was_clean_are_mended(seed: int) -> None:
    net = LossyWorld(ONE_HOP, {}, lossy(0.0), seed)
    streams = net.call("aa-1", "bb-1")
    net.run(SETTLE_S)
    net.weather("aa-1", "bb-1", lossy(0.1, 3.0))
    share, _ = measured(net, streams, 1.0)
    assert share.hit / share.sent > 0.03
    assert share.residual <= 0.01


def test_a_segment_that_flaps_every_second_is_mended_too(seed: int) -> None:
    net = LossyWorld(ONE_HOP, {}, lossy(0.0), seed)
    streams = net.call("aa-1", "bb-1")
    began = net.now + SETTLE_S
    for second in range(20):
        net.weather("aa-1", "bb-1", lossy(0.3 if second % 2 else 0.0, 2.0, rtt_ms=40))
        net.run(1.0)
    ended = net.now
    net.run(LINGER_S)
    share = net.share(streams, began, ended)
    assert share.hit / share.sent > 0.1
    assert share.residual <= 0.01


def test_where_nothing_is_lost_nothing_is_added_however_it_jitters(seed: int) -> None:
    net = LossyWorld(ONE_HOP, {}, {"delay_ms": 40, "jitter_ms": 20}, seed)
    streams = net.call("aa-1", "bb-1")
    share, extra = measured(net, streams, 15.0)
    assert share.residual == 0
    assert extra <= 0.001


def test_congestion_is_not_answered_with_more_packets(seed: int) -> None:
    """A call of 1.3 Mbit/s over a segment of 1 Mbit/s, with a full queue: a quarter must be lost."""
    net = LossyWorld(ONE_HOP, {}, {"delay_ms": 40, "rate_kbit": 1000}, seed)
    streams = net.call("aa-1", "bb-1")
    net.run(SETTLE_S)
    share, extra = measured(net, streams, 10.0)
    assert 0.15 < share.residual < 0.35
    assert extra <= 0.03


def test_nor_is_a_rate_that_is_kept_without_a_queue(seed: int) -> None:
    """A call of 1.3 Mbit/s where all over 1.2 Mbit/s is dropped at once: a few seconds of error, then quiet."""
    net = LossyWorld(ONE_HOP, {}, {"delay_ms": 40}, seed)
    net.use("aa-1", "bb-1", Policer(40, 1200))
    streams = [stream for stream in net.call("aa-1", "bb-1") if stream.node == "aa-1"]
    net.run(SETTLE_S)
    share, extra = measured(net, streams, 15.0)
    assert share.residual < 0.2
    assert extra <= 0.03


def test_a_call_leaves_a_segment_that_is_congested(seed: int) -> None:
    narrow = {"delay_ms": 10, "rate_kbit": 1000}
    net = LossyWorld(TWO_WAYS, {("aa-1", "tt-1"): narrow}, {"delay_ms": 10}, seed)
    streams = net.call("aa-1", "bb-1")
    net.run(5.0)
    share, _ = measured(net, streams, 5.0)
    assert share.residual <= 0.001
    assert "congestion" in str(net.nodes["aa-1"].status()["paths"])


def test_a_call_leaves_a_segment_that_loses_more_than_can_be_mended(seed: int) -> None:
    net = LossyWorld(TWO_WAYS, {}, lossy(0.0, rtt_ms=20), seed)
    streams = net.call("aa-1", "bb-1")
    net.run(SETTLE_S)
    net.weather("tt-1", "bb-1", lossy(0.4, 4.0, rtt_ms=20))
    net.run(4.0)
    share, _ = measured(net, streams, 5.0)
    assert share.residual == 0
    assert share.hit == 0


def test_no_buffer_outgrows_its_bound(seed: int) -> None:
    net = LossyWorld(ONE_HOP, {}, lossy(0.2, 3.0), seed)
    net.call("aa-1", "bb-1", 4)
    for _ in range(8):
        net.run(1.0)
        for node in net.nodes.values():
            for name, figures in node.buffers().items():
                for unit in {"bytes", "entries"} & set(figures):
                    assert figures[unit] <= figures[f"most_{unit}"], name
