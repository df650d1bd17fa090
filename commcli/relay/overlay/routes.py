"""What the table and the keys make of paths: whose address is whose, which ways lead there, and what may pass here."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple, Union

from commcli.relay.mesh import neighbours
from commcli.relay.overlay import failover
from commcli.relay.overlay.peer import Peer
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.wire import MAX_HOPS, MIN_HOPS, node_number, path_bytes, section_head
from commcli.relay.table import zones
from commcli.relay.table.shard import Shard
from commcli.relay.turn.limits import Bucket

Path = Tuple[str, ...]
Pair = Tuple[int, int]  # a directed segment, by node numbers

MAX_SWITCHES_KEPT = 16
MAX_STEPS = 4096
MAX_LEFT = 256
MAX_PINNED = 1024
PINNED_HOPS = 3  # one relay between two edges
# Standby probes of a big fleet together stay under this; each path then gets its own less often than every second.
MAX_STANDBY_PROBES_A_SECOND = 200.0


def _carries(shard: Optional[Shard]) -> FrozenSet[Path]:
    return frozenset() if shard is None else shard.carries or frozenset()


def _pairs(path: Sequence[str]) -> "Tuple[Pair, ...]":
    """The directed segments of a path, by node numbers."""
    numbers = [node_number(node) for node in path]
    return tuple(zip(numbers, numbers[1:]))  # noqa: RUF007  # pairwise is of Python 3.10


class Lane:
    """An outgoing path with everything that is the same for each of its packets."""

    __slots__ = ("far", "heads", "hops", "label", "monitor", "next", "numbers", "path", "segments")

    def __init__(self, label: str, monitor: failover.PathMonitor, following: Segment, far: Peer) -> None:
        self.label, self.monitor, self.path = label, monitor, monitor.path
        self.next, self.far = following, far
        self.hops = bytes((len(self.path) << 4,)) + path_bytes(self.path)
        self.heads = {family: section_head(self.path, family) for family in (4, 6)}
        self.segments = tuple(zip(self.path, self.path[1:]))  # directed
        self.numbers = _pairs(self.path)


class Egress:
    """The way towards one other edge."""

    __slots__ = ("choice", "copies_on", "lane", "lanes", "last_data", "may_go_straight", "switches")

    def __init__(self, lanes: Sequence[Lane], earlier: Optional["Egress"], may_go_straight: bool) -> None:
        self.may_go_straight = may_go_straight
        self.lanes = {lane.label: lane for lane in lanes}
        self._choose(None if earlier is None else earlier.lane.path)
        # Classes that go over another lane as well.
        self.copies_on: Dict[int, Lane] = {}
        self.last_data: float = earlier.last_data if earlier is not None else float("-inf")
        self.switches: Deque[Dict[str, object]] = (
            earlier.switches if earlier is not None else deque(maxlen=MAX_SWITCHES_KEPT)
        )

    def resume(self, path: Path, switches: Sequence[Dict[str, object]]) -> None:
        """Go on with the path that an earlier process of this relay used."""
        self.switches.extend(switches)
        self._choose(path)

    def _choose(self, in_use: Optional[Path]) -> None:
        """A path that is in use is left for a reason, not since somebody read a table."""
        lanes = self.lanes.values()
        current = next((lane.label for lane in lanes if lane.path == in_use), None)
        self.choice = failover.Choice([(lane.label, lane.monitor) for lane in lanes], current)
        self.lane: Lane = self.lanes[self.choice.active]


class Step:
    """What to do with what names one path: refuse it, or pass it on. `head`: as it stands on the wire."""

    __slots__ = (
        "echo_refusal",
        "following",
        "is_pinned",
        "media_refusal",
        "onward",
        "origin",
        "path",
        "previous",
        "probe_refusal",
        "refusal",
        "reverse",
        "role",
    )

    def __init__(self, refusal: Optional[str]) -> None:
        self.refusal = refusal
        # Not everything may pass everywhere. An echo, at least, along a row backwards.
        self.media_refusal: Optional[str] = None
        self.probe_refusal: Optional[str] = None
        self.echo_refusal: Optional[str] = None
        self.is_pinned = False  # in nobody's row: media that passes is held to the allowance
        self.path: Path = ()
        self.onward: Tuple[Pair, ...] = ()  # the segments from here on
        self.previous: Optional[Segment] = None
        self.following: Optional[Segment] = None
        self.origin: Optional[Peer] = None  # the ingress, where we are the egress
        self.role = ""
        self.reverse: Optional[failover.PathMonitor] = None  # our own path that is this one backwards


class Routes:
    """The neighbours and the table of one node, and what follows from them."""

    def __init__(self, node: str, random_bytes: Callable[[int], bytes]) -> None:
        self.node = node
        self.number = node_number(node)
        self._random = random_bytes
        self._trains = int.from_bytes(random_bytes(4), "big")
        self.segments: Dict[str, Segment] = {}  # by neighbour
        self.by_addr: Dict[Tuple[str, int], Segment] = {}
        self._left: Dict[str, Peer] = {}  # those whom the file no longer names
        self.by_number: Dict[int, str] = {}
        self.shard: Optional[Shard] = None
        self._carried: FrozenSet[Path] = frozenset()  # by this table, the one before or the one to come
        self._carried_before: FrozenSet[Path] = frozenset()
        self._staged: Optional[Shard] = None
        self._is_bound = False
        self._allowance: Optional[Bucket] = None  # for media that is in nobody's row
        self._owners: Dict[str, List[Tuple[int, int, str]]] = {}
        self.egresses: Dict[str, Egress] = {}
        self.monitors: Dict[Path, failover.PathMonitor] = {}
        self._steps: Dict[bytes, Step] = {}
        self._further: Dict[str, Set[Pair]] = {}
        self._straight: Dict[str, bool] = {}  # what `permits_straight` said, until peers or table change
        self._pinned: Dict[Tuple[str, str], Union[Lane, str]] = {}  # and what `pinned` said
        self.standby_interval_s = failover.STANDBY_INTERVAL_S
        self.find_step = self._steps.get

    def nonce_of(self, node: str) -> int:
        """Our present nonce for a neighbour."""
        segment = self.segments.get(node)
        return 1 if segment is None else segment.peer.nonce

    def new_nonce(self) -> int:
        """Who repeats it has heard us since."""
        return int.from_bytes(self._random(8), "big") or 1

    def _train_id(self) -> bytes:
        self._trains = (self._trains + 1) & 0xFFFFFFFF
        return self.number.to_bytes(4, "big") + self._trains.to_bytes(4, "big")

    # --- what it knows -------------------------------------------------------------------------------------

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """The object under "peers" of etc/peers.json. Raises ValueError, then nothing has changed."""
        known = neighbours.parse(peers)
        kept: Dict[str, Segment] = {}
        for node, row in known.items():
            if node == self.node or not row.keys:
                continue
            segment = self.segments.get(node)
            if segment is None:
                peer = self._left.pop(node, None) or Peer(row, self.number, self.new_nonce())
                segment = Segment(peer, self._train_id)
            if segment.peer.row != row:
                segment.peer.use(row)
            kept[node] = segment
        for node in self.segments.keys() - kept.keys():
            # Its books stay: somebody who comes back must not bring recordings along.
            self._left[node] = self.segments[node].peer
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
        self.segments = kept
        self.by_addr = {segment.peer.addr: segment for segment in kept.values()}
        self._rebuild()

    def set_shard(self, shard: Optional[Shard]) -> None:
        """The table to follow from now on. What is known of paths that stay is kept."""
        if shard is not None and shard == self.shard:
            return
        self._bind(shard)
        self.shard = shard
        self._gather()
        nodes = {} if shard is None else shard.nodes
        self.by_number = {node_number(node): node for node in nodes}
        self._owners = {}
        for node, row in nodes.items():
            if node != self.node:
                for address in row.addresses:
                    self._owners.setdefault(address, []).append((*row.relay_ports, node))
        self._rebuild()

    def set_staged(self, shard: Optional[Shard]) -> None:
        """The table to come, None: there is none. Its paths are carried already: an ingress may have it before us."""
        if shard is not self._staged:
            self._staged = shard
            self._gather()
            self._steps.clear()

    def _bind(self, shard: Optional[Shard]) -> None:
        self._is_bound = shard is not None and shard.carries is not None
        is_another = shard is None or self.shard is None or shard.serial != self.shard.serial
        if is_another:  # and not this one once more, after a reload
            self._carried_before = _carries(self.shard)
        before, rate = self.shard, 0 if shard is None else shard.probe_kbit_s
        if before is None or before.probe_kbit_s != rate:  # and not filled anew by each table
            self._allowance = Bucket(rate) if rate else None

    def _gather(self) -> None:
        """Also paths of the table before: an ingress may have the next one later than we."""
        self._carried = _carries(self.shard) | self._carried_before | _carries(self._staged)

    def _rebuild(self) -> None:
        shard, earlier, monitors = self.shard, self.egresses, self.monitors
        self._steps.clear()
        self._straight.clear()
        self._pinned.clear()
        self.egresses, self.monitors = {}, {}
        self._further = {
            node: {(self.number, segment.peer.number)} for node, segment in self.segments.items()
        }
        if shard is None:
            return
        for egress, route in shard.routes.items():
            if egress in shard.blocked:
                continue
            lanes = []
            for label, path in route.paths():
                # Two labels may name the same path: one monitor then.
                following, far = self.segments.get(path[1]), self.segments.get(path[-1])
                if following is None or far is None:
                    continue  # no key, no packet: choosing it would be choosing silence
                monitor = self.monitors.get(path) or monitors.get(path) or failover.PathMonitor(path)
                self.monitors[path] = monitor
                lanes.append(Lane(label, monitor, following, far.peer))
                self._further[path[1]].update(lanes[-1].numbers)
            if lanes:
                may_go_straight = self._is_legal((self.node, egress))
                self.egresses[egress] = Egress(lanes, earlier.get(egress), may_go_straight)
        wanted = len(self.monitors) / MAX_STANDBY_PROBES_A_SECOND
        self.standby_interval_s = max(failover.STANDBY_INTERVAL_S, wanted)

    def egress_of(self, ip: str, port: int) -> Optional[str]:
        """The other fleet node that owns this relayed address, None if none does."""
        for low, high, node in self._owners.get(ip, ()):
            if low <= port <= high:
                return node
        return None

    def owns(self, node: str, addr: Tuple[str, int]) -> bool:
        """Is this a relayed address of that node?"""
        row = None if self.shard is None else self.shard.nodes.get(node)
        return (
            row is not None
            and addr[0] in row.addresses
            and row.relay_ports[0] <= addr[1] <= row.relay_ports[1]
        )

    def _is_legal(self, path: Path) -> bool:
        return self.shard is not None and zones.violated(self.shard.zones, self.shard.nodes, path) is None

    # --- straight ------------------------------------------------------------------------------------------

    def goes_straight(self, egress: str) -> bool:
        """Should packets to this egress leave as plain UDP, from relayed address to relayed address?

        Yes where no overlay path has answered (a first table that not every relay holds yet, an overlay port that
        a firewall shuts) or the table knows none, as long as the zones permit the two edges. What the table
        blocks, and what a zone forbids, never goes straight.
        """
        way = self.egresses.get(egress)
        if way is None:
            return self.permits_straight(egress)
        if way.lane.monitor.state in failover.USABLE or not way.may_go_straight:
            return False
        return not any(lane.monitor.state in failover.USABLE for lane in way.lanes.values())

    def permits_straight(self, egress: str) -> bool:
        """May packets to this egress pass the two edges' countries and no other?"""
        answer = self._straight.get(egress)
        if answer is None:
            blocked = self.shard is None or egress in self.shard.blocked
            answer = self._straight[egress] = not blocked and self._is_legal((self.node, egress))
        return answer

    # --- pinned --------------------------------------------------------------------------------------------

    def pinned(self, via: str, egress: str) -> "Union[Lane, str]":
        """The path over this one relay, or the reason why nothing goes there. Nobody watches it: it is as it is."""
        found = self._pinned.get((via, egress))
        if found is None:
            if len(self._pinned) >= MAX_PINNED:
                self._pinned.clear()
            found = self._pinned[via, egress] = self._pin((self.node, via, egress))
        return found

    def _pin(self, path: Path) -> "Union[Lane, str]":
        _, via, egress = path
        following, far = self.segments.get(via), self.segments.get(egress)
        shard = self.shard
        if shard is None or not {via, egress} <= shard.nodes.keys() or len(set(path)) != len(path):
            refusal = "via_unknown"
        elif following is None or far is None:
            refusal = "no_key"
        elif egress in shard.blocked or not self._is_legal(path) or not self._may_be_pinned(path):
            refusal = "via_forbidden"
        elif self._is_bound and path not in self.monitors and not shard.probe_kbit_s:
            refusal = "via_not_in_table"  # the others would drop it
        else:
            return Lane("pinned", failover.PathMonitor(path), following, far.peer)
        return refusal

    def _may_be_pinned(self, path: Path) -> bool:
        """Does the table let the relays in between be there? It says so also of those that no row of it passes."""
        return self.shard is not None and all(self.shard.nodes[node].transit for node in path[1:-1])

    # --- what may pass here --------------------------------------------------------------------------------

    def step(self, hops: bytes) -> Step:
        """What to do with this path (u8 hops << 4 | anything, node numbers). Remembered until peers or table change."""
        step = self._judged(hops[0] >> 4, hops[1:])
        if len(self._steps) >= MAX_STEPS:
            self._steps.clear()  # only authenticated neighbours fill it, and one lookup refills a row
        self._steps[hops] = step
        return step

    @property
    def steps(self) -> int:
        """How many paths are remembered."""
        return len(self._steps)

    def allows(self, size: int, now: float) -> bool:
        """May so many bytes of media pass along paths that are in nobody's row? They are taken if so."""
        return self._allowance is not None and self._allowance.take(size, now)

    def onward(self, segment: Segment) -> "Dict[Segment, Set[Pair]]":
        """Where media of this neighbour may go on, of the paths seen lately, and the segments from here on."""
        found: Dict[Segment, Set[Pair]] = {}
        for step in self._steps.values():
            if step.previous is segment and step.following is not None:
                found.setdefault(step.following, set()).update(step.onward)
        return found

    def further(self, reporter: str) -> "Set[Pair]":
        """The segments that this neighbour may tell us of: our own to it, and those behind it on paths of ours."""
        return self._further.get(reporter, set())

    def _judged(self, hops: int, raw: bytes) -> Step:
        if not MIN_HOPS <= hops <= MAX_HOPS or len(raw) != 4 * hops:
            return Step("hops")
        numbers = [int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw), 4)]
        if self.number not in numbers[1:]:
            return Step("not_for_us")
        if len(set(numbers)) != hops:
            return Step("loop")
        if self.shard is None:
            return Step("no_table")
        if not all(number in self.by_number for number in numbers):
            return Step("unknown_hop")
        path = tuple(self.by_number[number] for number in numbers)
        if zones.violated(self.shard.zones, self.shard.nodes, path) is not None:
            return Step("zone")
        position = numbers.index(self.number)
        if not self._is_bound or path in self._carried:
            return self._open_step(path, position)
        is_pinned = hops == PINNED_HOPS and self._allowance is not None and self._may_be_pinned(path)
        # An echo comes back over the relays of a row, whatever the table says of that direction.
        is_reverse = path[::-1] in self._carried or path[::-1] in self.monitors
        if not is_pinned and not is_reverse:
            return Step("not_in_table")
        step = self._open_step(path, position)
        step.is_pinned = is_pinned
        step.media_refusal = None if is_pinned else "not_in_table"
        step.probe_refusal = "not_in_table"
        step.echo_refusal = None if is_reverse else "not_in_table"
        return step

    def _open_step(self, path: Path, position: int) -> Step:
        is_last = position == len(path) - 1
        previous = self.segments.get(path[position - 1])
        following = None if is_last else self.segments.get(path[position + 1])
        if previous is None:
            return Step("wrong_source")  # the sender has a key, so it is somebody else
        if following is None and not is_last:
            return Step("no_key")
        step = Step(None)
        step.path, step.previous, step.following = path, previous, following
        step.onward = _pairs(path[position:])
        step.role = "egress" if is_last else "transit"
        if is_last:
            origin = self.segments.get(path[0])
            if origin is None:
                return Step("no_key")
            step.origin = origin.peer
            step.reverse = self.monitors.get(path[::-1])
        return step
