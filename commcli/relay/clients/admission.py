"""What strangers may cost: how many connections wait without an allocation, and how much time they are given.

Pure: values and the time in, decisions out.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Dict, Generic, Optional, TypeVar

T = TypeVar("T")

_SUBSCRIBER_BYTES = 8  # one IPv6 subscriber has a /64, and with it 2^64 addresses


def source_of(ip: str) -> bytes:
    """Who is counted as one source: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in ip:
        return ip.encode()
    return socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])[:_SUBSCRIBER_BYTES]


class HalfOpen(Generic[T]):
    """The connections that have not shown yet that they are clients, oldest first.

    A full house never turns a newcomer away, the oldest goes: an honest client is through within a few round trips,
    and one that only sits there is the oldest. One source can only push out its own.
    """

    def __init__(self, most: int, most_per_source: int) -> None:
        self._most, self._most_per_source = most, most_per_source
        self._all: "OrderedDict[T, bytes]" = OrderedDict()
        self._by_source: "Dict[bytes, OrderedDict[T, None]]" = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, entry: T) -> bool:
        return entry in self._all

    def sources(self) -> int:
        """How many sources have an entry."""
        return len(self._by_source)

    def enter(self, entry: T, source: bytes) -> "Optional[T]":
        """Take `entry` in; the one that has to go for it, if any, is out already."""
        gone = self._crowded_out(source)
        if gone is not None:
            self.leave(gone)
        self._all[entry] = source
        self._by_source.setdefault(source, OrderedDict())[entry] = None
        return gone

    def _crowded_out(self, source: bytes) -> "Optional[T]":
        own = self._by_source.get(source)
        if own is not None and len(own) >= self._most_per_source:
            return next(iter(own))
        return next(iter(self._all)) if len(self._all) >= self._most else None

    def leave(self, entry: T) -> None:
        """Forget `entry`; one that is not here is fine."""
        source = self._all.pop(entry, None)
        if source is None:
            return
        own = self._by_source[source]
        del own[entry]
        if not own:
            del self._by_source[source]


class Share:
    """A share of the loop's time, so that who comes in cannot stop those who are in.

    Measured in seconds of work, not in pieces of it: a handshake with an RSA key costs ten times one with an
    elliptic curve.
    """

    def __init__(self, share: float, burst_s: float, floor_s: float, now: float) -> None:
        """`share` seconds of work a second, `burst_s` at once; a piece of work counts `floor_s` at least."""
        self._share, self._burst_s, self._floor_s = share, burst_s, floor_s
        self._left, self._filled = burst_s, now

    def allows(self, now: float) -> bool:
        """Is there time for another piece of work?"""
        self._left = min(self._burst_s, self._left + (now - self._filled) * self._share)
        self._filled = now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        """A piece of work took `seconds`."""
        self._left -= max(seconds, self._floor_s)
