"""The latest datagrams of a segment by sequence, bounded in bytes and in seconds: a store that costs little to fill.

They lie in parts that are begun and forgotten as a whole. (One dict would be emptied at its front, and python finds
the front of such a dict only by walking over all that was there.)
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Optional, Tuple

PARTS = 8
# What a datagram takes beside its bytes: two objects' heads and its share of a dict.
ROW_BYTES = 160
LEAST_BYTES = PARTS * (65535 + ROW_BYTES)  # a part must hold the longest


class Part:
    """What came in one stretch of time. repeats: per sequence how often it was repeated, and when last."""

    __slots__ = ("bytes", "datagrams", "opened", "repeats", "spent_bytes")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.datagrams: Dict[int, bytes] = {}
        self.repeats: Dict[int, Tuple[int, float]] = {}
        self.bytes = 0  # written when it is closed
        self.spent_bytes = 0  # on repeats, while this was the newest part


class Recent:
    """A store of `most_bytes` at most, with what is no older than about `longest_s`."""

    __slots__ = (
        "_datagrams",
        "_longest_s",
        "_part_bytes",
        "_part_s",
        "_room",
        "_turn_at",
        "most_bytes",
        "parts",
    )

    def __init__(self, most_bytes: int, longest_s: float) -> None:
        """Raises ValueError for fewer than LEAST_BYTES."""
        if most_bytes < LEAST_BYTES:
            raise ValueError("%d bytes are too few for a part of the longest datagram" % most_bytes)
        self.most_bytes, self._longest_s = most_bytes, longest_s
        self._part_bytes = most_bytes // PARTS
        self._part_s = longest_s / (PARTS - 1)  # the newest has just begun, and the others are to do
        self.parts: Deque[Part] = deque(maxlen=PARTS)
        self._open(float("-inf"))

    def _open(self, now: float) -> None:
        part = Part(now)
        self.parts.append(part)
        self._datagrams = part.datagrams
        self._room = self._part_bytes
        self._turn_at = now + self._part_s

    def keep(self, sequence: int, datagram: bytes, now: float) -> None:
        """Keep one more; the same sequence again takes the place of the first."""
        room = self._room - len(datagram) - ROW_BYTES
        if room < 0 or now >= self._turn_at:
            self.turn(now)
            room = self._room - len(datagram) - ROW_BYTES
        self._room = room
        self._datagrams[sequence] = datagram

    def turn(self, now: float) -> None:
        """Begin a new part, and forget those that are too old."""
        parts = self.parts
        parts[-1].bytes = self._part_bytes - self._room
        self._open(now)
        # Nothing was put into a part later than one part's time after it was opened.
        oldest = now - self._longest_s - self._part_s
        while parts[0].opened <= oldest:
            parts.popleft()

    def forget(self, now: float) -> None:
        """To be called now and then, for when nothing more comes."""
        if now >= self._turn_at and self.datagrams:
            self.turn(now)

    def find(self, sequence: int) -> Optional[bytes]:
        """The datagram, None if it was not kept or is forgotten."""
        for part in reversed(self.parts):
            datagram = part.datagrams.get(sequence)
            if datagram is not None:
                return datagram
        return None

    @property
    def bytes(self) -> int:
        """What it takes now."""
        return sum(part.bytes for part in self.parts) + self._part_bytes - self._room

    @property
    def datagrams(self) -> int:
        """How many are kept."""
        return sum(len(part.datagrams) for part in self.parts)

    def figures(self) -> Dict[str, int]:
        """{"bytes", "datagrams", "most_bytes"}."""
        return {"bytes": self.bytes, "datagrams": self.datagrams, "most_bytes": self.most_bytes}
