"""How much traffic passes: a token bucket, with the time handed in."""

from __future__ import annotations

# A key frame comes at once and must pass at once: this much of a second's traffic may.
BURST_S = 0.25
SHALLOWEST_BYTES = 1 << 16


class Bucket:
    """Lets `kbit_s` kilobits a second through, and BURST_S of it (at least SHALLOWEST_BYTES) at once."""

    __slots__ = ("_depth", "_filled", "_rate", "_tokens")

    def __init__(self, kbit_s: float) -> None:
        self._rate = kbit_s * 125.0  # bytes a second
        self._depth = self._tokens = max(self._rate * BURST_S, float(SHALLOWEST_BYTES))
        self._filled = 0.0

    def kept(self, now: float) -> float:
        """The bytes that may pass at once now, for another process's `refill`."""
        return min(self._depth, self._tokens + (now - self._filled) * self._rate)

    def refill(self, tokens: float, now: float) -> None:
        """Go on with what an earlier bucket had left."""
        self._tokens, self._filled = min(self._depth, tokens), now

    def take(self, size: int, now: float) -> bool:
        """May `size` bytes pass at `now` (monotonic seconds)? They are taken if so."""
        tokens = min(self._depth, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if tokens < size:
            self._tokens = tokens
            return False
        self._tokens = tokens - size
        return True
