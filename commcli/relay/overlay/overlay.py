"""The overlay of one node: datagrams in, datagrams and deliveries out, along source routes between relays.

The ingress writes the whole path into the datagram (`wire`), every hop checks it against its own table's rows, nodes
and zones and passes it on. Keepalive probes take the very same paths; `failover` judges by them. No clock, no socket,
no random in here; `now` is monotonic seconds, `unix` wall-clock seconds.

What is to be sent is gathered until `flush`, at the end of each turn of the loop.
"""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from commcli.relay.overlay import failover, told
from commcli.relay.overlay.exchange import Exchange
from commcli.relay.overlay.flows import Flow, FlowTable
from commcli.relay.overlay.routes import Egress, Lane, Routes, Step
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.wire import (
    AGAIN,
    DATA,
    ECHO,
    ENDS_BYTES,
    ENTRY_BYTES,
    FAMILY_BYTES,
    HEADER,
    HEADER_AT,
    HEADER_BYTES,
    LONGEST_PAYLOAD,
    NUMBER_AND_LENGTH,
    OTHER,
    PROBE,
    PROBE_ID,
    TAG_BYTES,
    Addr,
    entry_ends,
    kind_byte,
    pack_endpoints,
)
from commcli.relay.table.shard import Shard

# (source, destination, payloads) for the relayed address `destination`.
Delivery = Tuple[Addr, Addr, List[bytes]]

# A tick later than this means that our own process stood still.
STALL_S = 0.1
FLOW_ACTIVE_S = 2.0
# Ticks are some 20 ms apart: to wait a whole tick for the last few ms would stretch every interval.
PROBE_SLACK_S = 0.005
MAX_PROBES_A_TICK = 64  # spreads the probes of a new table over the ticks
MAX_STATUS_FLOWS = 1000
SWEEP_INTERVAL_S = 10.0
PACE_S = 0.004  # how often repair is looked at while there is any
_DATA, _AGAIN, _PROBE, _ECHO = map(kind_byte, (DATA, AGAIN, PROBE, ECHO))
_MEDIA, _PROBES = (_DATA, _AGAIN), (_PROBE, _ECHO)


