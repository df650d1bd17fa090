"""Datagrams that come to the overlay port: proven, taken apart, and passed on or delivered."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Dict, List, Optional, Sequence, Tuple

from commcli.relay.overlay import train
from commcli.relay.overlay.exchange import Exchange
from commcli.relay.overlay.flows import Flow, FlowTable
from commcli.relay.overlay.routes import Routes, Step
from commcli.relay.overlay.segment import Bare, Segment
from commcli.relay.overlay.wire import (
    AGAIN,
    BARE,
    DATA,
    ECHO,
    ENDS_BYTES,
    ENTRY_BYTES,
    HEADER,
    HEADER_AT,
    HEADER_BYTES,
    IN_BLOCK,
    NUMBER_AND_LENGTH,
    PARITY,
    PLAIN,
    PROBE,
    PROBE_ID,
    TAG_BYTES,
    TRAIN,
    Addr,
    entry_ends,
    kind_byte,
)

# (source, destination, payloads) for the relayed address `destination`.
Delivery = Tuple[Addr, Addr, List[bytes]]
_DATA, _AGAIN, _TRAIN, _BARE, _PARITY = map(kind_byte, (DATA, AGAIN, TRAIN, BARE, PARITY))
_PROBE, _ECHO = map(kind_byte, (PROBE, ECHO))
_TRAIN_MARK, _BARE_MARK = bytes((_TRAIN,)), bytes((_BARE,))
_LENGTH_AT = TAG_BYTES + 2  # of an entry, from its end
_ENDS_AND_LENGTH = {
    ENTRY_BYTES[family]: struct.Struct(">%ds%dxH%dx" % (size, NUMBER_AND_LENGTH.size - 2, TAG_BYTES))
    for family, size in ENDS_BYTES.items()
}


class Batch:
    """Datagrams of one neighbour that came together, and what they bring for our own relayed addresses."""

    __slots__ = ("found", "has_run", "now", "proven", "segment", "unix", "unix_us")

    def __init__(self, segment: Segment, now: float, unix: float) -> None:
        self.segment, self.now, self.unix = segment, now, unix
        self.unix_us = int(unix * 1e6)
        self.has_run = False  # what came before the head of a train has yet to be looked at
        self.proven = 0  # datagrams that were new and the neighbour's own
        self.found: Dict[Flow, List[bytes]] = {}

    def deliveries(self) -> List[Delivery]:
        """By flow, in the order in which they came."""
        return [(flow.src, flow.dst, payloads) for flow, payloads in self.found.items()]


class Inbound:
    """The receiving side of one node's overlay. Marks segments that have something to send in `ready`."""

    def __init__(
        self,
        routes: Routes,
        flows: FlowTable,
        ready: Dict[Segment, None],
        restless: Dict[Segment, None],
        drops: "Counter[str]",
        exchange: Exchange,
    ) -> None:
        self._routes, self._flows, self._drops = routes, flows, drops
        self._ready, self._restless = ready, restless
        self._exchange = exchange

    def receive(self, source: Addr, datagrams: Sequence[bytes], now: float, unix: float) -> List[Delivery]:
        """Datagrams that came together: what is for our own relayed addresses."""
        segment = self._routes.by_addr.get(source)
        if segment is None:
            self._drops["unknown_peer"] += len(datagrams)
            return []
        batch = Batch(segment, now, unix)
        for data in datagrams:
            self._datagram(batch, data)
        return self._end(batch)

    def _end(self, batch: Batch) -> List[Delivery]:
        segment = batch.segment
        if batch.proven:
            segment.peer.heard = batch.now
            self._exchange.liveness.heard(segment.peer.id, batch.now, batch.proven)
            arrivals = segment.peer.arrivals
            if arrivals is not None and arrivals.missing:
                self._restless[segment] = None
        return batch.deliveries()

    def receive_train(self, source: Addr, data: bytes, size: int, now: float, unix: float) -> List[Delivery]:
        """The same, of datagrams of `size` bytes, the last of which may be shorter, one behind the other."""
        head_at = (len(data) - 1) // size * size
        segment = self._routes.by_addr.get(source)
        mark = data[head_at + HEADER_AT : head_at + HEADER_AT + 1]
        if segment is not None and mark == _TRAIN_MARK:
            batch = Batch(segment, now, unix)
            batch.has_run = True
            self._datagram(batch, data[head_at:], data, size)
            if batch.has_run:  # by itself, or anybody's, since it was no head of what came before it
                self._pieces(batch, data[:head_at], size)
            return self._end(batch)
        if segment is not None and mark == _BARE_MARK and segment.yard.run(data, size, now):
            self._restless[segment] = None
            return []
        return self.receive(source, [data[at : at + size] for at in range(0, len(data), size)], now, unix)

    def _datagram(self, batch: Batch, data: bytes, run: bytes = b"", size: int = 0) -> None:
        """`run`: the datagrams of `size` bytes of which the head of a train is the last."""
        if len(data) < HEADER_BYTES:
            self._short(batch, data)
            return
        kind, marks, covered, sequence, sent_us = HEADER.unpack_from(data, HEADER_AT)
        segment = batch.segment
        peer = segment.peer
        if kind == _BARE:
            self._bare(batch, data)
            return
        if len(data) < HEADER_BYTES + covered:
            self._drops["length"] += 1
            return
        if not peer.is_from(data, covered):
            self._drops["forged"] += 1
            return
        if marks >> 6 == PLAIN and (marks & IN_BLOCK or kind == _PARITY):
            self._drops["shape"] += 1  # nothing that no honest relay repairs is kept to rebuild others
            return
        arrivals = peer.arrivals
        if kind == _AGAIN:
            if arrivals is None or not arrivals.accept_again(sequence, batch.now):
                self._drops["repeated"] += 1  # usual: the first one has come as well
                return
        elif arrivals is None or not arrivals.accept(sequence, batch.now):
            refusal = self._exchange.begin(segment, kind, data, sequence, sent_us, batch.now, batch.unix)
            if refusal is not None:
                self._drops[refusal] += 1
                return
        else:
            arrivals.samples.append(batch.unix_us - sent_us)
        batch.proven += 1
        if kind in (_DATA, _AGAIN):
            segment.last_data_in = batch.now
            if marks & IN_BLOCK:
                self._again(batch, segment.repair.came(marks >> 6, sequence, data, batch.now))
            self._sections(batch, data, HEADER_BYTES + covered, marks >> 6)
        elif kind == _TRAIN:
            segment.last_data_in = batch.now
            self._train(batch, marks >> 6, data[HEADER_BYTES : HEADER_BYTES + covered], run, size)
        elif len(data) != HEADER_BYTES + covered:
            self._drops["shape"] += 1
        elif kind == _PARITY:
            self._parity(batch, marks >> 6, data[HEADER_BYTES:])
        elif kind in (_PROBE, _ECHO):
            self._probe(batch, kind, data[HEADER_BYTES:])
        else:
            self._exchange.receive(segment, kind, data, sent_us, batch.now, batch.unix)

    def _parity(self, batch: Batch, word: int, body: bytes) -> None:
        try:
            self._again(batch, batch.segment.repair.parity(word, body, batch.now))
        except ValueError:
            self._drops["shape"] += 1

    def _again(self, batch: Batch, rebuilt: Sequence[bytes]) -> None:
        """What parity gave back is as doubtful as what comes by the network, and takes the same way."""
        for data in rebuilt:
            self._datagram(batch, data)

    def _short(self, batch: Batch, data: bytes) -> None:
        if len(data) >= train.BARE_BYTES and data[HEADER_AT] == _BARE:
            self._bare(batch, data)
        else:
            self._drops["length"] += 1

    # --- media ---------------------------------------------------------------------------------------------

    def _sections(self, batch: Batch, data: bytes, payload_at: int, word: int) -> None:
        at, end, total = HEADER_BYTES, payload_at, len(data)
        while at < end:
            first = data[at]
            head_end = at + 1 + 4 * (first >> 4)
            size = ENTRY_BYTES.get(first & 15)
            if size is None or head_end >= end:
                self._drops["shape"] += 1
                return
            count = data[head_end]
            entries_end = head_end + 1 + count * size
            if not count or entries_end > end:
                self._drops["shape"] += 1
                return
            length_at = head_end + 1 + size - _LENGTH_AT
            payloads_end = payload_at + (data[length_at] << 8 | data[length_at + 1])
            for here in range(length_at + size, entries_end, size):
                payloads_end += data[here] << 8 | data[here + 1]
            if payloads_end > total:
                self._drops["shape"] += count
                return
            head, entries = data[at:head_end], data[head_end + 1 : entries_end]
            step = self._step(batch, head, count, len(entries) + payloads_end - payload_at)
            if step is not None:
                self._pass(batch, step, (word, head, count, entries, data[payload_at:payloads_end]), size)
            at, payload_at = entries_end, payloads_end

    def _step(self, batch: Batch, head: bytes, count: int, size: int) -> Optional[Step]:
        """Where packets of this path go, which have so many bytes; None: nowhere, and counted."""
        step = self._routes.find_step(head) or self._routes.step(head)
        refusal = step.refusal or step.media_refusal
        if refusal is None and step.previous is not batch.segment:
            refusal = "wrong_source"
        if refusal is None and step.is_pinned and not self._routes.allows(size, batch.now):
            refusal = "probe_rate"
        if refusal is not None:
            self._drops[refusal] += count
            return None
        return step

    def _pass(self, batch: Batch, step: Step, unit: Tuple[int, bytes, int, bytes, bytes], size: int) -> None:
        _word, head, _count, entries, payloads = unit
        if step.following is None:
            self._arrived(batch, step, head, size, entries, payloads)
        elif self._counted(batch, step, head, size, entries):
            step.following.add(unit)
            self._ready[step.following] = None

    def _counted(self, batch: Batch, step: Step, head: bytes, size: int, entries: bytes) -> bool:
        """Count packets for their flows; False if one of them is not to pass."""
        flow, of, packets, length_sum = None, b"", 0, 0
        for ends, length in _ENDS_AND_LENGTH[size].iter_unpack(entries):
            if ends != of:  # those of one frame stand together
                if flow is not None:
                    flow.passed(packets, length_sum, batch.unix)
                    packets = length_sum = 0
                of = ends
                flow = self._flows.find(head + ends) or self._open(batch, head + ends, step)
                if flow is None:
                    self._drops["endpoint"] += len(entries) // size
                    return False
            packets += 1
            length_sum += length
        if flow is not None:
            flow.passed(packets, length_sum, batch.unix)
        return True

    def _arrived(
        self, batch: Batch, step: Step, head: bytes, size: int, entries: bytes, payloads: bytes
    ) -> None:
        origin, payload_at, fixed = step.origin, 0, size - TAG_BYTES
        assert origin is not None
        for at in range(0, len(entries), size):
            entry = entries[at : at + fixed]
            number, length = NUMBER_AND_LENGTH.unpack_from(entry, fixed - NUMBER_AND_LENGTH.size)
            payload = payloads[payload_at : payload_at + length]
            payload_at += length
            if not origin.ends_with(head + entry, payload, entries[at + fixed : at + size]):
                self._drops["end_forged"] += 1
                continue
            key = head + entry[: -NUMBER_AND_LENGTH.size]
            flow = self._flows.find(key) or self._open(batch, key, step)
            if flow is None:
                self._drops["endpoint"] += 1
                continue
            flow.passed(1, length, batch.unix)
            if step.reverse is not None:
                step.reverse.last_heard = batch.now
            if origin.numbers.accept(number, batch.now, batch.unix):
                batch.found.setdefault(flow, []).append(payload)
            else:
                self._drops["second_copy"] += 1  # usual: it came over the backup path too

    def _open(self, batch: Batch, key: bytes, step: Step) -> Optional[Flow]:
        family = key[0] & 15
        src, dst = entry_ends(family, key[-ENDS_BYTES[family] :])
        # Only the edges' own relayed addresses ride: a relay gone bad can not speak for another one's users.
        if not (self._routes.owns(step.path[0], src) and self._routes.owns(step.path[-1], dst)):
            return None
        return self._flows.add(key, Flow(src, dst, step.role, step.path, batch.unix))

    # --- trains --------------------------------------------------------------------------------------------

    def _bare(self, batch: Batch, data: bytes) -> None:
        found = batch.segment.yard.bare(data, batch.now)
        self._restless[batch.segment] = None
        if found is not None:
            coupling, load = found
            step = self._step(batch, coupling.head, 1, 0)  # its head was taken for all of them
            if step is not None:
                self._unload(batch, step, coupling, (load,))

    def _train(self, batch: Batch, word: int, body: bytes, run: bytes, size: int) -> None:
        try:
            coupling = train.head_of(body, word)
        except ValueError:
            self._drops["shape"] += 1
            return
        count = coupling.packets()
        step = self._step(batch, coupling.head, count, len(body) + count * coupling.bare_bytes)
        if step is None:
            return
        end = (len(run) - 1) // size * size if size else 0
        if end == count * size and train.is_whole(run, size, coupling):
            batch.has_run = False
            self._whole(batch, step, coupling, memoryview(run)[:end], body)
            return
        whole = batch.segment.yard.whole(coupling, run[:end])
        if whole is not None:
            batch.has_run = False
            self._whole(batch, step, coupling, whole, body)
            return
        self._pieces(batch, run[:end], size)
        self._restless[batch.segment] = None
        self._unload(batch, step, coupling, batch.segment.yard.head(coupling, batch.now))

    def _unload(
        self, batch: Batch, step: Step, coupling: train.Coupling, loads: Sequence[train.Load]
    ) -> None:
        """Packets of a train that go on, or arrive, one by one."""
        size = coupling.entry_bytes()
        for entry, payload in loads:
            self._pass(batch, step, (coupling.word, coupling.head, 1, entry, payload), size)

    def _pieces(self, batch: Batch, run: bytes, size: int) -> None:
        """What came in front of a head, one by one: not all of it need be of that train, nor of any."""
        batch.has_run = False
        for at in range(0, len(run), size or 1):
            self._datagram(batch, run[at : at + size])

    def _whole(self, batch: Batch, step: Step, coupling: train.Coupling, bare: Bare, body: bytes) -> None:
        following = step.following
        if following is not None and following.takes_train(coupling.word, coupling.bare_bytes):
            if self._counted_train(batch, step, coupling):
                following.pass_train(coupling.word, bare, coupling.bare_bytes, body)
                self._ready[following] = None
            return
        self._unload(batch, step, coupling, train.loads_of(bytes(bare), coupling))

    def _counted_train(self, batch: Batch, step: Step, coupling: train.Coupling) -> bool:
        head, find = coupling.head, self._flows.find
        for ends, packets, length_sum in coupling.by_flow():
            flow = find(head + ends) or self._open(batch, head + ends, step)
            if flow is None:
                self._drops["endpoint"] += coupling.packets()
                return False
            flow.passed(packets, length_sum, batch.unix)
        return True

    # --- liveness of paths ---------------------------------------------------------------------------------

    def _probe(self, batch: Batch, kind: int, body: bytes) -> None:
        hops = body[: -PROBE_ID.size]
        if len(body) <= PROBE_ID.size or len(hops) != 1 + 4 * (hops[0] >> 4):
            self._drops["shape"] += 1
            return
        step = self._routes.find_step(hops) or self._routes.step(hops)
        refusal = step.refusal or (step.echo_refusal if kind == _ECHO else step.probe_refusal)
        if refusal is None and step.previous is not batch.segment:
            refusal = "wrong_source"
        if refusal is not None:
            self._drops[refusal] += 1
            return
        gather = self._exchange.gather
        if step.following is not None:
            gather(step.following, kind, body)
        elif kind == _PROBE:
            # The answer goes back over the same relays, so that a route's death in either direction is noticed.
            numbers = b"".join(hops[at : at + 4] for at in range(len(hops) - 4, 0, -4))
            gather(batch.segment, _ECHO, hops[:1] + numbers + body[-PROBE_ID.size :])
        elif step.reverse is None or not step.reverse.answered(
            PROBE_ID.unpack_from(body, len(hops))[0], batch.now
        ):
            self._drops["unasked_echo"] += 1
