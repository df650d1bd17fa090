"""How far two nodes' clocks are apart, and how sure we are. Pure arithmetic on exchanged times.

`offset_ms` is always "the other clock minus mine". Three sources, the best that is there wins:
one kernel (both processes read the same clock), the bounds of exchanged pings, and the nodes' own NTP state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One ping: sent at `t1` and back at `t4` by my clock, received at `t2` and answered at `t3` by the other's. ms."""

    t1: float
    t2: float
    t3: float
    t4: float

    @property
    def rtt_ms(self) -> float:
        """Without the time the other side held it."""
        return (self.t4 - self.t1) - (self.t3 - self.t2)


@dataclass(frozen=True, slots=True)
class Offset:
    """The other clock minus mine: `ms`, true within +-`error_ms`, by `method`."""

    ms: float
    error_ms: float
    method: str

    def reversed(self) -> Offset:
        """The same, seen from the other side."""
        return Offset(-self.ms, self.error_ms, self.method)


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What a node's kernel says of its clock. `max_error_ms` is None unless the clock is synchronised (NTP, PTP)."""

    boot_id: str | None
    max_error_ms: float | None


def bounds(exchanges: Iterable[Exchange]) -> tuple[float, float] | None:
    """The offset's lowest and highest possible value in ms: no packet arrives before it was sent.

    t2 - t1 = forward delay + offset >= offset, and t3 - t4 = offset - backward delay <= offset. So every exchange
    bounds the offset from both sides, and the quickest packet of each direction bounds it best. None without any.
    """
    known = list(exchanges)
    if not known:
        return None
    return max(x.t3 - x.t4 for x in known), min(x.t2 - x.t1 for x in known)


def from_pings(exchanges: Iterable[Exchange]) -> Offset | None:
    """The middle of the bounds: right where both directions are equally quick, off by at most `error_ms`."""
    known = bounds(exchanges)
    return None if known is None else _middle(known, "pings")


def compare(pings: tuple[float, float] | None, mine: KernelClock, other: KernelClock) -> Offset | None:
    """The best statement about the offset of two nodes; None when nothing is known.

    Two synchronised clocks are within the sum of their kernels' errors; where pings contradict that, pings win,
    because a kernel that is wrong about itself is commoner than a packet that travels back in time.
    """
    if mine.boot_id is not None and mine.boot_id == other.boot_id:
        return Offset(0.0, 0.0, "one kernel clock")
    kernel = _kernel_bounds(mine, other)
    if pings is None or kernel is None:
        known = pings or kernel
        return None if known is None else _middle(known, "pings" if pings else "kernel clocks")
    both = max(pings[0], kernel[0]), min(pings[1], kernel[1])
    return _middle(both, "kernel clocks and pings") if both[0] <= both[1] else _middle(pings, "pings")


def _kernel_bounds(mine: KernelClock, other: KernelClock) -> tuple[float, float] | None:
    if mine.max_error_ms is None or other.max_error_ms is None:
        return None
    error = mine.max_error_ms + other.max_error_ms
    return -error, error


def _middle(limits: tuple[float, float], method: str) -> Offset:
    low, high = limits
    return Offset((low + high) / 2, abs(high - low) / 2, method)
