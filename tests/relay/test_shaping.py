"""Statistics of the synthetic weather, each from a fixed seed."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest

from commcli.relay.shaping import MAX_QUEUE_S, Shaper

IP = "127.77.0.2"


def fates(
    rule: dict[str, object], count: int, spacing_s: float = 0.1, size: int = 1000, seed: int = 1
) -> list[float | None]:
    """How long each of `count` packets is held, None for lost."""
    shaper = Shaper({IP: rule}, seed)
    found = []
    for place in range(count):
        now = place * spacing_s
        release = shaper.release(IP, size, now)
        found.append(None if release is None else release - now)
    return found


def held(fate: list[float | None]) -> list[float]:
    return [seconds for seconds in fate if seconds is not None]


def loss_of(fate: list[float | None]) -> float:
    return fate.count(None) / len(fate)


def runs_of_loss(fate: list[float | None]) -> list[int]:
    return [len(list(group)) for lost, group in itertools.groupby(fate, lambda one: one is None) if lost]


def test_no_rule_holds_nothing() -> None:
    assert fates({}, 3) == [0.0, 0.0, 0.0]
    assert Shaper({}, 1).release("192.0.2.1", 100, 5.0) == 5.0
    assert Shaper({IP: {"loss": 1}}, 1).release("192.0.2.1", 100, 5.0) == 5.0


def test_a_plain_delay_is_exact() -> None:
    assert fates({"delay_ms": 100}, 50) == [pytest.approx(0.1)] * 50


def test_jitter_is_around_the_delay_and_within_its_bounds() -> None:
    times = held(fates({"delay_ms": 100, "jitter_ms": 20}, 20_000))
    assert 0.08 <= min(times) < 0.081
    assert 0.119 < max(times) <= 0.12
    assert statistics.fmean(times) == pytest.approx(0.1, abs=0.0005)
    assert statistics.pstdev(times) == pytest.approx(0.04 / 12**0.5, rel=0.02)  # uniform


def test_jitter_larger_than_the_delay_never_sends_into_the_past() -> None:
    assert min(held(fates({"delay_ms": 1, "jitter_ms": 20}, 1000))) == 0.0


def test_order_is_kept() -> None:
    shaper = Shaper({IP: {"delay_ms": 50, "jitter_ms": 20}}, 1)
    releases = [shaper.release(IP, 100, place * 0.001) or 0.0 for place in range(5000)]
    assert releases == sorted(releases)


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.5])
def test_independent_loss(loss: float) -> None:
    fate = fates({"loss": loss}, 100_000)
    assert loss_of(fate) == pytest.approx(loss, rel=0.05)
    assert statistics.fmean(runs_of_loss(fate)) == pytest.approx(1 / (1 - loss), rel=0.05)


@pytest.mark.parametrize(("loss", "burst"), [(0.01, 3), (0.05, 5), (0.2, 2.5)])
def test_bursty_loss_has_the_share_and_the_length(loss: float, burst: float) -> None:
    fate = fates({"loss": loss, "burst": burst}, 200_000)
    assert loss_of(fate) == pytest.approx(loss, rel=0.1)
    assert statistics.fmean(runs_of_loss(fate)) == pytest.approx(burst, rel=0.1)


def test_all_and_nothing() -> None:
    for burst in (1, 4):
        assert loss_of(fates({"loss": 1, "burst": burst}, 1000)) == 1
        assert loss_of(fates({"loss": 0, "burst": burst}, 1000)) == 0


def test_a_rate_spaces_packets_and_drops_what_would_wait_too_long() -> None:
    """1000 bytes at 800 kbit/s take 10 ms; twice as many come in as go out."""
    fate = fates({"rate_kbit": 800}, 2000, spacing_s=0.005)
    assert fate[:3] == [pytest.approx(0.010), pytest.approx(0.015), pytest.approx(0.020)]
    assert loss_of(fate[200:]) == pytest.approx(0.5, abs=0.01)
    assert max(held(fate)) == pytest.approx(MAX_QUEUE_S + 0.01, abs=0.005)


def test_a_rate_that_suffices_drops_nothing() -> None:
    fate = fates({"rate_kbit": 800, "delay_ms": 20}, 1000, spacing_s=0.01)
    assert fate == [pytest.approx(0.03)] * 1000


def test_the_seed_decides_and_links_are_independent() -> None:
    rule: dict[str, object] = {"loss": 0.3, "jitter_ms": 5}
    assert fates(rule, 100) == fates(rule, 100)
    assert fates(rule, 100) != fates(rule, 100, seed=2)
    one, both = Shaper({IP: rule}, 1), Shaper({IP: rule, "127.77.0.3": rule}, 1)
    for place in range(100):
        both.release("127.77.0.3", 100, place)
        assert both.release(IP, 100, place) == one.release(IP, 100, place)


@pytest.mark.parametrize(
    "rule",
    [
        {"delay": 5}, {"delay_ms": -1}, {"delay_ms": "5"}, {"delay_ms": True}, {"loss": 1.1}, {"loss": float("nan")},
        {"burst": 0.5}, {"rate_kbit": 0}, {"jitter_ms": None}, {"jitter_ms": 1e9},
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused_with_its_address(rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"link to 127\.77\.0\.2"):
        Shaper({IP: rule}, 1)


@pytest.mark.parametrize("rules", [[], "x", 5, None, {IP: []}, {IP: 5}, {IP: None}])
def test_what_is_no_rule_at_all_is_refused_too(rules: Any) -> None:
    with pytest.raises(ValueError, match="not an object"):
        Shaper(rules, seed=1)
