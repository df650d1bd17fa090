"""What neighbours tell each other beside media, and when: hellos, reports, requests to repeat, path MTU."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, List, Optional, Set, Tuple

from commcli.relay.overlay import hello, telemetry
from commcli.relay.overlay.flows import FLOW_ACTIVE_S
from commcli.relay.overlay.liveness import Liveness
from commcli.relay.overlay.routes import Routes
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.telemetry import Delays, Row
from commcli.relay.overlay.wire import HEADER_BYTES, HELLO, MTU, MTU_OK, NACK, REPORT, kind_byte

ROW_LIFE_S = 2.0  # older rows tell nothing any more
MTU_EVERY_S = 0.1
LEAST_REPORT_S = telemetry.INTERVAL_S / 3
_HELLO, _REPORT, _NACK, _MTU, _MTU_OK = map(kind_byte, (HELLO, REPORT, NACK, MTU, MTU_OK))


class _Told:
    """What one neighbour reported last."""

    __slots__ = ("at", "rows")

    def __init__(self) -> None:
        self.at, self.rows = float("-inf"), []  # type: float, List[Row]


class Exchange:
    """The control datagrams of one node. Gathers them at their segments and says so in `ready`."""

    def __init__(
        self,
        routes: Routes,
        liveness: Liveness,
        ready: Dict[Segment, None],
        drops: "Counter[str]",
        reported: Callable[[Row, float], None],
    ) -> None:
        """`reported(row, now)` takes each row of a segment on the paths that we use."""
        self._routes = routes
        self._ready, self._drops, self._reported = ready, drops, reported
        self.liveness = liveness
        self._known: Dict[str, Segment] = {}  # the neighbours that liveness knows
        self._delays: Dict[str, Delays] = {}
        self._told: Dict[str, _Told] = {}
        self._busy: Set[str] = set()
        self._next_report = self._next_mtu = float("-inf")

    def gather(self, segment: Segment, kind: int, body: bytes) -> None:
        """A control datagram (`kind_byte`) for this neighbour."""
        segment.control(kind, body)
        self._ready[segment] = None

    # --- in ------------------------------------------------------------------------------------------------

    def begin(
        self, segment: Segment, kind: int, data: bytes, sequence: int, sent_us: int, now: float, unix: float
    ) -> Optional[str]:
        """An authentic datagram that the neighbour's book refuses: begin a new book, or say why not."""
        peer = segment.peer
        if kind == _HELLO:
            try:
                said = hello.unpack(data[HEADER_BYTES:])
                if peer.proves(said.yours):
                    # It repeats what we have just made up: no recording, whatever its clock says.
                    peer.begin_proven(sequence, self._routes.new_nonce())
                    return None
                peer.doubt(now, self._routes.new_nonce())
                self.liveness.greeted(peer.id, data[HEADER_BYTES:])
            except ValueError:
                return "shape"
        return peer.begin(sequence, sent_us, now, unix)

    def receive(
        self, segment: Segment, kind: int, data: bytes, sent_us: int, now: float, unix: float
    ) -> None:
        """A control datagram, authentic and new."""
        body = data[HEADER_BYTES:]
        try:
            if kind == _HELLO:
                self.liveness.hello(segment.peer.id, body, sent_us, now, unix)
            elif kind == _REPORT:
                self._report(segment, body, now)
            elif kind == _NACK:
                segment.repeat(segment.repair.asked(body, now))
                self._ready[segment] = None
            elif kind == _MTU:
                self.gather(segment, _MTU_OK, len(data).to_bytes(2, "big"))
            elif kind == _MTU_OK:
                segment.mtu.confirmed(int.from_bytes(body, "big"), now)
            else:
                self._drops["version"] += 1
        except ValueError:
            self._drops["shape"] += 1

    def _report(self, segment: Segment, body: bytes, now: float) -> None:
        told = self._told.setdefault(segment.peer.id, _Told())
        if now - told.at < LEAST_REPORT_S:
            return  # two that came together, or somebody who wants to keep us busy
        told.rows, told.at = telemetry.unpack(body), now
        may_tell = self._routes.further(segment.peer.id)
        for row in told.rows:
            if (row.from_number, row.to_number) in may_tell:
                self._reported(row, now)

    # --- out -----------------------------------------------------------------------------------------------

    def tick(self, now: float, unix: float) -> None:
        """Gather what is due."""
        if self._known is not self._routes.segments:
            self._known = self._routes.segments
            self.liveness.set_peers(list(self._known), now)
            self._delays = {node: kept for node, kept in self._delays.items() if node in self._known}
            self._told = {node: kept for node, kept in self._told.items() if node in self._known}
        if now >= self._next_report:
            self._next_report = now + telemetry.INTERVAL_S
            self._busy = self._find_busy(now)
            for segment in self._known.values():
                self._report_to(segment, now, unix)
                segment.repair.forget(now)
                segment.repair.rtt_s = self.liveness.rtt_s(segment.peer.id)
        self.say_hello(now)
        if now >= self._next_mtu:
            self._next_mtu = now + MTU_EVERY_S
            self._probe_mtu(now, unix)

    def say_hello(self, now: float) -> None:
        """Judge the neighbours' silence, and gather the hellos that are due."""
        if now < self.liveness.wish():
            return
        for node, body in self.liveness.due(now, self._busy):
            segment = self._routes.segments.get(node)
            if segment is not None:
                self.gather(segment, _HELLO, body)

    def _find_busy(self, now: float) -> Set[str]:
        """The neighbours on any path of a flow that lives, also the paths that only stand by."""
        since = now - FLOW_ACTIVE_S
        busy = {
            node
            for node, segment in self._known.items()
            if segment.last_data > since or segment.last_data_in > since
        }
        for way in self._routes.egresses.values():
            if way.last_data > since:
                busy.update(lane.path[1] for lane in way.lanes.values())
        return busy

    def _report_to(self, segment: Segment, now: float, unix: float) -> None:
        peer = segment.peer
        if peer.arrivals is None:
            return
        segment.ledger.look(peer.arrivals, now, unix)
        delays = self._delays.setdefault(peer.id, Delays())
        row = telemetry.summary(peer.arrivals, delays, peer.number, self._routes.number, now)
        segment.row = row
        self.liveness.losses(peer.id, row.expected, row.lost, row.runs, now)
        if now - segment.last_data_in < FLOW_ACTIVE_S:
            rows = [row, *self._further(segment, now)][: telemetry.MAX_ROWS]
            self.gather(segment, _REPORT, telemetry.pack(rows))

    def _further(self, segment: Segment, now: float) -> List[Row]:
        """What those told us to whom this neighbour's media goes on."""
        rows: Dict[Tuple[int, int], Row] = {}
        for following, pairs in self._routes.onward(segment).items():
            told = self._told.get(following.peer.id)
            if told is not None and now - told.at < ROW_LIFE_S and now - following.last_data < FLOW_ACTIVE_S:
                for row in told.rows:
                    if (row.from_number, row.to_number) in pairs:
                        rows[row.from_number, row.to_number] = row.aged(now - told.at)
        return list(rows.values())

    def _probe_mtu(self, now: float, unix: float) -> None:
        for node, segment in self._known.items():
            size = segment.mtu.due(now, node in self._busy) if segment.peer.arrivals is not None else None
            if size is not None:
                segment.probe_mtu(size, unix, now)
                self._ready[segment] = None
