"""Retransmission: who asks for what and when, what is sent again, and how a request looks."""

from __future__ import annotations

import heapq
import random
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commcli.relay.protect.resend import MAX_AT_ONCE, Sent, Wanted, pack, unpack

FIRST = 1_767_225_600_000_000


@given(st.sets(st.integers(FIRST, FIRST + 5000), min_size=1, max_size=MAX_AT_ONCE))
@example({0})
@example({2**64 - 1})
@example({FIRST, FIRST + (32 << 16) - 1})
@example({FIRST + 32 * number for number in range(MAX_AT_ONCE)})
def test_a_request_comes_back_as_it_was(sequences: set[int]) -> None:
    body = pack(sequences)
    assert unpack(body) == sorted(sequences)
    assert len(body) < 1000


@pytest.mark.parametrize(
    "sequences", [[], [FIRST, FIRST + (32 << 16)], [2**64], [FIRST + 32 * number for number in range(161)]]
)
def test_what_does_not_go_into_one_request_is_refused(sequences: list[int]) -> None:
    with pytest.raises(ValueError):
        pack(sequences)


@given(st.binary(max_size=60) | st.binary(min_size=960, max_size=980))
@example(b"")
@example(bytes(8))
@example(bytes(14))
@example(b"\xff" * 8 + b"\0\0" + b"\xff" * 4)
@example(bytes(8) + b"\0\1\0\0\0\1\0\0\0\0\0\1")
def test_garbage_is_a_value_error_or_a_request(body: bytes) -> None:
    try:
        sequences = unpack(body)
    except ValueError:
        return
    assert pack(sequences) == body


def sent_with(count: int, size: int = 100, spacing_s: float = 0.01) -> Sent:
    sent = Sent()
    for number in range(count):
        sent.keep(FIRST + number, number.to_bytes(4, "big") + bytes(size), 10.0 + number * spacing_s)
    return sent


def test_what_was_sent_is_sent_again_and_what_was_not_is_not() -> None:
    sent = sent_with(10)
    repeats = sent.again([FIRST + 3, FIRST + 7, FIRST + 99], 10.1)
    assert [int.from_bytes(datagram[:4], "big") for datagram in repeats] == [3, 7]
    assert (sent.repeated, sent.unknown, sent.refused) == (2, 1, 0)


def test_not_too_soon_after_the_last_time_and_not_too_often() -> None:
    sent = sent_with(1)
    went = [len(sent.again([FIRST], 10.0 + ms / 1000)) for ms in (10, 12, 17, 19, 30, 40, 50, 60, 70)]
    assert went == [1, 0, 0, 1, 1, 1, 1, 0, 0]
    assert sent.repeated == Sent.MOST_TIMES and sent.refused == 4


def test_what_is_too_old_to_help_is_not_sent_again() -> None:
    sent = sent_with(200)
    assert sent.again([FIRST + 100], 12.0) == []
    assert len(sent.again([FIRST + 165, FIRST + 199], 12.0)) == 2


def test_after_a_pause_nothing_is_left() -> None:
    sent = sent_with(50)
    sent.forget(60.0)
    assert sent.figures()["datagrams"] == 0
    assert sent.again([FIRST + 49], 60.0) == []


def test_repeats_are_a_bounded_share_of_what_is_sent() -> None:
    sent = Sent()
    now, repeated, total = 10.0, 0, 0
    for number in range(5000):
        now += 0.001
        sent.keep(FIRST + number, bytes(1000), now)
        total += 1000
        greedy = range(FIRST + number - 100, FIRST + number + 1)
        repeated += sum(map(len, sent.again(greedy, now)))
    assert 0 < repeated < 0.8 * total


def test_a_quiet_segment_may_repeat_a_handful() -> None:
    sent = sent_with(5, size=1200)
    assert len(sent.again(range(FIRST, FIRST + 5), 10.05)) == 5


@given(st.lists(st.tuples(st.integers(0, 65000), st.floats(0, 0.2)), max_size=120))
def test_the_buffer_is_bounded(packets: list[tuple[int, float]]) -> None:
    sent = Sent(most_bytes=1 << 20)
    now = 5.0
    for number, (size, pause) in enumerate(packets):
        now += pause
        sent.keep(number, bytes(size), now)
        sent.again(range(number + 1), now)
        figures = sent.figures()
        assert figures["bytes"] <= figures["most_bytes"] == 1 << 20


