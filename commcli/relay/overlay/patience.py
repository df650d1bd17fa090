"""How often a neighbour must be heard, and how long a silence means that it is dead.

A false alarm is a run of losses that fills the whole silence. Losses as a two-state chain (Gilbert): with share
`loss` and mean run `burst`, runs of at least n begin rate * loss/burst * (1 - 1/burst)^(n-1) times a second, where
`rate` is what we expect to hear in datagrams a second. Independent loss is the chain with burst = 1/(1 - loss).
The n that happens once an hour, n = 1 + log(rate * loss/burst * 3600) / -log(1 - 1/burst), makes the silence
(n + 1/2) / rate: half an interval because the last hello of n races the deadline.

Hellos every 30 ms and 120 ms of silence leave room for three hellos and the jitter of the fourth (40 ms three times,
the usual multiplier, leaves room for two). False alarms an hour, in one direction of one segment, at 120 ms; what is
asked for instead where it is not enough:

    loss          nothing but hellos      audio, 50/s and control    audio and video, 250/s
    1 %           0.1                     4e-19                      0
    10 %          107 -> 20 ms, 120 ms    3e-7                       1e-30
    20 %          760 -> 10 ms, 120 ms    1e-3                       6e-20
    3 % in 3s     528 -> 10 ms, 216 ms    43  -> 10 ms, 135 ms       7e-3
    10 % in 3s    1760 -> 10 ms, 246 ms   143 -> 10 ms, 152 ms       0.03
    20 % in 3s    3520 -> 10 ms, 263 ms   286 -> 10 ms, 162 ms       0.05

So a neighbour whose segment loses in bursts and carries little is asked for more hellos (100 a second are 80 kbit/s),
and only then waited for longer. Where media is dense it is itself the hello.
"""

from __future__ import annotations

import math

FASTEST_S = 0.01
BUSY_S = 0.03
STANDBY_S = 1.0
PACES_S = (BUSY_S, 0.02, FASTEST_S)  # between neighbours with live flows
DETECT_S = 0.12
MULTIPLIER = 3
FALSE_ALARMS_A_S = 1 / 3600
LONGEST_S, LONGEST_INTERVALS = 0.4, 8  # more loss than this allows for is as good as death
# Ten seconds of weather count, and a hundred datagrams with one loss are imagined: nothing is known to be perfect.
MEMORY_S = 10.0
IMAGINED, IMAGINED_LOST = 100.0, 1.0
MAX_LOSS, MAX_BURST = 0.5, 20.0


class Weather:
    """Loss and mean run of losses of one directed segment, out of the counters of its `Arrivals`."""

    __slots__ = ("_at", "_before", "_expected", "_lost", "_runs")

    def __init__(self) -> None:
        self._before = (0, 0, 0)
        self._at = float("-inf")
        self._expected = self._lost = self._runs = 0.0

    def counted(self, expected: int, lost: int, runs: int, now: float) -> None:
        """The cumulative counters as they are now. A counter that went back began anew, or took a loss back."""
        keep = math.exp((self._at - now) / MEMORY_S)
        news = [new - old for new, old in zip((expected, lost, runs), self._before)]
        self._before, self._at = (expected, lost, runs), now
        if news[0] < 0 or keep == 0.0:
            news = [0, 0, 0]
        self._expected = keep * self._expected + news[0]
        self._lost = max(0.0, keep * self._lost + news[1])
        self._runs = max(0.0, keep * self._runs + news[2])

    @property
    def loss(self) -> float:
        """Share of the datagrams, 0..1, never quite 0."""
        return min(MAX_LOSS, (self._lost + IMAGINED_LOST) / (self._expected + IMAGINED))

    @property
    def burst(self) -> float:
        """Mean run of losses in datagrams, at least what independent losses have."""
        mean = (self._lost + IMAGINED_LOST) / (self._runs + IMAGINED_LOST)
        return max(1 / (1 - self.loss), min(MAX_BURST, mean))


def longest_run(rate: float, loss: float, burst: float) -> float:
    """The run of losses that happens once an hour, in datagrams. rate: datagrams a second; burst: > 1."""
    begins_a_s = rate * loss / burst
    if begins_a_s <= FALSE_ALARMS_A_S:
        return 1.0
    return 1 + math.log(FALSE_ALARMS_A_S / begins_a_s) / math.log(1 - 1 / burst)


def silence_s(interval_s: float, other_rate: float, loss: float, burst: float) -> float:
    """How long to wait for somebody who promises a hello every `interval_s` and sends other_rate/s besides."""
    rate = 1 / interval_s + other_rate
    needed_s = (longest_run(rate, loss, burst) + 0.5) / rate
    longest_s = max(LONGEST_S, LONGEST_INTERVALS * interval_s)
    return max(DETECT_S, MULTIPLIER * interval_s, min(needed_s, longest_s))


def pace_s(other_rate: float, loss: float, burst: float) -> float:
    """The slowest pace of hellos that needs no more than DETECT_S of silence; the fastest if none does."""
    for interval_s in PACES_S:
        if silence_s(interval_s, other_rate, loss, burst) <= DETECT_S:
            return interval_s
    return FASTEST_S
