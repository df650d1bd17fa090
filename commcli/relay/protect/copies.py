"""Copies that follow their original some packets later, so that one burst of losses does not take both."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, List, Optional, Tuple

from commcli.relay.protect.recent import ROW_BYTES

MAX_BYTES = 262_144


class Copies:
    """The copies of one segment and class that have yet to go out. Off until `use`."""

    __slots__ = ("_added", "_bytes", "_packets", "_seconds", "_waiting", "dropped", "is_on")

    def __init__(self) -> None:
        self._packets, self._seconds, self._added, self._bytes = 1, 0.0, 0, 0
        self._waiting: Deque[Tuple[int, float, bytes]] = deque()  # at which packet, at which time, what
        self.dropped = 0
        self.is_on = False

    def use(self, spacing_packets: int, spacing_s: float) -> None:
        """A copy goes out with so many packets after its original, or after so long if fewer come.

        0 packets: none any more, not even those that wait.
        """
        self.is_on = spacing_packets > 0
        self._packets, self._seconds = spacing_packets, spacing_s
        if not self.is_on:
            self._waiting.clear()
            self._bytes = 0

    def add(self, datagram: bytes, now: float) -> None:
        """An original goes out."""
        if not self.is_on:
            return
        added = self._added = self._added + 1
        self._bytes += len(datagram) + ROW_BYTES
        self._waiting.append((added + self._packets, now + self._seconds, datagram))
        while self._bytes > MAX_BYTES:
            self._pop()
            self.dropped += 1

    def due(self, now: float) -> List[bytes]:
        """The copies to send now, in the order of their originals."""
        waiting, added = self._waiting, self._added
        copies = []
        while waiting and (waiting[0][0] <= added or waiting[0][1] <= now):
            copies.append(self._pop())
        return copies

    def _pop(self) -> bytes:
        datagram = self._waiting.popleft()[2]
        self._bytes -= len(datagram) + ROW_BYTES
        return datagram

    def wish(self) -> Optional[float]:
        """When to call `due`, None while nothing waits."""
        return self._waiting[0][1] if self._waiting else None

    def figures(self) -> Dict[str, int]:
        """{"bytes", "datagrams", "most_bytes"}."""
        return {"bytes": self._bytes, "datagrams": len(self._waiting), "most_bytes": MAX_BYTES}