def test_nothing_is_asked_for_before_it_had_time_to_come_by_itself() -> None:
    wanted = Wanted()
    missing = {FIRST: 1.0}
    assert wanted.due(missing, 1.0, 0.02) == []
    assert wanted.wish() == 1.0 + wanted.wait_s
    assert wanted.due(missing, 1.0 + wanted.wait_s, 0.02) == [FIRST]


def asked_at(wanted: Wanted, rtt_s: float | None, until: float = 1.5) -> list[float]:
    """The times in ms after it was noticed at which one missing datagram is asked for, driven by `wish` alone."""
    missing = {FIRST: 1.0}
    times = []
    at: float | None = 1.0
    while at is not None and at < until:
        if wanted.due(missing, at, rtt_s):
            times.append(round((at - 1.0) * 1000, 1))
        at = wanted.wish()
    return times


def test_asks_again_when_the_answer_is_overdue_while_there_is_budget() -> None:
    assert asked_at(Wanted(), 0.02) == [5.0, 35.0, 65.0, 95.0]
    assert asked_at(Wanted(), 0.04) == [5.0, 60.0, 80.0]


def test_asks_twice_at_once_where_only_one_round_fits() -> None:
    assert asked_at(Wanted(), 0.08) == [5.0, 25.0]
    assert asked_at(Wanted(), 0.1) == [5.0, 20.0]
    assert asked_at(Wanted(), 0.11) == [5.0]
    assert asked_at(Wanted(most_blind=0), 0.08) == [5.0]
    assert asked_at(Wanted(most_blind=2), 0.08) == [5.0, 22.5, 40.0]


def test_does_not_ask_for_what_would_come_too_late() -> None:
    assert asked_at(Wanted(), 0.2) == []
    assert asked_at(Wanted(budget_s=0.25), 0.2) == [5.0, 25.0]


def test_an_unmeasured_round_trip_is_taken_for_a_long_one() -> None:
    assert asked_at(Wanted(), None) == asked_at(Wanted(), Wanted.UNKNOWN_RTT_S)


def test_a_tiny_round_trip_does_not_ask_more_often_than_the_sender_answers() -> None:
    times = asked_at(Wanted(), 0.0005)
    assert len(times) == Wanted.MOST_TIMES
    assert all(after - before > 1000 * Sent.APART_S for before, after in pairwise(times))


def test_what_came_is_not_asked_for_again() -> None:
    wanted = Wanted()
    missing = {FIRST: 1.0, FIRST + 1: 1.0}
    assert wanted.due(missing, 1.01, 0.02) == [FIRST, FIRST + 1]
    del missing[FIRST]
    assert wanted.due(missing, 1.05, 0.02) == [FIRST + 1]
    missing.clear()
    assert wanted.due(missing, 1.1, 0.02) == [] and wanted.wish() is None


def test_the_wait_grows_with_reordering_and_shrinks_again() -> None:
    wanted = Wanted()
    now = 1.0
    for number in range(5):  # each comes 15 ms late by itself, long before an answer could
        for ms in range(15):
            wanted.due({FIRST + number: now}, now + ms / 1000, 0.08)
        wanted.due({}, now + 0.015, 0.08)
        now += 0.1
    assert 0.015 < wanted.wait_s <= Wanted.MOST_WAIT_S
    assert wanted.early == 1
    for number in range(200):
        missing = {FIRST + 10 + number: now}
        wanted.due(missing, now, 0.02)
        wanted.due(missing, now + wanted.wait_s, 0.02)
        wanted.due({}, now + wanted.wait_s + 0.02, 0.02)
        now += 0.1
    assert wanted.wait_s < 0.003


def test_after_a_long_outage_the_newest_come_first_and_few_at_once() -> None:
    wanted = Wanted()
    missing = {FIRST + number: 1.0 for number in range(8000)}
    asked = wanted.due(missing, 1.01, 0.02)
    assert asked == list(range(FIRST + 8000 - MAX_AT_ONCE, FIRST + 8000))
    assert unpack(pack(asked)) == asked
    total, now = len(asked), 1.01
    while now < 2.0:
        wish = wanted.wish()
        if wish is None:
            break
        assert wish > now - 0.001
        now = max(wish, now + 0.0001)
        total += len(wanted.due(missing, now, 0.02))
    assert total <= Wanted.MOST_TIMES * Wanted.MAX_ASKED
    figures = wanted.figures()
    assert figures["entries"] <= figures["most_entries"] == Wanted.MAX_ASKED


