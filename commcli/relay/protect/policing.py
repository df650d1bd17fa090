"""Segments that drop what is over a rate and queue nothing (a policer): there, protection makes the loss it answers.

No delay tells of it, only that there is much loss where much is added, and that stays so wherever it began: more loss
calls for more parity. So where there is much of both, nothing is added for a moment. If loss shrinks by about as much
as it would if the rate were full, it was us: then nothing is added for a while, twice as long each time. If not, the
segment is that bad by itself, and for ten minutes nobody asks again, for the moment costs what protection is worth.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

SURE_SIGMAS = 3.0  # of what chance does to loss
SMOOTH_GAIN, SMOOTHED_S = 0.2, 2.0  # at five reports a second, of the last second each
TRIAL_S, SETTLED_S = 2.8, 1.4  # how long nothing is added, and from when on that shows
BACK_OFF_S, MOST_BACK_OFF_S = 30.0, 480.0


class _State(NamedTuple):
    """Smoothed: the loss, and the bytes that protect for a byte of media."""

    loss: float
    added: float


DOUBTFUL = _State(0.15, 0.3)  # so much that it may be ours
DOUBTS, DOUBT_EVERY_S = 8, 600.0  # reports, one after the other


class Policing:
    """One directed segment. Ask `forbids` before anything is added. added: for a byte of media, smoothed."""

    __slots__ = ("_back_off_s", "_doubts", "_loss", "_next_doubt", "_trial", "_trial_ends", "_until", "added")

    def __init__(self) -> None:
        self._loss: Optional[float] = None  # smoothed
        self.added = 0.0
        self._trial: Optional[_State] = None  # what was before it
        self._trial_ends = self._until = self._next_doubt = float("-inf")
        self._back_off_s = BACK_OFF_S
        self._doubts = 0

    def measured(self, loss: float, added: float, packets_per_s: float, burst: float, now: float) -> None:
        """Loss of the last second (0..1), and the bytes that protect for a byte of media, every 200 ms."""
        if self._loss is None or (self._trial is not None and now < self._trial_ends - TRIAL_S + SETTLED_S):
            self._loss, self.added = loss, added
        self._loss += SMOOTH_GAIN * (loss - self._loss)
        self.added += SMOOTH_GAIN * (added - self.added)
        here = _State(self._loss, self.added)
        scatter = math.sqrt(
            here.loss * (1 - here.loss) * (2 * burst - 1) / max(1.0, SMOOTHED_S * packets_per_s)
        )
        if self._trial is not None:
            if now >= self._trial_ends:
                self._judge(self._trial, here, scatter, now)
            return
        is_doubtful = here.loss - 2 * scatter >= DOUBTFUL.loss and here.added >= DOUBTFUL.added
        self._doubts = self._doubts + 1 if is_doubtful and now >= self._next_doubt else 0
        if self._doubts >= DOUBTS:
            self._trial, self._trial_ends, self._doubts = here, now + TRIAL_S, 0

    def forbids(self, now: float) -> Optional[str]:
        """Why nothing may be added now: "trial" or "policed"; None: it may."""
        if self._trial is not None:
            return "trial"
        return "policed" if now < self._until else None

    def _judge(self, before: _State, here: _State, scatter: float, now: float) -> None:
        self._trial = None
        if _is_ours(here, before, scatter):
            self._until = now + self._back_off_s
            self._back_off_s = min(MOST_BACK_OFF_S, 2 * self._back_off_s)
        else:
            self._next_doubt = now + DOUBT_EVERY_S
            self._back_off_s = BACK_OFF_S


def _is_ours(little: _State, much: _State, scatter: float) -> bool:
    """Whether loss is more with much added than with little, about as it would be if what passes were the same."""
    explained = 1 - (1 - little.loss) * (1 + little.added) / (1 + much.added) - little.loss
    return much.loss - little.loss >= max(explained / 3, SURE_SIGMAS * scatter)
