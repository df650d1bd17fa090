"""Every counter of a window against the truth: what the network of the test did, counted by looking at all of it."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.mesh import stamp
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import MEMORY, Reflector
from commcli.relay.mesh.session import GRACE_S
from tests.relay.mesh_world import HERE, KEYS, SENDER, THERE, UNIX_0, UNKNOWN, A, B, Fate, Pair, lose, peers

DWELL_S = 0.001  # of the reflector in `Pair`
seeds = st.integers(0, 1 << 30)


@dataclass
class Watched(Pair):
    """A pair without keys, whose packets are read on their way: what the counters should say comes of this."""

    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.heard: list[int] = []  # sequences, as they come to the reflector
        self.came: list[tuple[float, int, int]] = []  # when, sequence and number of answers, as they come
        self.sent_at: dict[int, float] = {}
        self.replied: Counter[int] = Counter()

    def _fly(self, direction: str, data: bytes) -> None:
        if direction == "forward":
            self.sent_at[_word(data, 0)] = self.now
        else:
            self.replied[_word(data, 24)] += 1
        super()._fly(direction, data)

    def _land(self, direction: str, data: bytes) -> None:
        if direction == "forward":
            self.heard.append(_word(data, 0))
        else:
            self.came.append((self.now, _word(data, 24), _word(data, 0)))
        super()._land(direction, data)

    def truth(self) -> Truth:
        """Of the packets in closed windows."""
        sent = sum(window["sent"] for window in self.windows)
        in_time = [row for row in self.came if row[0] - self.sent_at[row[1]] <= GRACE_S]
        first = {
            sequence: (place, number) for place, (_, sequence, number) in reversed(list(enumerate(in_time)))
        }
        heard = {sequence: place for place, sequence in reversed(list(enumerate(self.heard)))}
        closed = range(sent)
        return Truth(
            sent,
            received=sum(sequence in first for sequence in closed),
            lost_fwd=[sequence for sequence in closed if sequence not in heard],
            lost_back=[sequence for sequence in closed if sequence in heard and sequence not in first],
            duplicates=sum(sequence < sent for _, sequence, _ in in_time)
            - sum(sequence in first for sequence in closed),
            reordered_fwd=sum(
                any(heard[other] < heard[sequence] for other in first if other > sequence)
                for sequence in closed
                if sequence in first
            ),
            reordered_back=sum(
                any(
                    place < first[sequence][0] and number > first[sequence][1] for place, number in first.values()
                )
                for sequence in closed
                if sequence in first
            ),
        )  # fmt: skip


def _word(data: bytes, at: int) -> int:
    found: int = struct.unpack_from(">I", data, at)[0]
    return found


@dataclass(frozen=True)
class Truth:
    """What became of the packets of all closed windows together."""

    sent: int
    received: int
    lost_fwd: list[int]
    lost_back: list[int]
    duplicates: int
    reordered_fwd: int
    reordered_back: int


def total(pair: Pair, key: str) -> Any:
    return sum(window[key] for window in pair.windows)


@dataclass
class Weather:
    """The fates of a direction from a seed: some are lost, some come twice, some later than what was sent after them.

    Nothing is lost of the last seconds, since the direction of such a loss is not known yet when a window is closed.
    """

    chance: random.Random
    loss: float
    copies: float
    late: float
    until: int = 170

    def __call__(self, place: int) -> list[float]:
        if place <= self.until and self.chance.random() < self.loss:
            return []
        count = 1 + (self.chance.random() < self.copies)
        return [
            0.05 + (self.chance.uniform(0.0, 0.9) if self.chance.random() < self.late else 0.0)
            for _ in range(count)
        ]


shares = st.sampled_from([0.0, 0.02, 0.2])


@settings(max_examples=30, deadline=None)
@given(
    seeds, shares, shares, shares, shares, st.sampled_from([0.0, 0.1, 0.9]), st.sampled_from([0.0, 0.1, 0.9])
)
def test_counters_are_what_the_network_did(
    seed: int, loss: float, loss_back: float, copies: float, copies_back: float, late: float, late_back: float
) -> None:
    chance = random.Random(seed)
    forward, back = Weather(chance, loss, copies, late), Weather(chance, loss_back, copies_back, late_back)
    pair = Watched(forward, back, tick_s=0.1)
    pair.run(63)
    truth = pair.truth()
    assert (total(pair, "sent"), total(pair, "received")) == (truth.sent, truth.received)
    assert total(pair, "duplicates") == truth.duplicates
    assert total(pair, "reordered_fwd") == truth.reordered_fwd
    assert total(pair, "reordered_back") == truth.reordered_back
    assert total(pair, "reordered") == truth.reordered_fwd + truth.reordered_back
    # Where nearly every packet overtakes others, an answer that is lost may be taken for that of a packet still on its
    # way when the window is closed.
    blur = 3 if max(late, late_back) > 0.5 else 0.01
    if all(window["loss_fwd"] is not None for window in pair.windows):
        lost_fwd = sum(window["loss_fwd"] * window["sent"] for window in pair.windows)
        assert lost_fwd == pytest.approx(len(truth.lost_fwd), abs=blur)
        lost_back = sum(
            window["loss_back"] * round(window["sent"] * (1 - window["loss_fwd"])) for window in pair.windows
        )
        assert lost_back == pytest.approx(len(truth.lost_back), abs=blur)
    assert truth.sent - truth.received == len(truth.lost_fwd) + len(truth.lost_back)


def runs(lost: set[int], first: int, count: int) -> list[int]:
    """Lengths of the runs of loss among `count` packets."""
    marks = [number in lost for number in range(first, first + count)]
    return [len(list(run)) for is_lost, run in groupby(marks) if is_lost]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 180), max_size=60), st.sampled_from(["forward", "back"]))
def test_bursts_are_the_runs_of_loss(lost: set[int], direction: str) -> None:
    """Where only one direction loses: of losses in both at once, which of a row was which nobody can tell."""
    pair = Pair(lose(*lost)) if direction == "forward" else Pair(back=lose(*lost))
    for place, window in enumerate(pair.run(45).windows):
        if window["loss_fwd"] is None:
            continue  # the last packets of the window and all after it are lost
        found = runs(lost, 50 * place, 50)
        forward, back = (found, []) if direction == "forward" else ([], found)
        assert (window["bursts_fwd"], window["longest_burst_fwd"]) == (len(forward), max(forward, default=0))
        if sum(forward) == window["sent"]:
            assert (
                window["bursts_back"] is window["longest_burst_back"] is None
            )  # nothing came to be answered
        else:
            assert (window["bursts_back"], window["longest_burst_back"]) == (len(back), max(back, default=0))


def nearest_rank(values: list[float], percent: int) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-500.0, 500.0))
def test_delays_and_their_variation_are_the_networks(seed: int, skew_s: float) -> None:
    chance = random.Random(seed)
    taken: dict[str, list[float]] = {"forward": [], "back": []}

    def fate(direction: str) -> Fate:
        def decide(_place: int) -> list[float]:
            delay_s = chance.uniform(0.01, 0.1)
            taken[direction].append(delay_s)
            return [delay_s]

        return decide

    clocks = stamp.ErrorEstimate(True, 0.002), stamp.ErrorEstimate(True, 0.003)
    pair = Pair(fate("forward"), fate("back"), skew_s=skew_s, clocks=clocks)
    (window,) = pair.run(12.5).windows
    for way, direction, off_s in (("fwd", "forward", skew_s), ("back", "back", -skew_s - DWELL_S)):
        delays = taken[direction][:50]
        for percent in (50, 95, 99):
            variation_ms = 1000 * (nearest_rank(delays, percent) - min(delays))
            assert window[f"pdv_{way}_ms"][f"p{percent}"] == pytest.approx(variation_ms, abs=0.002)
            delay_ms = 1000 * (nearest_rank(delays, percent) + off_s)
            assert window[f"delay_{way}_ms"][f"p{percent}"] == pytest.approx(delay_ms, abs=0.002)
        assert window[f"delay_{way}_ms"]["min"] == pytest.approx(1000 * (min(delays) + off_s), abs=0.002)
    assert window["clock_error_ms"] == pytest.approx(5.0, rel=0.02)


KNOWN, LOST = stamp.ErrorEstimate(True, 0.002), stamp.ErrorEstimate(False, 0.002)


@pytest.mark.parametrize("clocks", [(KNOWN, LOST), (LOST, KNOWN), (KNOWN, stamp.UNKNOWN_CLOCK)])
def test_no_delay_is_told_by_a_clock_that_is_not_synchronised(
    clocks: tuple[stamp.ErrorEstimate, stamp.ErrorEstimate],
) -> None:
    (window,) = Pair(clocks=clocks).run(12.5).windows
    assert window["delay_fwd_ms"] is window["delay_back_ms"] is window["clock_error_ms"] is None
    assert window["pdv_fwd_ms"] == {"p50": 0, "p95": 0, "p99": 0}


def test_the_error_is_the_largest_while_the_window_was_open() -> None:
    pair = Pair(clocks=(KNOWN, KNOWN)).run(4)
    pair.mesh.set_clock(stamp.ErrorEstimate(True, 0.01))
    pair.reflector.set_clock(stamp.ErrorEstimate(True, 0.02))
    pair.run(4)
    pair.mesh.set_clock(KNOWN)
    (window,) = pair.run(4.5).windows
    assert window["clock_error_ms"] == pytest.approx(30.0, rel=0.02)


def test_an_empty_window_has_no_figures() -> None:
    (window,) = Pair(lambda _place: [], clocks=(KNOWN, KNOWN)).run(12.5).windows
    unmeasured = {key for key, value in window.items() if value is None}
    assert unmeasured == {
        "rtt_ms", "loss_fwd", "loss_back", "bursts_fwd", "bursts_back", "longest_burst_fwd", "longest_burst_back",
        "jitter_fwd_ms", "jitter_back_ms", "pdv_fwd_ms", "pdv_back_ms", "delay_fwd_ms", "delay_back_ms",
        "clock_error_ms",
    }  # fmt: skip
    assert (window["loss"], window["reordered"], window["duplicates"]) == (1.0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, MEMORY + 40), max_size=400))
def test_the_reflector_numbers_first_arrivals_in_their_order(sequences: list[int]) -> None:
    """Whatever comes, in whatever order: a number each, none twice, a repeated packet the one it had."""
    mesh, reflector = Mesh(A, bytes), Reflector(B)
    mesh.set_peers(peers((B, THERE), keys=KEYS))
    reflector.set_peers(peers((A, HERE), keys=KEYS))
    seal = stamp.Seal(stamp.session_key(bytes.fromhex(KEYS[0]), A, reply=False))
    answers = stamp.Seal(stamp.session_key(bytes.fromhex(KEYS[0]), A, reply=True))
    numbers: dict[int, int] = {}
    highest = -1
    for sequence in sequences:
        sent = stamp.to_timestamp(UNIX_0 + sequence)
        data = stamp.pack_request(sequence, sent, UNKNOWN, seal)
        reply = reflector.receive(data, SENDER, UNIX_0, UNIX_0)
        if reply is None:
            assert sequence <= highest - MEMORY
            continue
        highest = max(highest, sequence)
        read = stamp.unpack_reply(reply, answers)
        assert read is not None
        assert read.sequence == numbers.setdefault(sequence, len(numbers))