class Overlay:
    """One node's overlay. `drops` counts every datagram or packet that went nowhere, by reason."""

    def __init__(self, node: str, random_bytes: Callable[[int], bytes]) -> None:
        self._node = node
        self.routes = Routes(node, random_bytes)
        self.egress_of = self.routes.egress_of
        self.goes_straight = self.routes.goes_straight
        self.permits_straight = self.routes.permits_straight
        self._sent_flows, self._passed_flows = FlowTable(), FlowTable()
        self._probe_id = int.from_bytes(random_bytes(4), "big")
        self._last_tick: Optional[float] = None
        self._stalled = False
        self._next_sweep = self._next_pace = float("-inf")
        self._restless: Dict[Segment, None] = {}  # repair is going on, so they must be looked at often
        self._ready: Dict[Segment, None] = {}  # they have something to send
        self.drops: Counter[str] = Counter()
        self._exchange = Exchange(node, self.routes, random_bytes, self._ready, self.drops)

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        self.routes.set_peers(peers)

    def set_shard(self, shard: Optional[Shard]) -> None:
        """The table to follow from now on. What is known of paths that stay is kept."""
        self.routes.set_shard(shard)

    # --- out -----------------------------------------------------------------------------------------------

    def send(
        self, egress: str, src: Addr, dst: Addr, payloads: Sequence[bytes], now: float, unix: float
    ) -> None:
        """Packets from our relayed address `src` to `dst` at the egress: gathered for `flush`, or dropped."""
        way = self.routes.egresses.get(egress)
        if way is None:
            self._unsent(egress, len(payloads))
            return
        way.last_data = now
        lane = way.lane
        key = (lane.path, src, dst)
        flow = self._sent_flows.find(key) or self._open_sent(key, unix)
        if flow is None:
            self.drops["endpoint"] += len(payloads)
            return
        word = OTHER
        other = way.copies_on.get(word)
        numbers = lane.far.numbers
        for payload in payloads:
            if len(payload) > LONGEST_PAYLOAD:
                self.drops["too_long"] += 1
                continue
            flow.packets += 1
            flow.bytes += len(payload)
            number = numbers.next(unix)
            self._launch(lane, flow, word, number, payload)
            if other is not None:
                self._launch(other, flow, word, number, payload)
                other.next.classes[word].extra_bytes += len(payload)
        flow.last_unix = unix

    def _launch(self, lane: Lane, flow: Flow, word: int, number: int, payload: bytes) -> None:
        head = lane.heads[flow.family]
        entry = flow.ends + NUMBER_AND_LENGTH.pack(number, len(payload))
        tag = lane.far.end_seal()
        tag.update(head + entry)
        tag.update(payload)
        following = lane.next
        following.add((word, head, 1, entry + tag.digest(), payload))
        self._ready[following] = None

    def _unsent(self, egress: str, count: int) -> None:
        shard = self.routes.shard
        blocked = shard is not None and egress in shard.blocked
        self.drops["blocked" if blocked else "no_route"] += count

    def _open_sent(self, key: Tuple[Tuple[str, ...], Addr, Addr], unix: float) -> Optional[Flow]:
        path, src, dst = key
        try:
            ends = pack_endpoints(src, dst)
        except ValueError:
            return None
        flow = Flow(src, dst, "ingress", path, unix)
        flow.family, flow.ends = ends[0], ends[FAMILY_BYTES:]
        return self._sent_flows.add(key, flow)

    def flush(self, now: float, unix: float) -> List[Tuple[Addr, List[bytes]]]:
        """All datagrams that were gathered, by next hop. Call it at the end of each turn of the loop."""
        if self._restless and now >= self._next_pace:
            self._pace(now, unix)
        if not self._ready:
            return []
        out = [(segment.peer.addr, segment.flush(now, unix)) for segment in self._ready]
        self._ready.clear()
        return out

    def _pace(self, now: float, unix: float) -> None:
        self._next_pace = now + PACE_S
        for segment in list(self._restless):
            del self._restless[segment]
            if segment.has_gathered():
                self._ready[segment] = None

    def wish(self, now: float) -> Optional[float]:
        """When `tick` should be called at the latest, None for its usual time."""
        return now + PACE_S if self._restless else None

    # --- in ------------------------------------------------------------------------------------------------

    def receive(self, source: Addr, datagrams: Sequence[bytes], now: float, unix: float) -> List[Delivery]:
        """Datagrams that came to the overlay port together: what is for our own relayed addresses."""
        segment = self.routes.by_addr.get(source)
        if segment is None:
            self.drops["unknown_peer"] += len(datagrams)
            return []
        found: Dict[Flow, List[bytes]] = {}
        for data in datagrams:
            self._datagram(segment, data, now, unix, found)
        arrivals = segment.peer.arrivals
        if arrivals is not None and arrivals.missing:
            self._restless[segment] = None
        return [(flow.src, flow.dst, payloads) for flow, payloads in found.items()]

    def _datagram(
        self, segment: Segment, data: bytes, now: float, unix: float, found: Dict[Flow, List[bytes]]
    ) -> None:
        if len(data) < HEADER_BYTES:
            self.drops["length"] += 1
            return
        kind, marks, covered, sequence, sent_us = HEADER.unpack_from(data, HEADER_AT)
        peer = segment.peer
        if len(data) < HEADER_BYTES + covered:
            self.drops["length"] += 1
            return
        if not peer.is_from(data, covered):
            self.drops["forged"] += 1
            return
        arrivals = peer.arrivals
        if kind == _AGAIN:
            if arrivals is None or not arrivals.accept_again(sequence, now):
                self.drops["repeated"] += 1  # usual: the first one has come as well
                return
        elif arrivals is None or not arrivals.accept(sequence, now):
            refusal = self._exchange.begin(segment, kind, data, sequence, sent_us, now, unix)
            if refusal is not None:
                self.drops[refusal] += 1
                return
        else:
            arrivals.samples.append(int(unix * 1e6) - sent_us)
        peer.heard = now
        if kind in _MEDIA:
            segment.last_data_in = now
            self._sections(segment, data, HEADER_BYTES + covered, marks >> 6, now, unix, found)
        elif len(data) != HEADER_BYTES + covered:
            self.drops["shape"] += 1
        elif kind in _PROBES:
            self._probe(segment, kind, data[HEADER_BYTES:], now)
        else:
            self._exchange.receive(segment, kind, data, sent_us, now, unix)

    def _sections(
        self,
        segment: Segment,
        data: bytes,
        payload_at: int,
        word: int,
        now: float,
        unix: float,
        found: Dict[Flow, List[bytes]],
    ) -> None:
        at, end, total = HEADER_BYTES, payload_at, len(data)
        steps = self.routes.find_step
        while at < end:
            first = data[at]
            head_end = at + 1 + 4 * (first >> 4)
            size = ENTRY_BYTES.get(first & 15)
            if size is None or head_end >= end:
                self.drops["shape"] += 1
                return
            count = data[head_end]
            entries_at = head_end + 1
            entries_end = entries_at + count * size
            if not count or entries_end > end:
                self.drops["shape"] += 1
                return
            head = data[at:head_end]
            at = entries_end
            if count == 1:
                payloads_end = payload_at + (data[entries_end - 14] << 8 | data[entries_end - 13])
            else:
                payloads_end = payload_at + sum(
                    data[here - 14] << 8 | data[here - 13]
                    for here in range(entries_at + size, entries_end + 1, size)
                )
            if payloads_end > total:
                self.drops["shape"] += count
                return
            step = steps(head) or self.routes.step(head)
            refusal = step.refusal or step.media_refusal
            if refusal is not None:
                self.drops[refusal] += count
            elif step.previous is not segment:
                self.drops["wrong_source"] += count
            else:
                entries, payloads = data[entries_at:entries_end], data[payload_at:payloads_end]
                if step.following is None:
                    self._arrived(step, head, size, entries, payloads, now, unix, found)
                elif self._counted(step, head, size, entries, unix):
                    step.following.add((word, head, count, entries, payloads))
                    self._ready[step.following] = None
            payload_at = payloads_end

    def _counted(self, step: Step, head: bytes, size: int, entries: bytes, unix: float) -> bool:
        """Count a section for its flows; False if one of them is not to pass."""
        ends_size = size - 22
        for at in range(0, len(entries), size):
            key = head + entries[at : at + ends_size]
            flow = self._passed_flows.find(key) or self._open_passed(key, head[0] & 15, step, unix)
            if flow is None:
                self.drops["endpoint"] += len(entries) // size
                return False
            flow.packets += 1
            flow.bytes += entries[at + size - 14] << 8 | entries[at + size - 13]
            flow.last_unix = unix
        return True

    def _arrived(
        self,
        step: Step,
        head: bytes,
        size: int,
        entries: bytes,
        payloads: bytes,
        now: float,
        unix: float,
        found: Dict[Flow, List[bytes]],
    ) -> None:
        origin = step.origin
        assert origin is not None
        payload_at, fixed = 0, size - TAG_BYTES
        for at in range(0, len(entries), size):
            entry = entries[at : at + fixed]
            number, length = NUMBER_AND_LENGTH.unpack_from(entry, fixed - NUMBER_AND_LENGTH.size)
            payload = payloads[payload_at : payload_at + length]
            payload_at += length
            if not origin.ends_with(head + entry, payload, entries[at + fixed : at + size]):
                self.drops["end_forged"] += 1
                continue
            key = head + entry[: -NUMBER_AND_LENGTH.size]
            flow = self._passed_flows.find(key) or self._open_passed(key, head[0] & 15, step, unix)
            if flow is None:
                self.drops["endpoint"] += 1
                continue
            flow.packets += 1
            flow.bytes += length
            flow.last_unix = unix
            if step.reverse is not None:
                step.reverse.last_heard = now
            if not origin.numbers.accept(number, now):
                self.drops["second_copy"] += 1  # usual: it came over the backup path too
                continue
            payloads_found = found.get(flow)
            if payloads_found is None:
                found[flow] = [payload]
            else:
                payloads_found.append(payload)

    def _open_passed(self, key: bytes, family: int, step: Step, unix: float) -> Optional[Flow]:
        src, dst = entry_ends(family, key[-ENDS_BYTES[family] :])
        # Only the edges' own relayed addresses ride: a relay gone bad can not speak for another one's users.
        if not (self.routes.owns(step.path[0], src) and self.routes.owns(step.path[-1], dst)):
            return None
        return self._passed_flows.add(key, Flow(src, dst, step.role, step.path, unix))

    # --- liveness of paths ---------------------------------------------------------------------------------

    def _probe(self, segment: Segment, kind: int, body: bytes, now: float) -> None:
        hops = body[: -PROBE_ID.size]
        if len(body) <= PROBE_ID.size or len(hops) != 1 + 4 * (hops[0] >> 4):
            self.drops["shape"] += 1
            return
        step = self.routes.find_step(hops) or self.routes.step(hops)
        refusal = step.refusal or (step.media_refusal if kind == _PROBE else None)
        if refusal is not None:
            self.drops[refusal] += 1
        elif step.previous is not segment:
            self.drops["wrong_source"] += 1
        elif step.following is not None:
            self._gather(step.following, kind, body)
        elif kind == _PROBE:
            # The answer goes back over the same relays, so that a route's death in either direction is noticed.
            numbers = b"".join(hops[at : at + 4] for at in range(len(hops) - 4, 0, -4))
            self._gather(segment, _ECHO, hops[:1] + numbers + body[-PROBE_ID.size :])
        elif step.reverse is None or not step.reverse.answered(PROBE_ID.unpack_from(body, len(hops))[0], now):
            self.drops["unasked_echo"] += 1

    def _gather(self, segment: Segment, kind: int, body: bytes) -> None:
        segment.control(kind, body)
        self._ready[segment] = None

    def tick(self, now: float, unix: float) -> None:
        """Decide on switches, and gather what is due. Call it every 10 to 20 ms, and `flush` after it."""
        self._excuse_own_stall(now)
        self._exchange.tick(now, unix)
        self._decide(now, unix)
        due = 0
        for way in self.routes.egresses.values():
            for lane in way.lanes.values():
                waited_s = now - lane.monitor.last_probe + PROBE_SLACK_S
                if due < MAX_PROBES_A_TICK and waited_s >= self._interval_s(way, lane, now):
                    due += 1
                    self._probe_out(lane, now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self._sent_flows.expire(unix)
            self._passed_flows.expire(unix)

    def _decide(self, now: float, unix: float) -> None:
        for way in self.routes.egresses.values():
            switch = way.choice.decide(now)
            if switch is not None:
                way.lane = way.lanes[switch.after]
                way.switches.append(
                    {"unix": unix, "from": switch.before, "to": switch.after, "reason": switch.reason}
                )

    def _excuse_own_stall(self, now: float) -> None:
        """One late tick is forgiven; a caller that is always late must not keep dead paths alive."""
        stalled_s = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        is_excused, self._stalled = stalled_s > STALL_S and not self._stalled, stalled_s > STALL_S
        if is_excused:
            for monitor in self.routes.monitors.values():
                monitor.excuse(stalled_s)

    def _interval_s(self, way: Egress, lane: Lane, now: float) -> float:
        if lane is way.lane and now - way.last_data < FLOW_ACTIVE_S:
            return failover.IN_USE_INTERVAL_S
        return self.routes.standby_interval_s

    def _probe_out(self, lane: Lane, now: float) -> None:
        self._probe_id = (self._probe_id + 1) & 0xFFFFFFFF
        lane.monitor.probed(self._probe_id, now)
        self._gather(lane.next, _PROBE, lane.hops + PROBE_ID.pack(self._probe_id))

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self) -> Dict[str, object]:
        """JSON-able: {"paths": {egress: ...}, "flows": [...], "drops": {reason: count}}; rtt_ms None: unmeasured."""
        shard = self.routes.shard
        return {
            "serial": None if shard is None else shard.serial,
            "paths": self.paths(),
            "segments": told.segments(self.routes),
            "flows": self.flows(),
            "uncounted_flows": self._sent_flows.uncounted + self._passed_flows.uncounted,
            "buffers": self.buffers(),
            "drops": dict(self.drops),
        }

    def paths(self) -> Dict[str, object]:
        """{egress: what is known of the way there}."""
        return told.paths(self.routes)

    def flows(self, limit: int = MAX_STATUS_FLOWS) -> List[Dict[str, object]]:
        """The latest flows that came in, passed or went out here (`Flow.row`)."""
        return (self._sent_flows.rows(limit) + self._passed_flows.rows(limit))[:limit]

    def buffers(self) -> Dict[str, Dict[str, int]]:
        """{buffer: how much is in it, and its bound}."""
        return told.buffers(self.routes, (self._sent_flows, self._passed_flows))
