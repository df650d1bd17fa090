"""What leaves for one neighbour: gathered in a turn of the loop, packed and sealed.

So small packets share a datagram, and equal datagrams leave as a train. Nothing waits longer than the turn.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from commcli.relay.overlay import train
from commcli.relay.overlay.ledger import Ledger
from commcli.relay.overlay.mtu import PathMtu
from commcli.relay.overlay.peer import Peer
from commcli.relay.overlay.repair import Extra, Repair
from commcli.relay.overlay.telemetry import Row
from commcli.relay.overlay.wire import (
    CLASSES,
    DATA,
    HEADER_BYTES,
    LONGEST_BYTES,
    MAX_ENTRIES,
    MTU,
    NACK,
    PARITY,
    TRAIN,
    kind_byte,
)
from commcli.relay.protect.plan import Plan

# What one turn of the loop may gather: packets, their bytes, trains to pass on, control datagrams.
MAX_WAITING, MAX_WAITING_BYTES = 4096, 16 << 20
# Longer than any path MTU: such a datagram is fragments, and its parity would not fit one.
MOST_REPAIRED_BYTES = train.MOST_BARE_BYTES
MAX_TRAINS = 256
MAX_CONTROL, LONGEST_CONTROL = 1024, 2048  # each but a probe of the path MTU is shorter
_WEIGHED = 64  # packets at a time: to weigh each costs every packet, and is needed by none
_DATA, _TRAIN, _PARITY = kind_byte(DATA), kind_byte(TRAIN), kind_byte(PARITY)

Bare = Union[bytes, memoryview]  # the bare datagrams of a train, one behind the other
Train = Tuple[bytes, int]  # to send: datagrams of one length and a shorter one behind each other, that length
Parcel = Union[bytes, Train]
# (class, section up to its count, count, entries, payloads): what shares one section.
Unit = Tuple[int, bytes, int, bytes, bytes]


class Traffic:
    """How much of one class goes to one neighbour: datagrams and their bytes, and bytes that only protect them."""

    __slots__ = ("bytes", "extra_bytes", "marks", "packets")

    def __init__(self, word: int) -> None:
        self.marks = word << 6
        self.packets = self.bytes = self.extra_bytes = 0


class _Pack:
    """One datagram of small packets in the making."""

    __slots__ = ("_count", "_entries", "_head", "_sections", "payloads", "size")

    def __init__(self) -> None:
        self._sections: List[bytes] = []
        self._head, self._count = b"", 0
        self._entries: List[bytes] = []
        self.payloads: List[bytes] = []
        self.size = HEADER_BYTES

    def grown(self, head: bytes, entries: bytes, payloads: bytes, count: int) -> int:
        """How long it would be with this as well."""
        joins = head == self._head and self._count + count <= MAX_ENTRIES
        return self.size + len(entries) + len(payloads) + (0 if joins else len(head) + 1)

    def add(self, head: bytes, entries: bytes, payloads: bytes, count: int) -> None:
        self.size = self.grown(head, entries, payloads, count)
        if head != self._head or self._count + count > MAX_ENTRIES:
            self._end_section()
            self._head = head
        self._count += count
        self._entries.append(entries)
        self.payloads.append(payloads)

    def _end_section(self) -> None:
        if self._count:
            self._sections += (self._head, bytes((self._count,)), *self._entries)
        self._count, self._entries = 0, []

    def sections(self) -> bytes:
        self._end_section()
        return b"".join(self._sections)


class Segment:
    """One neighbour: what waits for it, and the repair of both directions."""

    __slots__ = (
        "_control", "_passing", "_repeats", "_room", "_train_id", "_waiting_bytes", "classes", "first_data",
        "last_data", "last_data_in", "ledger", "mtu", "overflow", "packed", "peer", "probes", "repair", "row",
        "sent_bytes", "sent_datagrams", "waiting", "yard",
    )  # fmt: skip

    def __init__(self, peer: Peer, train_id: Callable[[], bytes]) -> None:
        self.peer = peer
        self._train_id = train_id
        self.yard = train.Yard()
        self.repair = Repair()
        self.row: Optional[Row] = None  # what came, as last told to the neighbour
        self.ledger = Ledger()  # and as it is told to people
        self.mtu = PathMtu(6 if ":" in peer.addr[0] else 4)
        self.probes: List[bytes] = []  # of the path MTU: must leave whole
        self._passing: List[Tuple[int, Bare, int, bytes]] = []
        self.waiting: List[Unit] = []
        self.first_data: Optional[float] = None
        self.last_data = self.last_data_in = float("-inf")
        self._control: List[Tuple[int, bytes]] = []
        self._repeats: List[bytes] = []
        self._room, self._waiting_bytes = _WEIGHED, 0
        self.classes = {word: Traffic(word) for word in CLASSES}
        self.overflow = self.packed = self.sent_bytes = self.sent_datagrams = 0

    def add(self, unit: Unit) -> None:
        """Gather it for the end of the turn."""
        if len(self.waiting) < self._room or self._has_more_room():
            self.waiting.append(unit)
        else:
            self.overflow += unit[2]

    def _has_more_room(self) -> bool:
        """Weigh what was gathered since the last time; whether as many may follow."""
        if self._room >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            return False
        latest = self.waiting[self._room - _WEIGHED :]
        self._waiting_bytes += sum(len(unit[3]) + len(unit[4]) for unit in latest)
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            return False
        self._room += _WEIGHED
        return True

    def control(self, kind: int, body: bytes) -> None:
        """Gather a control datagram (`kind_byte`), whose tag covers all of it."""
        if len(self._control) < MAX_CONTROL:
            self._control.append((kind, body))
        else:
            self.overflow += 1

    def takes_train(self, word: int, bare_bytes: int) -> bool:
        """May a train of this class, with datagrams of this length, be passed on as it is?"""
        if not self.repair.guards[word].may_ride:
            return False
        return bare_bytes <= self.mtu.bytes and len(self._passing) < MAX_TRAINS

    def pass_train(self, word: int, bare: Bare, bare_bytes: int, body: bytes) -> None:
        """Gather a whole train."""
        self._passing.append((word, bare, bare_bytes, body))

    def has_gathered(self) -> bool:
        """Is there anything to flush?"""
        return bool(self.waiting or self._control or self._passing or self._repeats or self.probes)

    def flush(self, now: float, unix: float) -> "List[Tuple[List[bytes], List[Train]]]":
        """What was gathered, as datagrams and the trains that follow them, more than once if others follow those.

        In the order of their sequences: out of it, they would be missed until they come.
        """
        unix_us = int(unix * 1e6)
        out: List[Parcel] = []
        if self._repeats:
            out += self._repeats
            self._repeats = []
        for kind, body in self._control:
            out.append(self.peer.sealed(kind, 0, body, b"", unix_us)[1])
        self._control.clear()
        if self.first_data is None and (self.waiting or self._passing):
            self.first_data = now
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            self._room, self._waiting_bytes = _WEIGHED, 0
            self.last_data = now
            if len(waiting) == 1:
                word, head, count, entries, payloads = waiting[0]
                self._data(word, head + bytes((count,)) + entries, payloads, now, unix_us, out)
            else:
                self._all(waiting, now, unix_us, out)
        for word, bare, bare_bytes, body in self._passing:
            self.last_data = now
            self._depart(word, bare, bare_bytes, body, unix_us, out)
        self._passing.clear()
        return self._in_order(out)

    def _in_order(self, out: "List[Parcel]") -> "List[Tuple[List[bytes], List[Train]]]":
        datagrams: List[bytes] = []
        trains: List[Train] = []
        groups = [(datagrams, trains)]
        for parcel in out:
            if isinstance(parcel, tuple):
                trains.append(parcel)
                continue
            if trains:
                datagrams, trains = [], []
                groups.append((datagrams, trains))
            datagrams.append(parcel)
            self.sent_datagrams += 1
            self.sent_bytes += len(parcel)
        return groups

    def _all(self, waiting: List[Unit], now: float, unix_us: int, out: "List[Parcel]") -> None:
        """Large ones as they are, small ones together; the order within a class stays."""
        most_bytes = self.mtu.bytes
        packs: Dict[int, _Pack] = {}
        at, end = 0, len(waiting)
        while at < end:
            word, head, count, entries, payloads = waiting[at]
            pack = packs.get(word)
            if len(entries) + len(payloads) > most_bytes // 2 or count > 1:
                if pack is not None:
                    self._end_pack(word, packs.pop(word), now, unix_us, out)
                may_ride = end - at >= train.LEAST_PACKETS and self.repair.guards[word].may_ride
                length = train.run_length(waiting, at) if may_ride else 0
                if length >= train.LEAST_PACKETS and train.BARE_BYTES + len(payloads) < most_bytes:
                    self._trains(word, head, waiting[at : at + length], unix_us, out)
                    at += length
                    continue
                self._data(word, head + bytes((count,)) + entries, payloads, now, unix_us, out)
                at += 1
                continue
            at += 1
            if pack is not None and pack.grown(head, entries, payloads, count) > most_bytes:
                self._end_pack(word, pack, now, unix_us, out)
                pack = None
            if pack is None:
                pack = packs[word] = _Pack()
            pack.add(head, entries, payloads, count)
        for word, pack in packs.items():
            self._end_pack(word, pack, now, unix_us, out)

    def _trains(self, word: int, head: bytes, units: List[Unit], unix_us: int, out: "List[Parcel]") -> None:
        loads = [(unit[3], unit[4]) for unit in units]
        while loads:
            count = train.room(loads, len(head))
            bare, body = train.coupled(self._train_id(), head, loads[:count])
            self._depart(word, bare, len(bare) // count, body, unix_us, out)
            loads = loads[count:]

    def _depart(
        self, word: int, bare: Bare, bare_bytes: int, body: bytes, unix_us: int, out: "List[Parcel]"
    ) -> None:
        traffic = self.classes[word]
        _sequence, datagram = self.peer.sealed(_TRAIN, traffic.marks, body, b"", unix_us)
        whole = b"".join((bare, datagram))
        out.append((whole, bare_bytes))
        count = len(bare) // bare_bytes + 1
        traffic.packets += count
        traffic.bytes += len(whole)
        self.sent_datagrams += count
        self.sent_bytes += len(whole)

    def _end_pack(self, word: int, pack: _Pack, now: float, unix_us: int, out: "List[Parcel]") -> None:
        self._data(word, pack.sections(), b"".join(pack.payloads), now, unix_us, out)
        if len(pack.payloads) > 1:
            self.packed += len(pack.payloads)

    def _data(
        self, word: int, sections: bytes, payloads: bytes, now: float, unix_us: int, out: "List[Parcel]"
    ) -> None:
        traffic = self.classes[word]
        sequence, datagram = self.peer.sealed(_DATA, traffic.marks, sections, payloads, unix_us)
        out.append(datagram)
        traffic.packets += 1
        traffic.bytes += len(datagram)
        if self.repair.guards[word].is_on and len(datagram) <= MOST_REPAIRED_BYTES:
            bodies = self.repair.leaves(word, sequence, datagram, now)
            if bodies:
                out += self._parity(word, bodies, unix_us)

    # --- repair --------------------------------------------------------------------------------------------

    def use(self, word: int, plan: Plan) -> None:
        """Protect a class by this plan from now on."""
        self.classes[word].marks = word << 6 | self.repair.use(word, plan)

    def _parity(self, word: int, bodies: List[bytes], unix_us: int) -> List[bytes]:
        sealed = [self.peer.sealed(_PARITY, word << 6, body, b"", unix_us) for body in bodies]
        self.repair.parities_left(bodies, [sequence for sequence, _ in sealed])
        datagrams = [datagram for _, datagram in sealed]
        self.classes[word].extra_bytes += sum(map(len, datagrams))
        return datagrams

    def repeat(self, extras: Sequence[Extra]) -> None:
        """Gather copies and retransmissions."""
        for word, datagram in extras:
            self.classes[word].extra_bytes += len(datagram)
            self._repeats.append(datagram)

    def pace(self, now: float, unix: float) -> bool:
        """Gather what repair has to send by now; whether there will be more soon."""
        copies, parities = self.repair.due(now)
        self.repeat(copies)
        unix_us = int(unix * 1e6)
        for word, bodies in parities:
            self._repeats += self._parity(word, bodies, unix_us)
        wanted = self.repair.wanted(self.peer, now)
        if wanted is not None:
            self.control(kind_byte(NACK), wanted)
        is_missing = self.peer.arrivals is not None and bool(self.peer.arrivals.missing)
        return self.yard.expire(now) or is_missing or self.repair.is_waiting()

    def probe_mtu(self, size: int, unix: float, now: float) -> None:
        """Gather a datagram of so many bytes that must not be cut on its way."""
        body = bytes(size - HEADER_BYTES)
        self.probes.append(self.peer.sealed(kind_byte(MTU), 0, body, b"", int(unix * 1e6))[1])
        self.mtu.sent(size, now)
        self.sent_datagrams += 1
        self.sent_bytes += size

    def gathered(self) -> Dict[str, int]:
        """What this turn has gathered so far: packets, trains and control datagrams, and their bytes."""
        packets = sum(len(unit[3]) + len(unit[4]) for unit in self.waiting)
        trains = sum(len(bare) for _, bare, _, _ in self._passing)
        control = sum(len(body) for _, body in self._control)
        return {
            "entries": len(self.waiting) + len(self._passing) + len(self._control),
            "most_entries": MAX_WAITING + MAX_TRAINS + MAX_CONTROL,
            "bytes": packets + trains + control,
            "most_bytes": MAX_WAITING_BYTES
            + (_WEIGHED + MAX_TRAINS) * LONGEST_BYTES
            + MAX_CONTROL * LONGEST_CONTROL,
        }
