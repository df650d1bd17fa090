"""Trains: many packets of one path that leave together, under one header and one hop tag.

To authenticate a packet takes Python longer than to move it. So what leaves as one UDP_SEGMENT train carries one head
with all entries, as its last datagram, and the payloads bare before it. A relay in the middle that gets the train
whole (UDP_GRO) passes the bare ones on as they are, and writes a new head alone.

    TRAIN body (all of it covered): 8-byte id · u16 length of the bare datagrams · one section
    BARE   0  8-byte id · u8 index of the entry · 3 zero bytes · u8 at 12: version and kind · payload, zero padded

The id is the ingress' node number and a counter. A bare datagram is worth nothing without its head, which the hop tag
covers; its payload, as everywhere, is covered by the entry's end tag. Only classes that nothing protects on a segment
go by train: what is lost of one is not asked for again.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.overlay.wire import BARE, ENTRY_BYTES, HEADER_BYTES, MAX_ENTRIES, TRAIN, kind_byte

ID_BYTES = 8
BARE_BYTES = 13  # before the payload
HEAD = struct.Struct(">8sH")
_BARE, _TRAIN = kind_byte(BARE), kind_byte(TRAIN)
_MARK = bytes((0, 0, 0, _BARE))
LEAST_PACKETS = 8
LEAST_BYTES = 300  # of a payload: for smaller ones, sharing datagrams is better
MOST_BARE_BYTES = 9100  # of a datagram: nobody makes up a train that the path would cut
MOST_PADDING = 16  # packets of one frame differ by a byte or two
LONGEST_WAIT_S = 0.02  # for the head, or for a bare datagram that was overtaken
MOST_EARLY, MOST_EARLY_BYTES = 512, 1 << 20
MOST_OPEN = 64
_BARES, _INDICES = bytes((_BARE,)) * 256, bytes(range(256))


class Load(NamedTuple):
    """One packet of a train: its entry and its payload."""

    entry: bytes
    payload: bytes


def most_packets(longest: int, head_bytes: int, family: int) -> int:
    """How many entries the head has room for, being no longer than a bare datagram of `longest` bytes of payload."""
    room = BARE_BYTES + longest - HEADER_BYTES - HEAD.size - head_bytes - 1
    return min(63, room // ENTRY_BYTES[family])


def run_length(waiting: Sequence[Tuple[int, bytes, int, bytes, bytes]], at: int) -> int:
    """How many of these units, from `at` on, can be one train: alike in class, path and length, one entry each."""
    word, head, count, _, payload = waiting[at]
    size = len(payload)
    end = at
    if count == 1 and size >= LEAST_BYTES:
        low, high = size - MOST_PADDING, size + MOST_PADDING
        for unit in waiting[at:]:
            if unit[1] != head or unit[0] != word or unit[2] != 1 or not low <= len(unit[4]) <= high:
                break
            end += 1
    return end - at


def coupled(train_id: bytes, head: bytes, loads: Sequence[Tuple[bytes, bytes]]) -> "Tuple[bytes, bytes]":
    """(the bare datagrams one behind the other, the body of the head) of (entry, payload) pairs."""
    longest = max(len(payload) for _, payload in loads)
    bare = b"".join(
        [
            b"%b%c%b%b" % (train_id, index, _MARK, payload.ljust(longest, b"\0"))
            for index, (_, payload) in enumerate(loads)
        ]
    )
    entries = b"".join([entry for entry, _ in loads])
    body = HEAD.pack(train_id, BARE_BYTES + longest) + head + bytes((len(loads),)) + entries
    return bare, body


class Coupling(NamedTuple):
    """What the head of a train says. `word`: its class; `head`: of its section; bare_bytes: of one bare datagram."""

    word: int
    id: bytes
    bare_bytes: int
    head: bytes
    entry_bytes: int
    entries: bytes

    def lengths(self) -> List[int]:
        """Of the payloads, in bytes."""
        size = self.entry_bytes
        high, low = self.entries[size - 14 :: size], self.entries[size - 13 :: size]
        return [one << 8 | other for one, other in zip(high, low)]

    def packets(self) -> int:
        """How many packets."""
        return len(self.entries) // self.entry_bytes


def head_of(body: bytes, word: int) -> Coupling:
    """Read the body of a TRAIN datagram. Raises ValueError."""
    if len(body) < HEAD.size + 2:
        raise ValueError("too short")
    train_id, bare_bytes = HEAD.unpack_from(body)
    if bare_bytes > MOST_BARE_BYTES:
        raise ValueError("longer than any path MTU")
    first = body[HEAD.size]
    head_end = HEAD.size + 1 + 4 * (first >> 4)
    size = ENTRY_BYTES.get(first & 15)
    entries = body[head_end + 1 :]
    if size is None or not entries or len(entries) != body[head_end] * size:
        raise ValueError("not one section")
    found = Coupling(word, train_id, bare_bytes, body[HEAD.size : head_end], size, entries)
    highs, lows = entries[size - 14 :: size], entries[size - 13 :: size]
    count = body[head_end]
    if highs.count(highs[0]) == count == lows.count(lows[0]):  # the usual case
        high, low = highs[0], lows[0]
    else:
        high, low = max(zip(highs, lows))
    if (high << 8 | low) + BARE_BYTES > bare_bytes:
        raise ValueError("longer than its datagrams")
    return found


def loads_of(data: bytes, coupling: Coupling) -> List[Load]:
    """The packets of a train that `is_whole`."""
    size, entry_bytes, entries = coupling.bare_bytes, coupling.entry_bytes, coupling.entries
    return [
        Load(
            entries[index * entry_bytes : (index + 1) * entry_bytes],
            data[index * size + BARE_BYTES : index * size + BARE_BYTES + length],
        )
        for index, length in enumerate(coupling.lengths())
    ]


def is_whole(data: bytes, size: int, coupling: Coupling) -> bool:
    """Whether `data`, received as datagrams of `size`, begins with all bare ones of this train, in order.

    Only the first one and the last are asked for the id: a stranger between them fails by its end tag.
    """
    count = coupling.packets()
    return (
        len(data) >= count * size and size == coupling.bare_bytes and is_run(data, size, count, coupling.id)
    )


def is_run(data: bytes, size: int, count: int, train_id: bytes, first: int = 0) -> bool:
    """Whether `data` begins with `count` bare datagrams of `size` bytes of this train, in order from index `first`."""
    end = count * size
    return (
        size > BARE_BYTES
        and data[BARE_BYTES - 1 : end : size] == _BARES[:count]
        and data[ID_BYTES:end:size] == _INDICES[first : first + count]
        and data.startswith(train_id)
        and data.startswith(train_id, end - size)
    )


class _Open:
    """A train whose head has come, and some of whose packets have not."""

    __slots__ = ("coupling", "due", "left", "lengths")

    def __init__(self, coupling: Coupling, due: float) -> None:
        self.coupling, self.due = coupling, due
        self.lengths = coupling.lengths()
        self.left = set(range(len(self.lengths)))

    def take(self, bare: bytes) -> Optional[Load]:
        """The packet that this is, None if it is none or was here before."""
        index = bare[ID_BYTES]
        if index not in self.left or len(bare) != self.coupling.bare_bytes:
            return None
        self.left.discard(index)
        size = self.coupling.entry_bytes
        entry = self.coupling.entries[index * size : (index + 1) * size]
        return Load(entry, bare[BARE_BYTES : BARE_BYTES + self.lengths[index]])


class Yard:
    """Where trains of one neighbour that came apart are put together. Bounded in number and time."""

    def __init__(self) -> None:
        # Without a head, by id: when to give up, and runs of datagrams (that stand one behind the other, of a size).
        self._early: "OrderedDict[bytes, Tuple[float, List[Tuple[bytes, int]]]]" = OrderedDict()
        self._open: "OrderedDict[bytes, _Open]" = OrderedDict()
        self._early_count = self._early_bytes = 0
        self.lost = 0  # packets of trains whose head came, and bare datagrams without one

    def bare(self, data: bytes, now: float) -> "Optional[Tuple[Coupling, Load]]":
        """A bare datagram; its packet, if the head was here already."""
        train_id = data[:ID_BYTES]
        waiting = self._open.get(train_id)
        if waiting is not None:
            load = waiting.take(data)
            if not waiting.left:
                del self._open[train_id]
            return None if load is None else (waiting.coupling, load)
        self._keep(train_id, data, len(data), now)
        return None

    def run(self, data: bytes, size: int, now: float) -> bool:
        """Bare datagrams of `size` bytes that came together; False if they have to be taken one by one."""
        count, train_id = len(data) // size, data[:ID_BYTES]
        if train_id in self._open or count * size != len(data):
            return False
        if not is_run(data, size, count, train_id, data[ID_BYTES]):
            return False
        self._keep(train_id, data, size, now)
        return True

    def _keep(self, train_id: bytes, data: bytes, size: int, now: float) -> None:
        while self._early and (self._early_count >= MOST_EARLY or self._early_bytes >= MOST_EARLY_BYTES):
            self._drop_oldest()
        row = self._early.get(train_id)
        if row is None:
            row = self._early[train_id] = (now + LONGEST_WAIT_S, [])
        row[1].append((data, size))
        self._early_count += len(data) // size
        self._early_bytes += len(data)

    def whole(self, coupling: Coupling, last: bytes) -> Optional[bytes]:
        """All bare datagrams of a train, one behind the other: those that wait here and `last`, if they are all."""
        row = self._early.get(coupling.id)
        if row is None:
            return None
        runs, size = row[1], coupling.bare_bytes
        length = len(last) + sum(len(data) for data, of in runs if of == size)
        if length != coupling.packets() * size:
            return None
        data = b"".join([data for data, of in runs if of == size] + [last])
        if not is_whole(data, size, coupling):
            return None
        del self._early[coupling.id]
        self._forget(runs)
        return data

    def head(self, coupling: Coupling, now: float) -> List[Load]:
        """The head of a train that did not come whole; those of its packets that are here."""
        train = _Open(coupling, now + LONGEST_WAIT_S)
        _, runs = self._early.pop(coupling.id, (0.0, []))
        self._forget(runs)
        early = [data[at : at + size] for data, size in runs for at in range(0, len(data), size)]
        loads = [load for load in map(train.take, early) if load is not None]
        if train.left:
            while len(self._open) >= MOST_OPEN:
                self.lost += len(self._open.popitem(last=False)[1].left)
            self._open[coupling.id] = train
        return loads

    def _forget(self, runs: "Sequence[Tuple[bytes, int]]") -> int:
        count = sum(len(data) // size for data, size in runs)
        self._early_count -= count
        self._early_bytes -= sum(len(data) for data, _ in runs)
        return count

    def _drop_oldest(self) -> None:
        _, (_, runs) = self._early.popitem(last=False)
        self.lost += self._forget(runs)

    def expire(self, now: float) -> bool:
        """Give up what has waited too long; whether anything still waits."""
        while self._early and next(iter(self._early.values()))[0] <= now:
            self._drop_oldest()
        while self._open and next(iter(self._open.values())).due <= now:
            self.lost += len(self._open.popitem(last=False)[1].left)
        return bool(self._early or self._open)

    def figures(self) -> Dict[str, int]:
        """What waits, bare datagrams and heads, and the bound."""
        heads = sum(len(waiting.coupling.entries) for waiting in self._open.values())
        return {
            "entries": self._early_count + len(self._open),
            # The last run may be longer than the room that was left.
            "most_entries": MOST_EARLY + len(_INDICES) + MOST_OPEN,
            "bytes": self._early_bytes + heads,
            "most_bytes": MOST_EARLY_BYTES + 65_536 + MOST_OPEN * MAX_ENTRIES * max(ENTRY_BYTES.values()),
            "open_trains": len(self._open),
        }
