"""Trains: many packets of one path that leave together, under one header and one hop tag.

To authenticate a packet takes Python longer than to move it. So what leaves as one UDP_SEGMENT train carries one head
with all entries, as its last datagram, and the payloads bare before it. A relay in the middle that gets the train
whole (UDP_GRO) passes the bare ones on as they are, and writes a new head alone.

    TRAIN body (all of it covered): 8-byte id · u16 length of the bare datagrams · section up to its count ·
          u8 flows, each with its ends as in an entry · u8 packets (n) · n x u8 flow · n x u16 length of the payload ·
          u64 number, n x u16 to be added to it · n x 12-byte end tag
    BARE   0  8-byte id · u8 index of the packet · 3 zero bytes · u8 at 12: version and kind · payload, zero padded

So the head of packets of few flows is short, and one relay counts what another one wrote column by column. The id is
the ingress' node number and a counter. A bare datagram is worth nothing without its head, which the hop tag covers;
its payload, as everywhere, is covered by the packet's end tag. Only classes that nothing protects on a segment go by
train: what is lost of one is not asked for again.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.overlay.wire import (
    BARE,
    ENDS_BYTES,
    ENTRY_BYTES,
    HEADER_BYTES,
    MAX_ENTRIES,
    NUMBER_AND_LENGTH,
    TAG_BYTES,
    TRAIN,
    kind_byte,
)

ID_BYTES = 8
BARE_BYTES = 13  # before the payload
HEAD = struct.Struct(">8sH")
_BARE, _TRAIN = kind_byte(BARE), kind_byte(TRAIN)
_MARK = bytes((0, 0, 0, _BARE))
LEAST_PACKETS = 8
LEAST_BYTES = 300  # of a payload: for smaller ones, sharing datagrams is better
MOST_BARE_BYTES = 9100  # of a datagram: nobody makes up a train that the path would cut
MOST_PADDING = (
    16  # packets of one frame differ by a byte or two; from the first one, so by twice as much at most
)
LONGEST_WAIT_S = 0.02  # for the head, or for a bare datagram that was overtaken
MOST_EARLY, MOST_EARLY_BYTES = 512, 1 << 20
MOST_OPEN = 64
MOST_BYTES = 65_000  # of a whole train: UDP_SEGMENT takes no more
_AFTER_ENDS = NUMBER_AND_LENGTH.size + TAG_BYTES
_PACKET_BYTES = 1 + 2 + 2 + TAG_BYTES  # of the head, for each packet
_FIRST = struct.Struct(">Q")
_U16S = [struct.Struct(">%dH" % count) for count in range(MAX_ENTRIES + 1)]
_BARES, _INDICES = bytes((_BARE,)) * 256, bytes(range(256))


class Load(NamedTuple):
    """One packet of a train: its entry and its payload."""

    entry: bytes
    payload: bytes


def room(loads: Sequence[Tuple[bytes, bytes]], head_bytes: int) -> int:
    """How many of these (entry, payload) pairs, from the first on, fit one train.

    Its head must be no longer than a bare datagram, and all of it must be no more than the kernel cuts up at once.
    """
    shortest = min(len(payload) for _, payload in loads)
    most = min(MAX_ENTRIES, MOST_BYTES // (shortest + MOST_PADDING + BARE_BYTES) - 1, len(loads))
    left = BARE_BYTES + shortest - HEADER_BYTES - HEAD.size - head_bytes - 2 - _FIRST.size
    ends_bytes = len(loads[0][0]) - _AFTER_ENDS
    low = high = NUMBER_AND_LENGTH.unpack_from(loads[0][0], ends_bytes)[0]
    flows = set()
    for index in range(most):
        entry = loads[index][0]
        number, ends = NUMBER_AND_LENGTH.unpack_from(entry, ends_bytes)[0], entry[:ends_bytes]
        low, high = min(low, number), max(high, number)
        left -= _PACKET_BYTES + (0 if ends in flows else ends_bytes)
        if left < 0 or high - low > 0xFFFF:
            return index
        flows.add(ends)
    return most


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
    body = HEAD.pack(train_id, BARE_BYTES + longest) + head + _columns([entry for entry, _ in loads])
    return bare, body


def _columns(entries: Sequence[bytes]) -> bytes:
    ends_bytes, count = len(entries[0]) - _AFTER_ENDS, len(entries)
    flows: Dict[bytes, int] = {}
    places = bytes([flows.setdefault(entry[:ends_bytes], len(flows)) for entry in entries])
    numbers, lengths = zip(*[NUMBER_AND_LENGTH.unpack_from(entry, ends_bytes) for entry in entries])
    first = min(numbers)
    return b"".join(
        [
            bytes((len(flows),)),
            *flows,
            bytes((count,)),
            places,
            _U16S[count].pack(*lengths),
            _FIRST.pack(first),
            _U16S[count].pack(*[number - first for number in numbers]),
            *[entry[-TAG_BYTES:] for entry in entries],
        ]
    )


class Coupling(NamedTuple):
    """What the head of a train says. `word`: its class; `head`: of a section up to its count; bare_bytes: of one bare
    datagram. flows: the ends of each, one behind the other; places: the flow of each packet; lengths: of the payloads;
    numbers: from the first one on, as in the body.
    """

    word: int
    id: bytes
    bare_bytes: int
    head: bytes
    ends_bytes: int
    flows: bytes
    places: bytes
    lengths: Tuple[int, ...]
    numbers: bytes
    tags: bytes

    def packets(self) -> int:
        """How many packets."""
        return len(self.places)

    def entry_bytes(self) -> int:
        """Of one."""
        return self.ends_bytes + _AFTER_ENDS

    def entries(self) -> List[bytes]:
        """As they stand in a section, one a packet."""
        size, flows, tags, lengths = self.ends_bytes, self.flows, self.tags, self.lengths
        ends = [flows[at : at + size] for at in range(0, len(flows), size)]
        (first,) = _FIRST.unpack_from(self.numbers)
        offsets = _U16S[len(lengths)].unpack_from(self.numbers, _FIRST.size)
        return [
            b"%b%b%b"
            % (
                ends[place],
                NUMBER_AND_LENGTH.pack(first + offsets[index], lengths[index]),
                tags[index * TAG_BYTES : (index + 1) * TAG_BYTES],
            )
            for index, place in enumerate(self.places)
        ]

    def by_flow(self) -> List[Tuple[bytes, int, int]]:
        """(ends, packets, bytes of payload) of each flow."""
        size, flows, places, lengths = self.ends_bytes, self.flows, self.places, self.lengths
        ends = [flows[at : at + size] for at in range(0, len(flows), size)]
        length = lengths[0]
        if lengths.count(length) == len(lengths):
            counts = map(places.count, range(len(ends)))
            return [(one, packets, packets * length) for one, packets in zip(ends, counts)]
        sums = [0] * len(ends)
        for place, length in zip(places, lengths):
            sums[place] += length
        return [(one, places.count(place), sums[place]) for place, one in enumerate(ends)]


def head_of(body: bytes, word: int) -> Coupling:
    """Read the body of a TRAIN datagram. Raises ValueError."""
    if len(body) < HEAD.size + 2:
        raise ValueError("too short")
    train_id, bare_bytes = HEAD.unpack_from(body)
    if bare_bytes > MOST_BARE_BYTES:
        raise ValueError("longer than any path MTU")
    first = body[HEAD.size]
    head_end = HEAD.size + 1 + 4 * (first >> 4)
    ends_bytes = ENDS_BYTES.get(first & 15)
    if ends_bytes is None or head_end >= len(body):
        raise ValueError("no section")
    flows_end = head_end + 1 + body[head_end] * ends_bytes
    if not body[head_end] or flows_end >= len(body):
        raise ValueError("no flow")
    count, at = body[flows_end], flows_end + 1
    if not 0 < count <= MAX_ENTRIES or len(body) != at + count * _PACKET_BYTES + _FIRST.size:
        raise ValueError("not so many packets")
    places = body[at : at + count]
    lengths = _U16S[count].unpack_from(body, at + count)
    if places.translate(None, _INDICES[: body[head_end]]):
        raise ValueError("of no flow")
    _check_padding(bare_bytes, lengths)
    numbers_at, tags_at = at + 3 * count, at + 5 * count + _FIRST.size
    return Coupling(
        word,
        train_id,
        bare_bytes,
        body[HEAD.size : head_end],
        ends_bytes,
        body[head_end + 1 : flows_end],
        places,
        lengths,
        body[numbers_at:tags_at],
        body[tags_at:],
    )


def _check_padding(bare_bytes: int, lengths: Sequence[int]) -> None:
    """Raises ValueError for more of it than `coupled` makes: nobody looks at it, and it would go on all the same."""
    length = lengths[0]
    is_even = lengths.count(length) == len(lengths)
    longest = length if is_even else max(lengths)
    if bare_bytes != BARE_BYTES + longest:
        raise ValueError("the longest does not fill its datagram")
    if not is_even and longest - min(lengths) > 2 * MOST_PADDING:
        raise ValueError("too unlike in length")


def loads_of(data: bytes, coupling: Coupling) -> List[Load]:
    """The packets of a train that `is_whole`."""
    size = coupling.bare_bytes
    starts = range(BARE_BYTES, BARE_BYTES + len(coupling.lengths) * size, size)
    return [
        Load(entry, data[start : start + length])
        for entry, start, length in zip(coupling.entries(), starts, coupling.lengths)
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

    __slots__ = ("coupling", "due", "entries", "left")

    def __init__(self, coupling: Coupling, due: float) -> None:
        self.coupling, self.due = coupling, due
        self.entries = coupling.entries()
        self.left = set(range(len(self.entries)))

    def take(self, bare: bytes) -> Optional[Load]:
        """The packet that this is, None if it is none or was here before."""
        index = bare[ID_BYTES]
        if index not in self.left or len(bare) != self.coupling.bare_bytes:
            return None
        self.left.discard(index)
        return Load(self.entries[index], bare[BARE_BYTES : BARE_BYTES + self.coupling.lengths[index]])


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
        heads = sum(len(entry) for waiting in self._open.values() for entry in waiting.entries)
        return {
            "entries": self._early_count + len(self._open),
            # The last run may be longer than the room that was left.
            "most_entries": MOST_EARLY + len(_INDICES) + MOST_OPEN,
            "bytes": self._early_bytes + heads,
            "most_bytes": MOST_EARLY_BYTES + 65_536 + MOST_OPEN * MAX_ENTRIES * max(ENTRY_BYTES.values()),
            "open_trains": len(self._open),
        }
