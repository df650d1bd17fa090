"""What one directed link does to packets: delay, jitter, loss, rate, MTU. Pure: time is an argument, chance a seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weather:
    """One direction of a link. As it stands: a perfect wire.

    delay_ms: one way. jitter_ms: each packet takes delay_ms +- up to this, evenly spread; the order is kept, so where
    packets follow each other faster than the jitter it shows as waiting. loss: share of packets, 0..1. burst: mean
    length of a run of lost packets (Gilbert-Elliott: nothing lost in the good state, all in the bad); 1 = each packet
    by itself. rate_kbit: of IP packets, None = no limit; what would wait longer than queue_ms for it is dropped.
    mtu: bytes of an IP packet. A larger one that may not be cut (DF) disappears without a word, as where ICMP is
    filtered; one that may be cut passes, as if it was put together again behind the link.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: float = 1.0
    rate_kbit: float | None = None
    queue_ms: float = 200.0
    mtu: int = 1500

    def __post_init__(self) -> None:
        """Raises ValueError for what no link can do."""
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is not between {low:g} and {high:g}: {value!r}")
        if self.rate_kbit is not None and self.rate_kbit <= 0:
            raise ValueError(f"rate_kbit is not above 0: {self.rate_kbit!r}")
        if self.burst > 1 and self.loss < 1 and self._enter() > 1:
            raise ValueError(f"{self.loss:g} of the packets can not be lost in bursts of {self.burst:g}")

    def _enter(self) -> float:
        return self.loss / (1 - self.loss) / self.burst

    def odds(self) -> tuple[float, float]:
        """The chances that a packet is lost: one after a packet that arrived, and one after a packet that was lost."""
        if self.burst <= 1 or self.loss in (0.0, 1.0):
            return self.loss, self.loss
        return self._enter(), 1 - 1 / self.burst


_LIMITS = (
    ("delay_ms", 0, 60_000), ("jitter_ms", 0, 60_000), ("loss", 0, 1), ("burst", 1, 10_000),
    ("queue_ms", 0, 60_000), ("mtu", 68, 65_535),
)  # fmt: skip


@dataclass(slots=True)
class Counts:
    """What became of the packets that were handed to a link; octets: of all of them. packets = delivered + on the
    way + lost + queue_full + too_big.
    """

    packets: int = 0
    octets: int = 0
    lost: int = 0
    queue_full: int = 0
    too_big: int = 0
    delivered: int = 0

    @property
    def loss(self) -> float | None:
        """Share of the packets that the dice took, 0..1; None without packets."""
        return self.lost / self.packets if self.packets else None


class Link:
    """One directed link at work. What it does follows from the seed, its weather and the packets before."""

    def __init__(self, weather: Weather, seed: str) -> None:
        self.counts = Counts()
        self._random = random.Random(seed).random
        self._free_at = -math.inf  # when the last packet will have left the queue
        self._is_bad = False
        self.change(weather)
        # Not from the good state: then short runs would see less loss than was set.
        self._is_bad = self._random() < weather.loss

    def change(self, weather: Weather) -> None:
        """From now on. Other delays are another route: what comes now may overtake what is on the way."""
        self.weather = weather
        self._delay_s = weather.delay_ms / 1000
        self._jitter_s = weather.jitter_ms / 1000
        self._queue_s = weather.queue_ms / 1000
        self._bits_per_s = None if weather.rate_kbit is None else weather.rate_kbit * 1000
        self._odds = weather.odds()
        self._last = -math.inf

    def arrival(self, size_bytes: int, may_be_cut: bool, now: float) -> float | None:
        """When a packet that is handed in `now` (s) comes out at the other end; None: never."""
        counts, random_share = self.counts, self._random
        counts.packets += 1
        counts.octets += size_bytes
        if size_bytes > self.weather.mtu and not may_be_cut:
            counts.too_big += 1
            return None
        if self._bits_per_s is not None:
            begins = max(now, self._free_at)
            if begins - now > self._queue_s:
                counts.queue_full += 1
                return None
            now = self._free_at = begins + size_bytes * 8 / self._bits_per_s
        # A fixed number of dice a packet: the same seed loses the same packets whatever else is set.
        self._is_bad = random_share() < self._odds[self._is_bad]
        swing = 2 * random_share() - 1
        if self._is_bad:
            counts.lost += 1
            return None
        self._last = max(self._last, now + max(0.0, self._delay_s + swing * self._jitter_s))
        return self._last
