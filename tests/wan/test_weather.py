"""What a link does, by counts and by the times that it says: no clock, no socket."""

from __future__ import annotations

import math
from itertools import groupby, pairwise

import pytest

from tests.wan.weather import Link, Weather

# An audio packet each 20 ms.
SPACING_S = 0.02
PACKETS = 200_000


def arrivals(
    link: Link, packets: int, *, size_bytes: int = 200, spacing_s: float = SPACING_S
) -> list[float | None]:
    """Delay in ms of each packet, None where it was lost."""
    found: list[float | None] = []
    for number in range(packets):
        now = number * spacing_s
        at = link.arrival(size_bytes, False, now)
        found.append(None if at is None else 1000 * (at - now))
    return found


def three_sigma(loss: float, burst: float) -> float:
    """How far chance alone takes the loss of PACKETS from what was set."""
    return 3 * math.sqrt(loss * (1 - loss) * (2 * burst - 1) / PACKETS)


def runs(of: list[float | None]) -> list[int]:
    """Lengths of the runs of lost packets."""
    return [len(list(run)) for is_lost, run in groupby(of, lambda delay: delay is None) if is_lost]


def test_a_link_as_it_stands_is_a_perfect_wire() -> None:
    link = Link(Weather(), "seed")
    assert set(arrivals(link, 1000)) == {0.0}
    assert (link.counts.packets, link.counts.octets, link.counts.lost) == (1000, 200_000, 0)


def test_every_packet_takes_the_delay() -> None:
    delays = arrivals(Link(Weather(delay_ms=40), "seed"), 1000)
    assert all(delay == pytest.approx(40) for delay in delays)


def test_jitter_is_even_around_the_delay_and_keeps_the_order() -> None:
    delays = [delay for delay in arrivals(Link(Weather(delay_ms=40, jitter_ms=8), "seed"), 5000) if delay]
    assert 32 <= min(delays) < 32.1 and 47.9 < max(delays) <= 48
    assert sum(delays) / len(delays) == pytest.approx(40, abs=0.3)
    link = Link(Weather(delay_ms=40, jitter_ms=8), "seed")
    dense = [link.arrival(200, False, number / 1000) or 0.0 for number in range(5000)]
    assert all(one <= other for one, other in pairwise(dense))


@pytest.mark.parametrize("loss", [0.01, 0.03, 0.05, 0.1, 0.2])
def test_independent_loss_is_what_was_set(loss: float) -> None:
    link = Link(Weather(loss=loss), "seed")
    lengths = runs(arrivals(link, PACKETS))
    assert link.counts.loss == pytest.approx(loss, abs=three_sigma(loss, 1))
    assert sum(lengths) / len(lengths) == pytest.approx(1 / (1 - loss), rel=0.03)


@pytest.mark.parametrize("loss", [0.01, 0.03, 0.05, 0.1, 0.2])
def test_bursts_are_as_long_and_loss_as_much_as_was_set(loss: float) -> None:
    link = Link(Weather(loss=loss, burst=3), "seed")
    lengths = runs(arrivals(link, PACKETS))
    assert link.counts.loss == pytest.approx(loss, abs=three_sigma(loss, 3))
    assert sum(lengths) / len(lengths) == pytest.approx(3, rel=0.1)


def test_all_and_nothing() -> None:
    assert arrivals(Link(Weather(loss=1), "seed"), 1000) == [None] * 1000
    assert arrivals(Link(Weather(loss=1, burst=3), "seed"), 1000) == [None] * 1000
    assert None not in arrivals(Link(Weather(loss=0, burst=3), "seed"), 1000)


def test_the_seed_says_which_packets_are_lost_whatever_else_is_set() -> None:
    def lost(weather: Weather, seed: str) -> list[bool]:
        return [delay is None for delay in arrivals(Link(weather, seed), 2000)]

    plain = lost(Weather(loss=0.1, burst=2), "one")
    assert plain == lost(Weather(loss=0.1, burst=2, delay_ms=100, jitter_ms=5), "one")
    assert plain != lost(Weather(loss=0.1, burst=2), "other")


def test_a_rate_makes_packets_wait_for_each_other() -> None:
    # 1000 bytes at 800 kbit/s take 10 ms.
    delays = arrivals(Link(Weather(delay_ms=5, rate_kbit=800), "seed"), 10, size_bytes=1000, spacing_s=0)
    assert delays == [pytest.approx(5 + 10 * number) for number in range(1, 11)]


def test_a_full_queue_drops_and_recovers() -> None:
    link = Link(Weather(rate_kbit=800, queue_ms=50), "seed")
    delays = arrivals(link, 20, size_bytes=1000, spacing_s=0)
    assert delays.count(None) == link.counts.queue_full == 14
    assert max(delay for delay in delays if delay) == pytest.approx(60)
    assert link.arrival(1000, False, 0.06) == pytest.approx(0.07)


def test_what_the_rate_lets_through_is_the_rate() -> None:
    link = Link(Weather(rate_kbit=800), "seed")
    delays = arrivals(link, 2000, size_bytes=1000, spacing_s=0.005)
    arrived = len(delays) - delays.count(None)
    assert arrived == pytest.approx(800_000 * (2000 * 0.005 + 0.2) / 8000, abs=2)


def test_too_big_a_packet_disappears_unless_it_may_be_cut() -> None:
    link = Link(Weather(mtu=1400), "seed")
    assert link.arrival(1400, False, 1.0) == 1.0
    assert link.arrival(1401, False, 1.0) is None
    assert link.arrival(1401, True, 1.0) == 1.0
    assert (link.counts.too_big, link.counts.lost) == (1, 0)


def test_weather_changes_and_a_shorter_route_overtakes() -> None:
    link = Link(Weather(delay_ms=500), "seed")
    assert link.arrival(100, False, 1.0) == pytest.approx(1.5)
    link.change(Weather(delay_ms=20))
    assert link.arrival(100, False, 1.0) == pytest.approx(1.02)
    link.change(Weather(loss=1))
    assert link.arrival(100, False, 1.1) is None
    assert link.counts.packets == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", 1.1),
        ("loss", -0.1),
        ("loss", math.nan),
        ("delay_ms", -1),
        ("burst", 0.5),
        ("rate_kbit", 0),
        ("mtu", 9),
    ],
)
def test_what_no_link_can_do_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Weather(**{name: value})  # type: ignore[arg-type]


def test_bursts_too_short_for_their_loss_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.8 of the packets can not be lost in bursts of 2"):
        Weather(loss=0.8, burst=2)
