"""Real relays, real TURN clients, segments that lose packets: what the overlay's protection leaves of the loss."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from tests.wan import load
from tests.wan.load import Call
from tests.wan.media import AUDIO, VIDEO
from tests.wan.relays import Relays, both_ways
from tests.wan.wan import wan_or_skip
from tests.wan.weather import Counts, Weather

RELAYS = {"ae-1": "10.77.0.1", "kr-1": "10.77.0.2", "br-1": "10.77.0.3", "cn-1": "10.77.0.4"}
PLACES = {f"client-{node}": address.replace("10.77.0", "10.77.1") for node, address in RELAYS.items()}
SEGMENTS = {
    ("ae-1", "kr-1"): Weather(delay_ms=20, loss=0.05),
    ("br-1", "cn-1"): Weather(delay_ms=20, loss=0.1, burst=3),
}
# Time for the relays to see what the segments do, and to answer it.
SETTLE_S, CALL_S = 4.0, 5.0


def test_calls_lose_far_less_than_the_segments_that_they_cross(tmp_path: Path) -> None:
    """Two calls at once: one over independent losses, one over bursts; neither has another path."""
    with ExitStack() as stack:
        wan = stack.enter_context(wan_or_skip(RELAYS | PLACES, SEGMENTS))
        relays = stack.enter_context(Relays(wan, tmp_path, list(RELAYS)))
        relays.publish(both_ways(["ae-1", "kr-1"]) | both_ways(["br-1", "cn-1"]))
        relays.wait_until_paths_answer()
        calls = {
            pair: stack.enter_context(closing(load.connect(relays, *((f"client-{node}", node) for node in pair))))
            for pair in SEGMENTS
        }  # fmt: skip
        load.run(list(calls.values()), SETTLE_S)
        for call in calls.values():
            call.reset()
        load.run(list(calls.values()), CALL_S)
        links = wan.figures().links
    for pair, call in calls.items():
        _judge(call, SEGMENTS[pair], links[pair])


def _judge(call: Call, segment: Weather, counts: Counts) -> None:
    tallies = [*call.tallies(AUDIO), *call.tallies(VIDEO)]
    lost, sent = (sum(of) for of in zip(*((t.sent - len(t.arrived), t.sent) for t in tallies), strict=True))
    assert counts.loss is not None and counts.loss > segment.loss / 2, "the segment did lose"
    # On a busy machine repairs come late; without any it would be twice as much.
    assert lost < sent * segment.loss / 2
    assert sum(tally.damaged for tally in tallies) == 0
    # What the repair brings twice, the egress delivers once.
    assert sum(tally.duplicates for tally in tallies) == 0
