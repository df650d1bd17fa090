"""Every counter of sequence numbers against a network that loses, repeats and reorders at once.

The mesh's counters have tests of their own (tests/relay/test_mesh_counters.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from commcli.probe.quality import count_sequence
from commcli.probe.stream import Packet, Received, Window, summarize
from commcli.relay.overlay.arrivals import Arrivals

START = 1_700_000_000.0
SPACING_S = 0.02


@dataclass(frozen=True)
class Network:
    """What came of packets 0..sent-1, in the order of arrival. The first and the last came once, in their places.

    Sequence numbers tell nothing of what was lost before the first or after the last that came.
    """

    sent: int
    order: tuple[int, ...]

    @property
    def lost(self) -> int:
        return self.sent - len(set(self.order))

    @property
    def duplicates(self) -> int:
        return len(self.order) - len(set(self.order))

    @property
    def reordered(self) -> int:
        """RFC 4737 s. 3.3, of each packet's first arrival."""
        highest, late, seen = -1, 0, set[int]()
        for number in self.order:
            late += number < highest and number not in seen
            highest = max(highest, number)
            seen.add(number)
        return late

    @property
    def bursts(self) -> list[int]:
        """The lengths of the runs of losses."""
        came = sorted(set(self.order))
        return [after - before - 1 for before, after in pairwise(came) if after - before > 1]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    sent = draw(st.integers(2, 120))
    fates = draw(st.lists(st.lists(st.floats(0, 15), max_size=3), min_size=sent, max_size=sent))
    arrivals = [(number + late, number) for number, copies in enumerate(fates) for late in copies]
    middle = [number for _, number in sorted(arrivals) if 0 < number < sent - 1]
    return Network(sent, (0, *middle, sent - 1))


@given(networks(), st.integers(0, 0xFFFF))
def test_rtp_sequences(network: Network, start: int) -> None:
    counted = count_sequence([(start + number) & 0xFFFF for number in network.order])
    assert (counted.expected, counted.lost) == (network.sent, network.lost)
    assert (counted.duplicates, counted.reordered) == (network.duplicates, network.reordered)
    assert (counted.bursts, counted.longest_burst) == (len(network.bursts), max(network.bursts, default=0))


@given(networks(), st.integers(0, 0xFFFF))
def test_the_report_of_a_medium(network: Network, start: int) -> None:
    received = Received("audio", 48000)
    received.primary += [
        Packet(START + place * SPACING_S, (start + number) & 0xFFFF, 960 * number, 100, None)
        for place, number in enumerate(network.order)
    ]
    summary = summarize(received, Window(START, START + len(network.order) * SPACING_S + 1))
    assert summary is not None
    assert (summary["expected"], summary["lost"]) == (network.sent, network.lost)
    assert summary["packets"] == network.sent - network.lost
    assert (summary["duplicates"], summary["reordered"]) == (network.duplicates, network.reordered)
    assert summary["longest_loss_burst"] == max(network.bursts, default=0)


@given(networks(), st.integers(0, 2**63))
def test_a_segment_of_the_overlay(network: Network, start: int) -> None:
    arrivals = Arrivals(start)
    taken = [arrivals.accept(start + number, 1.0) for number in network.order[1:]]
    assert (arrivals.expected, arrivals.lost) == (network.sent, network.lost)
    assert arrivals.duplicates == network.duplicates == taken.count(False)
    assert arrivals.reordered == network.reordered
