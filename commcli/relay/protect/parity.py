"""Parity over blocks of datagrams: any m of k + m may be lost, and the others give all k.

The body of a PARITY datagram, big endian:
    0  u8 k (1..32)   1  u8 m (1..16)   2  u8 index (0..m-1)   3  u8 0
    4  u64 sequence of the block's first datagram
    12 k x u16 offset of each datagram's sequence from the first, ascending from 0
    .. a parity shard of the code (k, m), see gf256
A data shard is a whole DATA datagram after its u16 length; shorter ones count as zero padded.
"""

from __future__ import annotations

import struct
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from commcli.relay.protect import gf256
from commcli.relay.protect.recent import ROW_BYTES, Recent

_HEAD = struct.Struct(">BBBBQ")
_LENGTH = struct.Struct(">H")
_MAX_OFFSET = 65535
_MAX_SEQUENCE = (1 << 64) - 1
MAX_DEPTH = 16
_NEVER = float("inf")


def excess_bytes(k: int) -> int:
    """By how much a body of a block of k is longer than its longest datagram."""
    return _HEAD.size + 2 * k + _LENGTH.size


Item = Tuple[int, bytes]  # sequence, datagram


class Blocks:
    """The sender's side, of one segment and class: gathers blocks and makes their parities. Off until `use`."""

    __slots__ = ("_at", "_due", "_dues", "_k", "_longest_s", "_m", "_open", "_ready", "is_on", "made")

    def __init__(self) -> None:
        self._k = self._m = self._at = 0
        self._longest_s = 0.0
        self._open: List[List[Item]] = []  # blocks, filled in turn
        self._dues: List[float] = []  # when each of them has waited for long enough
        self._due = _NEVER  # the first of these
        self._ready: List[bytes] = []
        self.is_on = False
        self.made = 0  # parities, cumulative

    def use(self, k: int, m: int, longest_s: float, depth: int = 1) -> None:
        """From the next datagram on, m parities for k datagrams, or for as many as came within longest_s.

        depth: so many blocks are filled in turn, so that a burst of losses falls on all of them a little; it takes
        as many times longer until a loss is repaired. m 0: none any more, nor for a block begun.
        Raises ValueError for a code or a depth that does not exist.
        """
        if (k, m, longest_s, depth) == (self._k, self._m, self._longest_s, len(self._open)):
            return
        if m and not 1 <= depth <= MAX_DEPTH:
            raise ValueError("blocks %d deep" % depth)
        if m:
            gf256.code(k, m)
            self._close()
        self._k, self._m, self._longest_s, self._at = k, m, longest_s, 0
        self._open = [[] for _ in range(depth)] if m else []
        self._dues, self._due = [_NEVER] * len(self._open), _NEVER
        self.is_on = m > 0
        if not m:
            self._ready = []

    def add(self, sequence: int, datagram: bytes, now: float) -> List[bytes]:
        """A datagram goes out; the bodies of the block that it completes. Sequences ascend."""
        if not self.is_on:
            return []
        at = self._at
        block = self._open[at]
        if not block:
            self._dues[at] = now + self._longest_s
            self._due = min(self._due, self._dues[at])
        elif sequence - block[0][0] > _MAX_OFFSET:
            self._close()
            return self._handed() + self.add(sequence, datagram, now)
        block.append((sequence, datagram))
        self._at = (at + 1) % len(self._open)
        if len(block) < self._k:
            return []
        self._open[at], self._dues[at] = [], _NEVER
        self._due = min(self._dues)
        self._ready += self._bodies(block)
        return self._handed()

    def _handed(self) -> List[bytes]:
        bodies, self._ready = self._ready, []
        return bodies

    def due(self, now: float) -> List[bytes]:
        """The bodies of what has waited for longest_s."""
        if now >= self._due:
            self._close()
        return self._handed() if self._ready else []

    def wish(self) -> Optional[float]:
        """When to call `due`, None while nothing waits."""
        if self._ready:
            return float("-inf")
        return self._due if self._due < _NEVER else None

    def _close(self) -> None:
        """Parities for all that is open. Few datagrams of several blocks become one block, which needs fewer."""
        items = sorted(item for block in self._open for item in block)
        self._open = [[] for _ in self._open]
        self._dues = [_NEVER] * len(self._open)
        self._at, self._due = 0, _NEVER
        start = 0
        while start < len(items):
            end = start + 1
            while end < min(len(items), start + self._k) and items[end][0] - items[start][0] <= _MAX_OFFSET:
                end += 1
            self._ready += self._bodies(items[start:end])
            start = end

    def _bodies(self, items: List[Item]) -> List[bytes]:
        """The bodies for up to k items; a shorter block gets its share of parities, and at least one."""
        k, first = len(items), items[0][0]
        m = -(-self._m * k // self._k)
        shards = [_LENGTH.pack(len(datagram)) + datagram for _, datagram in items]
        offsets = struct.pack(">%dH" % k, *[sequence - first for sequence, _ in items])
        self.made += m
        return [
            _HEAD.pack(k, m, index, 0, first) + offsets + shard
            for index, shard in enumerate(gf256.code(k, m).encode(shards))
        ]

    def figures(self) -> Dict[str, int]:
        """{"bytes", "datagrams", "most_bytes"}: what the open blocks hold."""
        sizes = [len(datagram) + ROW_BYTES for block in self._open for _, datagram in block]
        most = self._k * len(self._open) * (65535 + ROW_BYTES)
        return {"bytes": sum(sizes), "datagrams": len(sizes), "most_bytes": most}


class _Body(NamedTuple):
    """A parsed body. Those of one block agree in `block`: m, shard length, sequences."""

    block: Tuple[int, int, Tuple[int, ...]]
    number: int  # of the parity
    shard: bytes


def _parse(body: bytes) -> _Body:
    """Raises ValueError for what `Blocks` does not make."""
    if len(body) < _HEAD.size:
        raise ValueError("a parity body of %d bytes" % len(body))
    k, m, index, zero, first = _HEAD.unpack_from(body)
    start = _HEAD.size + 2 * k
    if not 1 <= k <= gf256.MAX_DATA or not 1 <= m <= gf256.MAX_PARITY or index >= m or zero:
        raise ValueError("no parity %d of %d for %d datagrams" % (index, m, k))
    if not start + _LENGTH.size < len(body) <= start + _LENGTH.size + 65535:
        raise ValueError("a parity body of %d bytes for %d datagrams" % (len(body), k))
    offsets = struct.unpack_from(">%dH" % k, body, _HEAD.size)
    if offsets[0] or list(offsets) != sorted(set(offsets)) or first + offsets[-1] > _MAX_SEQUENCE:
        raise ValueError("the offsets of a parity body do not ascend from 0")
    sequences = tuple(first + offset for offset in offsets)
    return _Body((m, len(body) - start, sequences), index, body[start:])


def protected(body: bytes) -> "Tuple[List[int], int]":
    """(the sequences of a block, how many parities it has) of a body that `Blocks` made."""
    parsed = _parse(body)
    return list(parsed.block[2]), parsed.block[0]


class _Open:
    """A block of which more is missing than its parities at hand can give."""

    __slots__ = ("bytes", "missing", "shards", "since")

    def __init__(self, since: float, missing: Set[int]) -> None:
        self.since, self.missing = since, missing
        self.shards: Dict[int, bytes] = {}
        self.bytes = 0


class Rebuilder:
    """The receiver's side, of one segment and class: keeps what came and rebuilds what did not.

    Give it each DATA datagram that is in a block, also those that came again. What it hands out is to be verified
    like any datagram: a peer that lies in its parities gets garbage here.
    """

    MOST_OPEN = 128
    OPEN_SHARE = 4  # of most_bytes, one part in so many may be parities that wait

    __slots__ = (
        "_awaited", "_keep", "_longest_s", "_most_open_bytes", "_open", "_open_bytes", "_recent", "given_up",
        "needless", "rebuilt", "spoiled",
    )  # fmt: skip

    def __init__(self, most_bytes: int = 2 << 20, longest_s: float = 1.0) -> None:
        """longest_s: how long a datagram waits for its block's parity, or a parity for a late datagram."""
        self._most_open_bytes = most_bytes // self.OPEN_SHARE
        self._recent = Recent(most_bytes - self._most_open_bytes, longest_s)
        self._keep = self._recent.keep
        self._longest_s = longest_s
        self._open: Dict[Tuple[int, int, Tuple[int, ...]], _Open] = {}
        self._open_bytes = 0
        self._awaited: Dict[int, Tuple[int, int, Tuple[int, ...]]] = {}  # missing sequence -> its open block
        # Cumulative: datagrams rebuilt; parities of a block that lacked nothing; blocks given up; blocks whose
        # shards did not fit together.
        self.rebuilt = self.needless = self.given_up = self.spoiled = 0

    def keep(self, sequence: int, datagram: bytes, now: float) -> List[bytes]:
        """A datagram came; those that can be rebuilt with it."""
        self._keep(sequence, datagram, now)
        if sequence in self._awaited:
            return self._arrived(sequence, now)
        return []

    def _arrived(self, sequence: int, now: float) -> List[bytes]:
        key = self._awaited.pop(sequence)
        block = self._open[key]
        block.missing.discard(sequence)
        return self._try(key, block, now)

    def parity(self, body: bytes, now: float) -> List[bytes]:
        """A parity came; the datagrams that can be rebuilt with it, by ascending sequence.

        Raises ValueError for a body that is none.
        """
        key, index, shard = _parse(body)
        block = self._open.get(key)
        if block is None:
            find = self._recent.find
            missing = {sequence for sequence in key[2] if find(sequence) is None}
            if not missing:
                self.needless += 1
                return []
            block = self._open_block(key, missing, now)
        if index not in block.shards:
            block.shards[index] = shard
            block.bytes += len(shard) + ROW_BYTES
            self._open_bytes += len(shard) + ROW_BYTES
        rebuilt = self._try(key, block, now)
        self._trim(now)
        return rebuilt

    def _open_block(self, key: Tuple[int, int, Tuple[int, ...]], missing: Set[int], now: float) -> _Open:
        block = self._open[key] = _Open(now, missing)
        block.bytes = (len(key[2]) + len(missing)) * ROW_BYTES
        self._open_bytes += block.bytes
        for sequence in missing:
            other = self._awaited.get(sequence)
            if other is not None:  # a sender that puts one datagram into two blocks: the later one counts
                self._give_up(other)
            self._awaited[sequence] = key
        return block

    def _try(self, key: Tuple[int, int, Tuple[int, ...]], block: _Open, now: float) -> List[bytes]:
        """Rebuild what is missing, if the parities at hand suffice."""
        if len(block.missing) > len(block.shards):
            return []
        m, _, sequences = key
        shards = {len(sequences) + index: shard for index, shard in block.shards.items()}
        lost = []
        for number, sequence in enumerate(sequences):
            datagram = self._recent.find(sequence)
            if datagram is None:
                lost.append(number)
            else:
                shards[number] = _LENGTH.pack(len(datagram)) + datagram
        if len(lost) > len(block.shards):  # what came was forgotten meanwhile
            self._give_up(key)
            return []
        self._close(key)
        datagrams = self._decoded(len(sequences), m, shards, lost)
        for number, datagram in zip(lost, datagrams):
            self._recent.keep(sequences[number], datagram, now)
        self.rebuilt += len(datagrams)
        return datagrams

    def _decoded(self, k: int, m: int, shards: Dict[int, bytes], lost: List[int]) -> List[bytes]:
        """The datagrams of the lost shards, none at all if any of them is no datagram."""
        datagrams: List[bytes] = []
        try:
            data = gf256.code(k, m).decode(shards)
            datagrams = [_unwrapped(data[number]) for number in lost]
        except ValueError:  # shards of different lengths, or no datagram: somebody lied
            self.spoiled += 1
        return datagrams

    def _give_up(self, key: Tuple[int, int, Tuple[int, ...]]) -> None:
        self.given_up += 1
        self._close(key)

    def _close(self, key: Tuple[int, int, Tuple[int, ...]]) -> None:
        block = self._open.pop(key)
        self._open_bytes -= block.bytes
        for sequence in block.missing:
            self._awaited.pop(sequence, None)

    def _trim(self, now: float) -> None:
        """Give up the oldest while too many wait, or one has for too long."""
        while self._open:
            key, oldest = next(iter(self._open.items()))
            is_late = now - oldest.since > self._longest_s
            if (
                not is_late
                and len(self._open) <= self.MOST_OPEN
                and self._open_bytes <= self._most_open_bytes
            ):
                return
            self._give_up(key)

    def forget(self, now: float) -> None:
        """To be called now and then, for when nothing more comes."""
        self._recent.forget(now)
        self._trim(now)

    def figures(self) -> Dict[str, int]:
        """{"bytes", "datagrams", "most_bytes"}: datagrams kept and parities that wait."""
        recent = self._recent
        most = recent.most_bytes + self._most_open_bytes
        return {
            "bytes": recent.bytes + self._open_bytes,
            "datagrams": recent.datagrams,
            "most_bytes": most,
        }


def _unwrapped(shard: bytes) -> bytes:
    """The datagram of a shard. Raises ValueError if there is none in it."""
    (length,) = _LENGTH.unpack_from(shard)
    end = _LENGTH.size + length
    if not 0 < length <= len(shard) - _LENGTH.size or shard[end:].strip(b"\0"):
        raise ValueError("a shard without a datagram")
    return shard[_LENGTH.size : end]