@given(st.data())
def test_whatever_goes_missing_fits_into_a_request(data: st.DataObject) -> None:
    source = data.draw(st.randoms(use_true_random=False))
    wanted, missing, now, highest = Wanted(), dict[int, float](), 1.0, FIRST
    for _ in range(25):
        now += source.random() * 0.03
        start, highest = highest + 1, highest + source.choice((1, 2, 40, 60_000))
        missing.update(dict.fromkeys(range(max(start, highest - source.randrange(1, 30)), highest), now))
        for sequence in source.sample(sorted(missing), len(missing) // 3):
            del missing[sequence]
        asked = wanted.due(missing, now, source.choice((0.01, 0.05, None)))
        assert set(asked) <= set(missing)
        if asked:
            assert unpack(pack(asked)) == asked
        assert len(wanted._asked) <= Wanted.MAX_ASKED


class _Weather:
    """Losses of a share and a mean run (Gilbert)."""

    def __init__(self, loss: float, burst: float, seed: int) -> None:
        self._random = random.Random(seed).random
        self._leave, self._is_bad = 1 / burst, False
        self._enter = self._leave * loss / (1 - loss)

    def strikes(self) -> bool:
        leave = self._leave if self._leave < 1 else 1 - self._enter
        self._is_bad = self._random() >= leave if self._is_bad else self._random() < self._enter
        return self._is_bad


class _Segment:
    """20 000 packets, 200 a second, over a segment that loses both ways, in virtual time."""

    PACKETS, SPACING_S = 20_000, 0.005

    def __init__(self, loss: float, burst: float, rtt_s: float, most_blind: int = 1) -> None:
        self.sent, self.wanted, self.rtt_s = Sent(), Wanted(), rtt_s
        self.wanted.most_blind = most_blind
        self.way, self.back = _Weather(loss, burst, 7), _Weather(loss, burst, 8)
        self.missing: dict[int, float] = {}
        self.highest, self.never = FIRST - 1, 0
        # (when, order, what, sequence or body)
        self.events: list[tuple[float, int, str, int | bytes]] = []

    def later(self, when: float, what: str, value: int | bytes) -> None:
        heapq.heappush(self.events, (when, len(self.events), what, value))

    def run(self) -> tuple[float, float]:
        """(residual loss, repeats a packet)."""
        for number in range(self.PACKETS):
            self.later(10 + number * self.SPACING_S, "send", FIRST + number)
        while self.events:
            now, _, what, value = heapq.heappop(self.events)
            if isinstance(value, bytes):
                for datagram in self.sent.again(unpack(value), now):
                    self.transmit(int.from_bytes(datagram[:8], "big"), now)
            elif what == "send":
                self.back.strikes()  # media of the other direction
                self.sent.keep(value, value.to_bytes(8, "big") + bytes(500), now)
                self.transmit(value, now)
            else:
                self.arrive(value, now)
        return self.never / self.PACKETS, self.sent.repeated / self.PACKETS

    def transmit(self, sequence: int, now: float) -> None:
        if not self.way.strikes():
            self.later(now + self.rtt_s / 2, "arrive", sequence)

    def arrive(self, sequence: int, now: float) -> None:
        """Also what is due by then: there is an arrival every few milliseconds."""
        self.missing.update(dict.fromkeys(range(self.highest + 1, sequence), now))
        self.highest = max(self.highest, sequence)
        self.missing.pop(sequence, None)
        for late in [s for s, noticed in self.missing.items() if now - noticed > Wanted.BUDGET_S + 0.01]:
            del self.missing[late]
            self.never += 1
        asked = self.wanted.due(self.missing, now, self.rtt_s)
        if asked and not self.back.strikes():
            self.later(now + self.rtt_s / 2, "request", pack(asked))


@pytest.mark.parametrize(
    ("loss", "burst", "rtt_s", "residual", "extra"),
    [
        (0.03, 1, 0.02, 0.0002, 0.04),
        (0.03, 1, 0.08, 0.001, 0.08),
        (0.1, 3, 0.02, 0.002, 0.2),
        (0.1, 3, 0.08, 0.01, 0.25),
    ],
)
def test_what_requests_alone_repair(
    loss: float, burst: float, rtt_s: float, residual: float, extra: float
) -> None:
    left, repeats = _Segment(loss, burst, rtt_s).run()
    print(loss, burst, rtt_s, left, repeats)
    assert left <= residual
    assert repeats <= extra
