"""The lab's bad weather: delay, jitter, loss and rate per destination, from a seed. Never on in production.

All of it is synthetic. Delay and its jitter are per packet and independent; the order within a link is kept, so
that where packets follow each other faster than the jitter, the jitter shows as waiting and not as reordering.
"""

from __future__ import annotations

import math
import random
from typing import Dict, Mapping, Optional

# A link with a rate drops what would wait longer than this ("queue_ms"), as a full router queue does.
MAX_QUEUE_S = 0.25

_WORDS = {
    "delay_ms": 0.0, "jitter_ms": 0.0, "loss": 0.0, "burst": 1.0, "rate_kbit": None, "queue_ms": 1000 * MAX_QUEUE_S,
    "memory_ms": None,
}  # fmt: skip


class Link:
    """One directed link. loss: share of packets, 0..1. burst: mean length of a run of losses, 1 = independent.

    memory_ms: after a silence of this length a run of losses is over; None: it goes on whatever the time between.
    """

    def __init__(self, rule: Mapping[str, object], random_source: random.Random) -> None:
        """rule: {"delay_ms", "jitter_ms", "loss", "burst", "rate_kbit", "queue_ms", "memory_ms"}, all optional.

        Raises ValueError.
        """
        unknown = set(rule) - set(_WORDS)
        if unknown:
            raise ValueError("unknown word %s" % ", ".join(sorted(unknown)))
        self._random = random_source.random
        self._delay_s = _number(rule, "delay_ms", 0, 60_000) / 1000
        self._jitter_s = _number(rule, "jitter_ms", 0, 60_000) / 1000
        self._loss = _number(rule, "loss", 0, 1)
        self._burst = _number(rule, "burst", 1, 1000)
        rate = rule.get("rate_kbit")
        self._queue_s = _number(rule, "queue_ms", 0, 60_000) / 1000
        self._bits_per_s = None if rate is None else _number(rule, "rate_kbit", 1, 1e9) * 1000
        memory = rule.get("memory_ms")
        self._memory_s = math.inf if memory is None else _number(rule, "memory_ms", 0, 60_000) / 1000
        self._is_bad = self._random() < self._loss
        self._last_at = math.inf
        self._free_at = -math.inf  # when the last packet has left a link with a rate
        self._last_release = -math.inf

    def release(self, size_bytes: int, now: float, *, reliable: bool = False) -> Optional[float]:
        """When a packet handed in now comes out (monotonic seconds), None if it is lost.

        `reliable`: its sender notices the loss after a round trip and sends it again, and what follows waits for it
        (TCP). What does not fit the queue is lost all the same.
        """
        again_s = 0.0
        if self._is_lost(now):
            if not reliable:
                return None
            again_s = 2 * self._delay_s
        ready = now
        if self._bits_per_s is not None:
            ready = max(now, self._free_at)
            if ready - now > self._queue_s:
                return None
            ready += size_bytes * 8 / self._bits_per_s
            self._free_at = ready
        delay_s = self._delay_s + again_s
        if self._jitter_s:
            delay_s += self._jitter_s * (2 * self._random() - 1)
        self._last_release = max(self._last_release, ready + max(0.0, delay_s))
        return self._last_release

    def _is_lost(self, now: float) -> bool:
        silence_s, self._last_at = now - self._last_at, now
        if silence_s > self._memory_s:
            self._is_bad = self._random() < self._loss
            return self._is_bad
        if self._burst <= 1 or self._loss in (0.0, 1.0):
            return self._random() < self._loss
        # Gilbert-Elliott with nothing lost in the good state and all in the bad: leave the bad state with
        # probability 1/burst, and enter it as often as makes its share of packets `loss`.
        leave = 1 / self._burst
        enter = leave * self._loss / (1 - self._loss)
        self._is_bad = self._random() >= leave if self._is_bad else self._random() < enter
        return self._is_bad


def _number(rule: Mapping[str, object], word: str, low: float, high: float) -> float:
    value = rule.get(word, _WORDS[word])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError("%s is not a number from %g to %g: %r" % (word, low, high, value))
    return float(value)


class Shaper:
    """Links by destination address; a destination without a rule is not shaped."""

    def __init__(self, rules: Mapping[str, Mapping[str, object]], seed: int) -> None:
        """rules: {ip: rule of a Link}, as read from a file. Raises ValueError naming the address."""
        if not isinstance(rules, Mapping):
            raise ValueError("links are not an object")
        self._links: Dict[str, Link] = {}
        for ip, rule in rules.items():
            try:
                if not isinstance(rule, Mapping):
                    raise ValueError("not an object")
                self._links[ip] = Link(rule, random.Random("%d/%s" % (seed, ip)))
            except ValueError as error:
                raise ValueError("link to %s: %s" % (ip, error)) from None

    def release(self, ip: str, size_bytes: int, now: float) -> Optional[float]:
        """When a packet to `ip` goes out (`now` if nothing holds it), None if it is lost."""
        link = self._links.get(ip)
        return now if link is None else link.release(size_bytes, now)
