"""The overlay of one node: datagrams in, datagrams and deliveries out, along source routes between relays.

The ingress writes the whole path into the datagram (`wire`), every hop checks it against its own table's rows, nodes
and zones and passes it on. Keepalive probes take the very same paths; `failover` judges by them. No clock, no socket,
no random in here; `now` is monotonic seconds, `unix` wall-clock seconds.

What is to be sent is gathered until `flush`, at the end of each turn of the loop.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.overlay import failover, told
from commcli.relay.overlay.exchange import Exchange
from commcli.relay.overlay.flows import FLOW_ACTIVE_S, Flow, FlowTable
from commcli.relay.overlay.inbound import Inbound
from commcli.relay.overlay.liveness import Liveness
from commcli.relay.overlay.routes import Egress, Lane, Routes
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.steering import Steering
from commcli.relay.overlay.wire import (
    FAMILY_BYTES,
    LONGEST_PAYLOAD,
    NUMBER_AND_LENGTH,
    OTHER,
    PLAIN,
    PROBE,
    PROBE_ID,
    Addr,
    kind_byte,
    pack_endpoints,
)
from commcli.relay.table.shard import LABELS, Shard


class Departure(NamedTuple):
    """What leaves for one neighbour: datagrams, trains (datagrams of one length and a shorter one, that length), and
    datagrams that must not be cut on their way.
    """

    to: Addr
    datagrams: List[bytes]
    trains: List[Tuple[bytes, int]]
    probes: List[bytes]


# A tick later than this means that our own process stood still.
STALL_S = 0.1
# Ticks are some 20 ms apart: to wait a whole tick for the last few ms would stretch every interval.
PROBE_SLACK_S = 0.005
MAX_PROBES_A_TICK = 64  # spreads the probes of a new table over the ticks
MAX_STATUS_FLOWS = 1000
MAX_NEWS = 256
VISIT_PARTS = 5  # a tenth of a second, at 20 ms a tick
SWEEP_INTERVAL_S = 10.0
PACE_S = 0.004  # how often repair is looked at while there is any
_PROBE = kind_byte(PROBE)


class Overlay:
    """One node's overlay. `drops` counts every datagram or packet that went nowhere, by reason."""

    def __init__(self, node: str, random_bytes: Callable[[int], bytes]) -> None:
        self.routes = Routes(node, random_bytes)
        self.egress_of = self.routes.egress_of
        self.goes_straight = self.routes.goes_straight
        self.permits_straight = self.routes.permits_straight
        self._sent_flows, self._passed_flows = FlowTable(), FlowTable()
        self._probe_id = int.from_bytes(random_bytes(4), "big")
        self._last_tick: Optional[float] = None
        self._stalled = False
        self._used: Dict[str, None] = {}  # egresses that media goes to
        self._part = 0
        self.news: Deque[Dict[str, object]] = deque(maxlen=MAX_NEWS)  # switches of paths, to be logged
        self._next_sweep = self._next_pace = float("-inf")
        self._restless: Dict[Segment, None] = {}  # repair is going on, so they must be looked at often
        self._ready: Dict[Segment, None] = {}  # they have something to send
        self.drops: Counter[str] = Counter()
        self._switched: Counter[str] = Counter(dict.fromkeys(LABELS, 0))
        self._liveness = Liveness(node, self.routes.nonce_of, self.routes.further)
        self._steering = Steering(self.routes, self._liveness.rtt_s)
        self._exchange = Exchange(
            self.routes, self._liveness, self._ready, self.drops, self._steering.reported
        )
        inbound = Inbound(
            self.routes, self._passed_flows, self._ready, self._restless, self.drops, self._exchange
        )
        self.receive, self.receive_train = inbound.receive, inbound.receive_train

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        self.routes.set_peers(peers)

    def set_shard(self, shard: Optional[Shard]) -> None:
        """The table to follow from now on. What is known of paths that stay is kept."""
        self.routes.set_shard(shard)

    def set_staged(self, shard: Optional[Shard]) -> None:
        """The table to come, whose paths are carried already; None: there is none."""
        self.routes.set_staged(shard)

    # --- out -----------------------------------------------------------------------------------------------

    def send(
        self,
        egress: str,
        src: Addr,
        dst: Addr,
        payloads: Sequence[bytes],
        now: float,
        unix: float,
        via: Optional[str] = None,
        plain: bool = False,
    ) -> None:
        """Packets from our relayed address `src` to `dst` at the egress: gathered for `flush`, or dropped.

        via: over this node and no other way. plain: unrepaired.
        """
        if via is not None:
            pinned = self.routes.pinned(via, egress)
            if isinstance(pinned, Lane):
                self._send_on(pinned, {}, src, dst, payloads, now, unix, plain)
            else:
                self.drops[pinned] += len(payloads)
            return
        way = self.routes.egresses.get(egress)
        if way is None:
            self._unsent(egress, len(payloads))
            return
        way.last_data = now
        self._used[egress] = None
        self._send_on(way.lane, way.copies_on, src, dst, payloads, now, unix, plain)

    def _send_on(
        self,
        lane: Lane,
        copies_on: Mapping[int, Lane],
        src: Addr,
        dst: Addr,
        payloads: Sequence[bytes],
        now: float,
        unix: float,
        plain: bool,
    ) -> None:
        key = (lane.path, src, dst)
        flow = self._sent_flows.find(key) or self._open_sent(key, unix)
        if flow is None:
            self.drops["endpoint"] += len(payloads)
            return
        word = PLAIN if plain else _class_of(flow, payloads, now)
        other = copies_on.get(word)
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

    def flush(self, now: float, unix: float) -> List[Departure]:
        """All that was gathered, by next hop. Call it at the end of each turn of the loop."""
        self._exchange.say_hello(now)
        if self._liveness.changed:
            self._liveness.changed = False
            egresses = self.routes.egresses
            self._decide([(node, egresses[node]) for node in self._used if node in egresses], now, unix)
        if self._restless and now >= self._next_pace:
            self._pace(now, unix)
        if not self._ready:
            return []
        out = []
        for segment in self._ready:
            probes, segment.probes = segment.probes, []
            for datagrams, trains in segment.flush(now, unix):
                out.append(Departure(segment.peer.addr, datagrams, trains, probes))
                probes = []
            if segment.repair.is_on and segment.repair.is_waiting():
                self._restless[segment] = None
        self._ready.clear()
        return out

    def _pace(self, now: float, unix: float) -> None:
        self._next_pace = now + PACE_S
        for segment in list(self._restless):
            if not segment.pace(now, unix):
                del self._restless[segment]
            if segment.has_gathered():
                self._ready[segment] = None

    def wish(self, now: float) -> Optional[float]:
        """When `flush` should be called at the latest, None if nothing is known to come."""
        hello = self._liveness.wish()
        return min(now + PACE_S, hello) if self._restless else hello

    def too_big(self, to: Addr, size: int, now: float) -> None:
        """Our own interface does not take a probe of the path MTU."""
        segment = self.routes.by_addr.get(to)
        if segment is not None:
            segment.mtu.too_big(size, now)

    # --- liveness of paths ---------------------------------------------------------------------------------

    def tick(self, now: float, unix: float) -> None:
        """Decide on switches, and gather what is due. Call it every 10 to 20 ms, and `flush` after it."""
        self._excuse_own_stall(now)
        self._exchange.tick(now, unix)
        self._steering.tick(now)
        ways = self._to_visit(now)
        self._decide(ways, now, unix)
        due = 0
        for _, way in ways:
            for lane in way.lanes.values():
                waited_s = now - lane.monitor.last_probe + PROBE_SLACK_S
                if due < MAX_PROBES_A_TICK and waited_s >= self._interval_s(way, lane, now):
                    due += 1
                    self._probe_out(lane, now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self._sent_flows.expire(unix)
            self._passed_flows.expire(unix)

    def _to_visit(self, now: float) -> List[Tuple[str, Egress]]:
        """The ways in use at every tick, the others in turn: a fleet of hundreds has thousands of paths."""
        egresses = self.routes.egresses
        for node in [node for node in self._used if not self._is_used(node, now)]:
            del self._used[node]
        nodes = list(egresses)
        part = self._part = (self._part + 1) % VISIT_PARTS
        return [(node, egresses[node]) for node in {**self._used, **dict.fromkeys(nodes[part::VISIT_PARTS])}]

    def _is_used(self, node: str, now: float) -> bool:
        way = self.routes.egresses.get(node)
        return way is not None and now - way.last_data < FLOW_ACTIVE_S

    def _decide(self, ways: Sequence[Tuple[str, Egress]], now: float, unix: float) -> None:
        for node, way in ways:
            switch = way.choice.decide(now, self._liveness.dead_on, self._liveness.vouched)
            if switch is not None:
                way.lane = way.lanes[switch.after]
                row = {"unix": unix, "from": switch.before, "to": switch.after, "reason": switch.reason}
                way.switches.append(row)
                self._switched[switch.after] += 1
                self.news.append({"towards": node, **row})

    def _excuse_own_stall(self, now: float) -> None:
        """One late tick is forgiven; a caller that is always late must not keep dead paths alive."""
        stalled_s = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        is_excused, self._stalled = stalled_s > STALL_S and not self._stalled, stalled_s > STALL_S
        if is_excused:
            self._liveness.excuse(stalled_s, now)
            for monitor in self.routes.monitors.values():
                monitor.excuse(stalled_s)

    def _interval_s(self, way: Egress, lane: Lane, now: float) -> float:
        if lane is way.lane and now - way.last_data < FLOW_ACTIVE_S:
            return failover.IN_USE_INTERVAL_S
        return self.routes.standby_interval_s

    def _probe_out(self, lane: Lane, now: float) -> None:
        self._probe_id = (self._probe_id + 1) & 0xFFFFFFFF
        lane.monitor.probed(self._probe_id, now)
        self._exchange.gather(lane.next, _PROBE, lane.hops + PROBE_ID.pack(self._probe_id))

    # --- a next process goes on ----------------------------------------------------------------------------

    def kept(self, now: float) -> Dict[str, object]:
        """What the next process of this relay is to know (JSON): how paths are, which are in use, what came last."""
        highest = {
            node: (segment.peer.arrivals.highest, segment.peer.numbers.highest())
            for node, segment in self.routes.segments.items()
            if segment.peer.arrivals is not None
        }
        paths = {" ".join(path): monitor.kept(now) for path, monitor in self.routes.monitors.items()}
        ways = {node: [list(way.lane.path), list(way.switches)] for node, way in self.routes.egresses.items()}
        return {"paths": paths, "ways": ways, "highest": highest}

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on with what another process `kept`, after peers and table are known. What no longer is, is left out."""
        for name, monitor_kept in kept.get("paths", {}).items():
            monitor = self.routes.monitors.get(tuple(name.split(" ")))
            if monitor is not None:
                monitor.resume(monitor_kept, now)
        for node, (path, switches) in kept.get("ways", {}).items():
            way = self.routes.egresses.get(node)
            if way is not None:
                way.resume(tuple(path), switches)
        for node, highest in kept.get("highest", {}).items():
            segment = self.routes.segments.get(node)
            if segment is not None and segment.peer.arrivals is None:
                segment.peer.resume(int(highest[0]), highest[1], now)

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self) -> Dict[str, object]:
        """JSON-able: the figures, "further" (segments that neighbours report) and "flows"; None: unmeasured."""
        return {
            **self.figures(),
            "further": self._steering.further(self._last_tick or 0.0),
            "flows": self.flows(),
            "uncounted_flows": self._sent_flows.uncounted + self._passed_flows.uncounted,
        }

    def figures(self) -> Dict[str, object]:
        """The part of the status that does not grow with the calls. "carries": does the table name the paths that
        may pass here? "switched": {path: how often a way moved to it since the start}.
        """
        shard = self.routes.shard
        return {
            "serial": None if shard is None else shard.serial,
            "carries": None if shard is None else shard.carries is not None,
            "paths": self.paths(),
            "segments": told.segments(self.routes, self._steering, self._liveness, self._last_tick or 0.0),
            "buffers": self.buffers(),
            "drops": dict(self.drops),
            "switched": dict(self._switched),
        }

    def paths(self) -> Dict[str, object]:
        """{egress: what is known of the way there}."""
        return told.paths(self.routes)

    def flows(self, limit: int = MAX_STATUS_FLOWS) -> List[Dict[str, object]]:
        """The latest flows that came in, passed or went out here (`Flow.row`)."""
        return (self._sent_flows.rows(limit) + self._passed_flows.rows(limit))[:limit]

    def segments(self) -> "Dict[str, List[Dict[str, object]]]":
        """{"segments": those that end here, "sends": those that begin here}, all their traffic (`told`)."""
        return {"segments": told.came(self.routes, self._liveness.rtt_s), "sends": told.sent(self.routes)}

    def buffers(self) -> Dict[str, Dict[str, int]]:
        """{buffer: how much is in it, and its bound}."""
        return told.buffers(self.routes, self._steering, (self._sent_flows, self._passed_flows))


def _class_of(flow: Flow, payloads: Sequence[bytes], now: float) -> int:
    if flow.classifier is None or not b"\x80" <= payloads[0][:1] <= b"\xbf":  # RTP and RTCP (RFC 7983)
        return OTHER
    return flow.classifier.word_of_burst([len(payload) for payload in payloads], now)
