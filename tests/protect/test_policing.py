"""Who makes the loss: a segment that loses by itself, or one that drops what we add. The clock is the test's."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from commcli.relay.protect import policing
from commcli.relay.protect.policing import Policing

PACKETS_S = 250.0
Loss = Callable[[float], float]  # bytes sent for a byte of media -> share lost


class Sender:
    """Adds `added` for a byte of media, unless it is forbidden; what is lost is as the segment says, with chance."""

    def __init__(self, loss: Loss, burst: float = 1.0, seed: int = 1) -> None:
        self.loss, self.burst, self.now = loss, burst, 100.0
        self.policing, self._random = Policing(), random.Random(seed)
        self.forbidden_s = {"trial": 0.0, "policed": 0.0}
        self._window = [0.0] * 5  # the losses of the last second

    def run(self, seconds: float, added: float) -> None:
        for _ in range(round(seconds / 0.2)):
            self.now += 0.2
            why = self.policing.forbids(self.now)
            if why is not None:
                self.forbidden_s[why] += 0.2
            sent = 1 + (0.0 if why is not None else added)
            self._window = [*self._window[1:], self._scattered(self.loss(sent), sent)]
            loss_1s = sum(self._window) / 5
            self.policing.measured(loss_1s, sent - 1, sent * PACKETS_S, self.burst, self.now)

    def _scattered(self, loss: float, sent: float) -> float:
        scatter = math.sqrt(loss * (1 - loss) * (2 * self.burst - 1) / (0.2 * sent * PACKETS_S))
        return min(1.0, max(0.0, self._random.gauss(loss, scatter)))


def policer(passes: float, loss: float = 0.0) -> Loss:
    """A segment that lets so many bytes pass for a byte of media, and loses some of the rest by chance."""
    return lambda sent: 1 - (1 - loss) * min(1.0, passes / sent)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("passes", "loss"), [(1.0, 0.02), (0.9, 0.0), (0.9, 0.05), (0.7, 0.0), (1.2, 0.05)])
def test_a_policer_is_found_out_within_seconds(passes: float, loss: float, seed: int) -> None:
    sender = Sender(policer(passes, loss), seed=seed)
    sender.run(4.0, 0.0)
    sender.run(10.0, 0.8)
    assert sender.policing.forbids(sender.now) == "policed"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("loss", "burst"), [(0.03, 1.0), (0.1, 1.0), (0.1, 3.0), (0.12, 3.0)])
def test_loss_that_is_there_anyway_is_not_taken_for_ours(loss: float, burst: float, seed: int) -> None:
    sender = Sender(lambda _sent: loss, burst, seed)
    sender.run(4.0, 0.0)
    for added in (0.1, 0.4, 0.9, 0.3, 0.8):
        sender.run(12.0, added)
    assert sender.forbidden_s == {"trial": 0.0, "policed": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_a_segment_that_becomes_worse_by_itself_costs_one_trial(seed: int) -> None:
    losses = iter([*[0.01] * 30, *[0.25] * 1000])
    sender = Sender(lambda _sent: next(losses), 3.0, seed)
    sender.run(6.0, 0.0)
    sender.run(100.0, 0.9)
    assert 0 < sender.forbidden_s["trial"] <= policing.TRIAL_S + 0.3
    assert sender.forbidden_s["policed"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_segment_that_becomes_somewhat_worse_costs_none(seed: int) -> None:
    losses = iter([*[0.0] * 30, *[0.1] * 1000])
    sender = Sender(lambda _sent: next(losses), 3.0, seed)
    sender.run(6.0, 0.0)
    sender.run(100.0, 0.9)
    assert sender.forbidden_s == {"trial": 0.0, "policed": 0.0}


def test_much_loss_with_much_protection_is_doubted_once_in_ten_minutes() -> None:
    sender = Sender(lambda _sent: 0.25, 3.0)
    for _ in range(3):
        before = sender.forbidden_s["trial"]
        sender.run(500.0, 0.9)
        assert sender.forbidden_s["trial"] - before == pytest.approx(policing.TRIAL_S, abs=0.3)
        sender.run(100.0 + policing.TRIAL_S, 0.3)
    assert sender.forbidden_s["policed"] == 0


def test_nothing_is_added_for_longer_each_time() -> None:
    sender = Sender(policer(0.9))
    sender.run(4.0, 0.0)
    sender.run(60.0, 0.8)
    assert sender.forbidden_s["policed"] > policing.BACK_OFF_S
    sender.run(600.0, 0.8)
    assert sender.forbidden_s["policed"] > 0.85 * 660


@pytest.mark.parametrize("added", [0.0, 0.1, 0.2])
def test_where_little_is_added_nothing_is_asked(added: float) -> None:
    sender = Sender(policer(0.7))
    sender.run(60.0, added)
    assert sender.forbidden_s == {"trial": 0.0, "policed": 0.0}
