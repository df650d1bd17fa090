"""The overlay of one node: datagrams in, datagrams and deliveries out, along source routes between relays.

The ingress writes the whole path into the header (`overlay_wire`), every hop checks it against the table's nodes
and zones and passes it on. Keepalive probes take the very same paths; `failover` judges by them. No clock, no
socket, no random in here; `now` is monotonic seconds, `unix` wall-clock seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Callable, Deque, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from commcli.relay.mesh import neighbours
from commcli.relay.overlay import failover
from commcli.relay.overlay.flows import Flow, FlowTable
from commcli.relay.overlay.peer import Peer
from commcli.relay.overlay.wire import (
    DATA,
    ECHO,
    FIXED_BYTES,
    LONGEST_BYTES,
    MAX_HOPS,
    MIN_HOPS,
    PROBE,
    PROBE_BODY,
    SHORTEST_BYTES,
    TAG_BYTES,
    VERSION,
    Addr,
    endpoint_bytes,
    hop_bytes,
    node_number,
    pack_endpoints,
    prefix,
    unpack_endpoints,
)
from commcli.relay.table import zones
from commcli.relay.table.shard import Path, Shard

# Send these bytes to that overlay port; or give the payload of `src` to the relayed address `dst`.
Effect = Union[Tuple[Literal["send"], Addr, bytes], Tuple[Literal["deliver"], Addr, Addr, bytes]]

# A tick later than this means that our own process stood still.
STALL_S = 0.1
FLOW_ACTIVE_S = 2.0
# Ticks are some 20 ms apart: to wait a whole tick for the last few ms would stretch every interval.
PROBE_SLACK_S = 0.005
# Standby probes of a big fleet together stay under this; each path then gets its own less often than every second.
MAX_STANDBY_PROBES_A_SECOND = 200.0
MAX_PROBES_A_TICK = 64  # spreads the probes of a new table over the ticks
MAX_SWITCHES_KEPT = 16
MAX_STEPS = 4096
MAX_STATUS_FLOWS = 1000
SWEEP_INTERVAL_S = 10.0
_DATA_BYTE, _PROBE_BYTE, _ECHO_BYTE = (VERSION << 4 | kind for kind in (DATA, PROBE, ECHO))


class _Lane:
    """An outgoing path with everything that is the same for each of its packets."""

    __slots__ = ("data_prefix", "hops", "label", "monitor", "next", "path", "probe_prefix")

    def __init__(self, label: str, monitor: failover.PathMonitor, following: Peer, serial: int) -> None:
        self.label, self.monitor, self.path, self.next = label, monitor, monitor.path, following
        self.hops = hop_bytes(self.path)
        self.data_prefix = prefix(DATA, len(self.path), 1, serial)
        self.probe_prefix = prefix(PROBE, len(self.path), 1, serial)


class _Egress:
    """The way towards one other edge."""

    __slots__ = ("choice", "lane", "lanes", "last_data", "may_go_straight", "switches")

    def __init__(self, lanes: Sequence[_Lane], earlier: Optional["_Egress"], may_go_straight: bool) -> None:
        self.may_go_straight = may_go_straight
        self.lanes = {lane.label: lane for lane in lanes}
        self.choice = failover.Choice([(lane.label, lane.monitor) for lane in lanes])
        self.lane = self.lanes[self.choice.active]
        self.last_data: float = earlier.last_data if earlier is not None else float("-inf")
        self.switches: Deque[Dict[str, object]] = (
            earlier.switches if earlier is not None else deque(maxlen=MAX_SWITCHES_KEPT)
        )


class _Step:
    """What to do with datagrams that name one path with us at one position: refuse them, or pass them on."""

    __slots__ = ("following", "hops", "passed", "path", "previous", "refusal", "reverse", "role")

    def __init__(self, refusal: Optional[str]) -> None:
        self.refusal = refusal
        self.path: Path = ()
        self.hops = b""
        self.passed = 0  # the second header byte on the next segment
        self.previous: Optional[Peer] = None
        self.following: Optional[Peer] = None
        self.role = ""
        self.reverse: Optional[failover.PathMonitor] = None  # our own path that is this one backwards


class Overlay:
    """One node's overlay. `drops` counts every datagram that went nowhere, by reason."""

    def __init__(self, node: str, random_bytes: Callable[[int], bytes]) -> None:
        self._node = node
        self._number = node_number(node)
        self._random = random_bytes
        self._peers: Dict[str, Peer] = {}
        self._by_addr: Dict[Addr, Peer] = {}
        self._shard: Optional[Shard] = None
        self._owners: Dict[str, List[Tuple[int, int, str]]] = {}
        self._numbers: Dict[int, str] = {}
        self._egresses: Dict[str, _Egress] = {}
        self._monitors: Dict[Path, failover.PathMonitor] = {}
        self._steps: Dict[bytes, _Step] = {}
        self._straight: Dict[str, bool] = {}  # what `permits_straight` said, until peers or table change
        self._sent_flows, self._passed_flows = FlowTable(), FlowTable()
        self._standby_interval_s = failover.STANDBY_INTERVAL_S
        self._probe_id = int.from_bytes(random_bytes(4), "big")
        self._last_tick: Optional[float] = None
        self._stalled = False
        self._next_sweep = float("-inf")
        self.drops: Counter[str] = Counter()

    # --- what it knows -------------------------------------------------------------------------------------

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        kept: Dict[str, Peer] = {}
        for node, row in known.items():
            if node == self._node or not row.keys:
                continue
            peer = self._peers.get(node) or Peer(row)
            peer.use(row)
            kept[node] = peer
        self._peers = kept
        self._by_addr = {peer.addr: peer for peer in kept.values()}
        self._rebuild()

    def set_shard(self, shard: Optional[Shard]) -> None:
        """The table to follow from now on. What is known of paths that stay is kept."""
        self._shard = shard
        nodes = {} if shard is None else shard.nodes
        self._numbers = {node_number(node): node for node in nodes}
        self._owners = {}
        for node, row in nodes.items():
            if node != self._node:
                for address in row.addresses:
                    self._owners.setdefault(address, []).append((*row.relay_ports, node))
        self._rebuild()

    def _rebuild(self) -> None:
        shard, earlier, monitors = self._shard, self._egresses, self._monitors
        self._steps.clear()
        self._straight.clear()
        self._egresses, self._monitors = {}, {}
        if shard is None:
            return
        for egress, route in shard.routes.items():
            if egress in shard.blocked:
                continue
            lanes = []
            for label, path in route.paths():
                # Two labels may name the same path: one monitor then.
                following = self._peers.get(path[1])
                if following is None:
                    continue  # no key, no packet: choosing it would be choosing silence
                monitor = self._monitors.get(path) or monitors.get(path) or failover.PathMonitor(path)
                self._monitors[path] = monitor
                lanes.append(_Lane(label, monitor, following, shard.serial))
            if lanes:
                self._egresses[egress] = _Egress(
                    lanes, earlier.get(egress), self._is_legal((self._node, egress))
                )
        wanted = len(self._monitors) / MAX_STANDBY_PROBES_A_SECOND
        self._standby_interval_s = max(failover.STANDBY_INTERVAL_S, wanted)

    def egress_of(self, ip: str, port: int) -> Optional[str]:
        """The other fleet node that owns this relayed address, None if none does."""
        for low, high, node in self._owners.get(ip, ()):
            if low <= port <= high:
                return node
        return None

    def _is_legal(self, path: Path) -> bool:
        return self._shard is not None and zones.violated(self._shard.zones, self._shard.nodes, path) is None

    # --- the data path -------------------------------------------------------------------------------------

    def goes_straight(self, egress: str) -> bool:
        """Should packets to this egress leave as plain UDP, from relayed address to relayed address?

        Yes where no overlay path has answered (a first table that not every relay holds yet, an overlay port that
        a firewall shuts) or the table knows none, as long as the zones permit the two edges. What the table
        blocks, and what a zone forbids, never goes straight.
        """
        way = self._egresses.get(egress)
        if way is None:
            return self.permits_straight(egress)
        if way.lane.monitor.state in failover.USABLE or not way.may_go_straight:
            return False
        return not any(lane.monitor.state in failover.USABLE for lane in way.lanes.values())

    def permits_straight(self, egress: str) -> bool:
        """May packets to this egress pass the two edges' countries and no other?"""
        answer = self._straight.get(egress)
        if answer is None:
            blocked = self._shard is None or egress in self._shard.blocked
            answer = self._straight[egress] = not blocked and self._is_legal((self._node, egress))
        return answer

    def send(
        self, egress: str, src: Addr, dst: Addr, payload: bytes, now: float, unix: float
    ) -> List[Tuple[Addr, bytes]]:
        """One datagram from our relayed address `src` to `dst` at the egress: what to send, [] if dropped."""
        way = self._egresses.get(egress)
        if way is None:
            return self._unsent(egress)
        way.last_data = now
        lane = way.lane
        peer = lane.next
        key = (lane.path, src, dst)
        flow = self._sent_flows.find(key)
        if flow is None:
            flow = self._open_sent(key, unix)
            if flow is None:
                return []
        if len(payload) > LONGEST_BYTES - FIXED_BYTES - len(flow.head) - TAG_BYTES:
            self.drops["too_long"] += 1
            return []
        flow.packets += 1
        flow.bytes += len(payload)
        flow.last_unix = unix
        return [(peer.addr, peer.sealed(lane.data_prefix, flow.head, payload, unix))]

    def _unsent(self, egress: str) -> List[Tuple[Addr, bytes]]:
        blocked = self._shard is not None and egress in self._shard.blocked
        self.drops["blocked" if blocked else "no_route"] += 1
        return []

    def _open_sent(self, key: Tuple[Path, Addr, Addr], unix: float) -> Optional[Flow]:
        path, src, dst = key
        try:
            endpoints = pack_endpoints(src, dst)
        except ValueError:
            self.drops["endpoint"] += 1
            return None
        head = hop_bytes(path) + endpoints
        return self._sent_flows.add(key, Flow(src, dst, "ingress", path, head, unix))

    def receive(self, data: bytes, source: Addr, now: float, unix: float) -> List[Effect]:
        """One datagram from the overlay port: what to do about it, [] if it was dropped or is only for us."""
        peer = self._by_addr.get(source)
        if peer is None:
            return self._drop("unknown_peer")
        if not SHORTEST_BYTES <= len(data) <= LONGEST_BYTES:
            return self._drop("length")
        refusal = peer.refusal(data, now, unix)
        if refusal is not None:
            return self._drop(refusal)
        message = data[:-TAG_BYTES]
        body_at = FIXED_BYTES + 4 * (data[1] >> 4)
        step = self._steps.get(data[1:2] + data[FIXED_BYTES:body_at]) or self._judge(data, body_at)
        if step.refusal is not None:
            return self._drop(step.refusal)
        if step.previous is not peer:
            return self._drop("wrong_source")
        if data[0] == _DATA_BYTE:
            return self._data(message, body_at, step, now, unix)
        return self._probe(message, body_at, step, now, unix)

    def _drop(self, reason: str) -> List[Effect]:
        self.drops[reason] += 1
        return []

    def _judge(self, data: bytes, body_at: int) -> _Step:
        """Whether a path may be used with us in this place. Remembered until peers or table change."""
        step = self._judged(data[1] >> 4, data[1] & 15, data[FIXED_BYTES:body_at])
        if len(self._steps) >= MAX_STEPS:
            self._steps.clear()  # only authenticated neighbours fill it, and one lookup refills a row
        self._steps[data[1:2] + data[FIXED_BYTES:body_at]] = step
        return step

    def _judged(self, hops: int, position: int, raw: bytes) -> _Step:
        if not MIN_HOPS <= hops <= MAX_HOPS or len(raw) != 4 * hops:
            return _Step("hops")
        numbers = [int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw), 4)]
        if not 0 < position < hops or numbers[position] != self._number:
            return _Step("not_for_us")
        if len(set(numbers)) != hops:
            return _Step("loop")
        if self._shard is None:
            return _Step("no_table")
        if not all(number in self._numbers for number in numbers):
            return _Step("unknown_hop")
        path = tuple(self._numbers[number] for number in numbers)
        if zones.violated(self._shard.zones, self._shard.nodes, path) is not None:
            return _Step("zone")
        return self._open_step(path, position, raw)

    def _open_step(self, path: Path, position: int, raw: bytes) -> _Step:
        is_last = position == len(path) - 1
        previous = self._peers.get(path[position - 1])
        following = None if is_last else self._peers.get(path[position + 1])
        if previous is None:
            return _Step("wrong_source")  # the sender has a key, so it is somebody else
        if following is None and not is_last:
            return _Step("no_key")
        step = _Step(None)
        step.path, step.hops, step.passed = path, raw, len(path) << 4 | position + 1
        step.previous, step.following = previous, following
        step.role = "egress" if is_last else "transit"
        step.reverse = self._monitors.get(path[::-1]) if is_last else None
        return step

    def _data(self, message: bytes, body_at: int, step: _Step, now: float, unix: float) -> List[Effect]:
        size = endpoint_bytes(message[body_at])
        if size is None or len(message) < body_at + size or message[2] or message[3]:
            return self._drop("shape")
        head = message[FIXED_BYTES : body_at + size]  # its length tells hops and family apart
        flow = self._passed_flows.find(head)
        if flow is None:
            flow = self._open_passed(head, head[body_at - FIXED_BYTES :], step, unix)
            if flow is None:
                return []
        flow.packets += 1
        flow.bytes += len(message) - body_at - size
        flow.last_unix = unix
        if step.following is not None:
            return [self._passed(message, step, step.following, unix)]
        if step.reverse is not None:
            step.reverse.last_heard = now
        return [("deliver", flow.src, flow.dst, message[body_at + size :])]

    def _open_passed(self, head: bytes, endpoints: bytes, step: _Step, unix: float) -> Optional[Flow]:
        found = unpack_endpoints(endpoints)
        if found is None:
            self.drops["shape"] += 1
            return None
        src, dst = found
        # Only the edges' own relayed addresses ride: a relay gone bad can not speak for another one's users.
        if not (self._owns(step.path[0], src) and self._owns(step.path[-1], dst)):
            self.drops["endpoint"] += 1
            return None
        return self._passed_flows.add(head, Flow(src, dst, step.role, step.path, b"", unix))

    def _owns(self, node: str, addr: Addr) -> bool:
        if self._shard is None:
            return False
        row = self._shard.nodes[node]
        return addr[0] in row.addresses and row.relay_ports[0] <= addr[1] <= row.relay_ports[1]

    def _passed(self, message: bytes, step: _Step, following: Peer, unix: float) -> Effect:
        front = bytes((message[0], step.passed)) + message[2:8]
        return ("send", following.addr, following.sealed(front, message[FIXED_BYTES:], b"", unix))

    # --- liveness ------------------------------------------------------------------------------------------

    def _probe(self, message: bytes, body_at: int, step: _Step, now: float, unix: float) -> List[Effect]:
        if message[0] not in (_PROBE_BYTE, _ECHO_BYTE):
            return self._drop("version")
        if len(message) != body_at + PROBE_BODY.size or message[2] or message[3]:
            return self._drop("shape")
        if step.following is not None:
            return [self._passed(message, step, step.following, unix)]
        if message[0] == _PROBE_BYTE:
            return [self._echo(message, body_at, step, unix)]
        probe_id, _origin_us = PROBE_BODY.unpack_from(message, body_at)
        if step.reverse is None or not step.reverse.answered(probe_id, now):
            self.drops["unasked_echo"] += 1
        return []

    def _echo(self, message: bytes, body_at: int, step: _Step, unix: float) -> Effect:
        """The answer goes back over the same relays, so that a route's death in either direction is noticed."""
        asker = step.previous
        assert asker is not None
        backwards = hop_bytes(step.path[::-1])
        front = prefix(ECHO, len(step.path), 1, int.from_bytes(message[4:8], "big"))
        return ("send", asker.addr, asker.sealed(front, backwards, message[body_at:], unix))

    def tick(self, now: float, unix: float) -> List[Tuple[Addr, bytes]]:
        """Decide on switches and send the probes that are due. Call it every 10 to 20 ms."""
        self._excuse_own_stall(now)
        due: List[Tuple[Addr, bytes]] = []
        for way in self._egresses.values():
            switch = way.choice.decide(now)
            if switch is not None:
                way.lane = way.lanes[switch.after]
                way.switches.append(
                    {"unix": unix, "from": switch.before, "to": switch.after, "reason": switch.reason}
                )
            for lane in way.lanes.values():
                waited_s = now - lane.monitor.last_probe + PROBE_SLACK_S
                wanted = waited_s >= self._interval_s(way, lane, now)
                if wanted and len(due) < MAX_PROBES_A_TICK:
                    due.append(self._probe_out(lane, now, unix))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self._sent_flows.expire(unix)
            self._passed_flows.expire(unix)
        return due

    def _excuse_own_stall(self, now: float) -> None:
        """One late tick is forgiven; a caller that is always late must not keep dead paths alive."""
        stalled_s = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        is_excused, self._stalled = stalled_s > STALL_S and not self._stalled, stalled_s > STALL_S
        if is_excused:
            for monitor in self._monitors.values():
                monitor.excuse(stalled_s)

    def _interval_s(self, way: _Egress, lane: _Lane, now: float) -> float:
        if lane is way.lane and now - way.last_data < FLOW_ACTIVE_S:
            return failover.IN_USE_INTERVAL_S
        return self._standby_interval_s

    def _probe_out(self, lane: _Lane, now: float, unix: float) -> Tuple[Addr, bytes]:
        self._probe_id = (self._probe_id + 1) & 0xFFFFFFFF
        lane.monitor.probed(self._probe_id, now)
        body = PROBE_BODY.pack(self._probe_id, int(unix * 1e6))
        return lane.next.addr, lane.next.sealed(lane.probe_prefix, lane.hops, body, unix)

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self) -> Dict[str, object]:
        """JSON-able: {"paths": {egress: ...}, "flows": [...], "drops": {reason: count}}; rtt_ms None: unmeasured."""
        return {
            "serial": None if self._shard is None else self._shard.serial,
            "paths": self.paths(),
            "flows": self.flows(),
            "uncounted_flows": self._sent_flows.uncounted + self._passed_flows.uncounted,
            "drops": dict(self.drops),
        }

    def paths(self) -> Dict[str, object]:
        """{egress: what is known of the way there}."""
        return {egress: self._path_status(way) for egress, way in self._egresses.items()}

    def flows(self, limit: int = MAX_STATUS_FLOWS) -> List[Dict[str, object]]:
        """The latest flows that came in, passed or went out here (`Flow.row`)."""
        return (self._sent_flows.rows(limit) + self._passed_flows.rows(limit))[:limit]

    def _path_status(self, way: _Egress) -> Dict[str, object]:
        lane = way.lane
        return {
            "active": lane.label,
            "straight": self.goes_straight(lane.path[-1]),
            "path": list(lane.path),
            "state": lane.monitor.state,
            "rtt_ms": _milliseconds(lane.monitor.rtt_s),
            "switches": list(way.switches),
            "candidates": {
                other.label: {
                    "path": list(other.path),
                    "state": other.monitor.state,
                    "rtt_ms": _milliseconds(other.monitor.rtt_s),
                }
                for other in way.lanes.values()
            },
        }


def _milliseconds(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds * 1000, 3)
