"""The body of a HELLO, which neighbours say to each other all the time. Big endian.

     0  u64 the sender's nonce for the receiver         8  u64 the nonce it knows of the receiver, 0: none
    16  u32 stamp: the sender's monotonic time in us, modulo 2^32
    20  u32 the latest stamp it has of the receiver    24  u32 for how long it held that, in us; 2^32 - 1: has none
    28  u16 ms since it heard anything authentic of the receiver; 65535: never, or longer
    30  u16 promise: within so many ms it will say hello again
    32  u16 wanted: every so many ms it wants to hear the receiver
    34  u8  flags; 1: DEAF, it does not hear the receiver any more
    35  u8  n, then n x (u32 from, u32 to): directed segments that it takes for dead, by node numbers

As in BFD (RFC 5880 s. 6.8) both ends say how often they speak and how often they want to be spoken to, and the
listener derives from it how long to wait. The stamps give the round trip without anybody's wall clock, as the last
SR and the delay since then do in RTCP (RFC 3550 s. 6.4.1).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional, Sequence, Tuple

Segment = Tuple[int, int]  # from one node number to another

DEAF = 1
NEVER_MS = 0xFFFF
NOT_HELD = 0xFFFFFFFF
MAX_SEGMENTS = 64
_FIXED = struct.Struct(">QQIIIHHHBB")
_SEGMENT = struct.Struct(">II")


class Hello(NamedTuple):
    """One body. held_us None: the sender has no stamp of the receiver; heard_ms None: it has not heard it."""

    mine: int
    yours: int
    stamp: int
    your_stamp: int
    held_us: Optional[int]
    heard_ms: Optional[int]
    promise_ms: int
    wanted_ms: int
    is_deaf: bool
    dead: Sequence[Segment]


def pack(hello: Hello) -> bytes:
    """The bytes. Durations that are too long are told as the longest, and those below 0 as 0."""
    held = NOT_HELD if hello.held_us is None else max(0, min(hello.held_us, NOT_HELD - 1))
    heard = NEVER_MS if hello.heard_ms is None else max(0, min(hello.heard_ms, NEVER_MS))
    dead = hello.dead[:MAX_SEGMENTS]
    front = _FIXED.pack(
        hello.mine, hello.yours, hello.stamp, hello.your_stamp, held, heard,
        min(hello.promise_ms, 0xFFFF), min(hello.wanted_ms, 0xFFFF), DEAF if hello.is_deaf else 0, len(dead),
    )  # fmt: skip
    return front + b"".join(_SEGMENT.pack(*segment) for segment in dead)


def unpack(body: bytes) -> Hello:
    """Raises ValueError for what no `pack` made."""
    if len(body) < _FIXED.size:
        raise ValueError("a hello is shorter than its head")
    mine, yours, stamp, your_stamp, held, heard, promise, wanted, flags, count = _FIXED.unpack_from(body)
    if count > MAX_SEGMENTS or len(body) != _FIXED.size + count * _SEGMENT.size:
        raise ValueError("a hello's length does not fit its dead segments")
    if not promise or not wanted or not mine or flags & ~DEAF:
        raise ValueError("a hello with a nonce, promise or wish of nothing, or unknown flags")
    return Hello(
        mine, yours, stamp, your_stamp,
        None if held == NOT_HELD else held, None if heard == NEVER_MS else heard,
        promise, wanted, bool(flags & DEAF), tuple(_SEGMENT.iter_unpack(body[_FIXED.size :])),
    )  # fmt: skip
