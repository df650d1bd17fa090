"""Path MTU discovery with a fake clock, over a path of any width that also may lose, delay and change."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.overlay.mtu import (
    BASE_BYTES,
    CONFIRM_S,
    JUMBO_MTU,
    LONGEST_RETRY_S,
    MAX_PROBES,
    PROBE_TIMEOUT_S,
    RAISE_S,
    PathMtu,
)


@dataclass
class Path:
    """A neighbour behind a path that carries `most` bytes of UDP payload, answering after `rtt_s`."""

    mtu: PathMtu
    most: int
    rtt_s: float = 0.2
    loss: float = 0.0
    interface: int = 70_000  # what our own takes
    now: float = 1000.0
    busy: bool = True
    probes: list[int] = field(default_factory=list)
    answers: list[tuple[float, int]] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def run(self, seconds: float, step_s: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end:
            self._answer()
            size = self.mtu.due(self.now, self.busy)
            if size is not None:
                self._probe(size)
            assert self.mtu.wish(self.busy) > self.now or self.mtu.due(self.now, self.busy) is not None
            self.now += step_s

    def _answer(self) -> None:
        for due, size in [answer for answer in self.answers if answer[0] <= self.now]:
            self.answers.remove((due, size))
            self.mtu.confirmed(size, self.now)

    def _probe(self, size: int) -> None:
        self.probes.append(size)
        if size > self.interface:
            self.mtu.too_big(size, self.now)
            return
        self.mtu.sent(size, self.now)
        if size <= self.most and self.dice.random() >= self.loss:
            self.answers.append((self.now + self.rtt_s, size))


def test_nothing_is_made_up_longer_than_the_base_before_it_is_proven() -> None:
    path = Path(PathMtu(), most=1472)
    assert (path.mtu.bytes, path.mtu.phase) == (BASE_BYTES, "base")
    path.run(0.1)
    assert path.mtu.bytes == BASE_BYTES
    assert path.probes == [BASE_BYTES]


def test_ethernet_is_found_with_two_probes_in_two_round_trips() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(0.5)
    assert path.probes == [1200, 1472]
    assert path.mtu.figures() == {
        "bytes": 1472, "mtu": 1500, "phase": "complete", "probes": 2, "lost": 0, "black_holes": 0,
    }  # fmt: skip


WIDTHS = [(1200, 1200), (1251, 1200), (1252, 1252), (1392, 1392), (1440, 1432), (1464, 1464), (9000, 1472)]


@pytest.mark.parametrize(("most", "found"), WIDTHS)
def test_a_narrow_path_is_found_by_halves(most: int, found: int) -> None:
    path = Path(PathMtu(), most=most)
    path.run(60)
    assert (path.mtu.bytes, path.mtu.phase) == (found, "complete")
    assert len(path.probes) <= 20


def test_ipv6_has_longer_headers() -> None:
    path = Path(PathMtu(6), most=1452)
    path.run(60)
    assert path.mtu.figures()["mtu"] == 1500
    assert path.mtu.bytes == 1452


@pytest.mark.parametrize(("most", "mtu"), [(9000, 9000), (8500, 8500), (4100, 3900), (1473, 1500)])
def test_jumbo_is_tried_where_it_is_allowed(most: int, mtu: int) -> None:
    path = Path(PathMtu(4, JUMBO_MTU), most=most - 28 if most > 1500 else most)
    path.run(60)
    assert path.mtu.figures()["mtu"] == mtu
    assert path.probes[:3] == [1200, 1472, 8972]


def test_what_our_own_interface_refuses_is_tried_once() -> None:
    path = Path(PathMtu(), most=1472, interface=1392)
    path.run(2)
    assert path.mtu.bytes == 1392
    assert path.probes.count(1472) == 1


def test_a_lost_probe_is_tried_again_before_it_is_believed() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(0.3)
    path.answers.clear()
    path.run(PROBE_TIMEOUT_S + 1)
    assert path.mtu.bytes == 1472
    assert path.probes == [1200, 1472, 1472]


def test_a_neighbour_that_does_not_answer_costs_little_and_is_found_when_it_comes() -> None:
    path = Path(PathMtu(), most=0)
    path.run(3600, step_s=1.0)
    assert path.mtu.bytes == BASE_BYTES
    assert set(path.probes) == {BASE_BYTES}
    assert sum(path.probes) * 8 / 3600 < 500, "bits a second"
    path.most = 1472
    path.run(LONGEST_RETRY_S + 2)
    assert path.mtu.bytes == 1472


def test_an_idle_path_costs_a_probe_in_ten_minutes() -> None:
    path = Path(PathMtu(), most=1472, busy=False)
    path.run(1)
    path.probes.clear()
    path.run(6 * RAISE_S, step_s=1.0)
    assert 5 <= len(path.probes) <= 6


def test_a_busy_path_confirms_its_size() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(1)
    path.probes.clear()
    path.run(20 * CONFIRM_S)
    assert set(path.probes) == {1472}
    assert len(path.probes) in (19, 20)


def test_a_path_that_got_wider_is_found_out_within_ten_minutes() -> None:
    path = Path(PathMtu(), most=1392)
    path.run(60)
    assert path.mtu.bytes == 1392
    path.most = 1472
    path.run(RAISE_S - 70, step_s=1.0)
    assert path.mtu.bytes == 1392
    path.run(60)
    assert path.mtu.bytes == 1472


def test_a_busy_path_that_got_narrower_falls_to_the_base_and_searches_again() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(1)
    path.most = 1392
    path.run(CONFIRM_S + MAX_PROBES * PROBE_TIMEOUT_S)
    assert path.mtu.bytes == BASE_BYTES
    assert path.mtu.black_holes == 1
    path.run(30)
    assert path.mtu.bytes == 1392


def test_a_suspicion_falls_to_the_base_at_once_and_returns_when_it_was_wrong() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(1)
    path.mtu.suspicious(path.now)
    assert path.mtu.bytes == BASE_BYTES
    path.run(0.5)
    assert path.mtu.bytes == 1472
    assert path.mtu.black_holes == 0
    path.mtu.suspicious(path.now)
    assert path.mtu.bytes == 1472, "once in ten seconds"


def test_a_suspicion_that_was_right_finds_the_narrower_path() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(1)
    path.most = 1432
    path.mtu.suspicious(path.now)
    path.run(MAX_PROBES * PROBE_TIMEOUT_S + 1)
    assert (path.mtu.bytes, path.mtu.black_holes) == (BASE_BYTES, 1)
    path.run(30)
    assert path.mtu.bytes == 1432


def test_a_suspicion_in_the_middle_of_a_search_does_not_end_it() -> None:
    path = Path(PathMtu(), most=1472, rtt_s=0.3)
    path.run(0.5)
    assert path.mtu.phase == "searching"
    path.mtu.suspicious(path.now)
    path.run(2)
    assert path.mtu.bytes == 1472


def test_an_answer_from_before_the_black_hole_proves_nothing() -> None:
    path = Path(PathMtu(), most=1472)
    path.run(CONFIRM_S + 0.6)
    path.mtu.suspicious(path.now)
    assert not path.mtu.confirmed(1472, path.now)
    assert path.mtu.bytes == BASE_BYTES


def test_an_answer_later_than_the_timeout_is_as_good() -> None:
    path = Path(PathMtu(), most=1472, rtt_s=2.5 * PROBE_TIMEOUT_S)
    path.run(30)
    assert path.mtu.bytes == 1472


def test_nobody_is_believed_who_was_not_asked() -> None:
    mtu = PathMtu()
    assert not mtu.confirmed(1472, 1.0)
    assert not mtu.confirmed(65_000, 1.0)
    assert mtu.due(1.0) == BASE_BYTES
    mtu.sent(BASE_BYTES, 1.0)
    assert not mtu.confirmed(9000, 1.1)
    assert mtu.confirmed(BASE_BYTES, 1.1)
    assert not mtu.confirmed(BASE_BYTES, 1.2), "once"
    assert mtu.bytes == BASE_BYTES


def test_a_lossy_path_is_found_too_and_mostly_stays_found() -> None:
    path = Path(PathMtu(), most=1472, loss=0.2)
    path.run(3600)
    long = 0
    for _ in range(100):
        path.run(10)
        long += path.mtu.bytes == 1472
    assert long > 90


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(0, 1600), min_size=1, max_size=5),
    rtt_s=st.floats(0.01, 3.0),
    loss=st.floats(0.0, 0.4),
    seed=st.integers(0, 1 << 30),
)
def test_whatever_the_path_does_the_size_was_once_confirmed_or_is_the_base(
    widths: list[int], rtt_s: float, loss: float, seed: int
) -> None:
    path = Path(PathMtu(), most=1472, rtt_s=rtt_s, loss=loss, dice=random.Random(seed))
    for width in widths:
        path.most = width
        path.run(40)
        if path.dice.random() < 0.5:
            path.mtu.suspicious(path.now)
        assert path.mtu.bytes == BASE_BYTES or path.mtu.bytes in path.probes
    path.loss, path.most = 0.0, 1472
    path.run(RAISE_S + 120)
    assert path.mtu.bytes == 1472
