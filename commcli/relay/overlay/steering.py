"""From reports to deeds: how each class is protected on our own segments, and which paths are too bad to stay on."""

from __future__ import annotations

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from commcli.relay.overlay import failover
from commcli.relay.overlay.flows import FLOW_ACTIVE_S
from commcli.relay.overlay.routes import Egress, Lane, Routes
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.telemetry import INTERVAL_S, Estimate, Estimator, Row
from commcli.relay.overlay.wire import CLASSES, MAX_HOPS, OTHER, PROTECTED, VIDEO
from commcli.relay.protect.controller import Controller
from commcli.relay.protect.plan import UNMEASURED, Plan

FORGET_S = 30.0
FRESH_S = 2.0  # a report that is older says nothing of a path
UNREPORTED_S = 3.0
UNREPORTED = Plan(reason="the neighbour reports nothing")
BLACK_HOLE_LOSS = 0.3  # may be long datagrams alone


class _Watch:
    """What is known of one directed segment."""

    __slots__ = ("at", "controller", "estimate", "estimator", "leave")

    def __init__(self) -> None:
        self.estimator, self.controller = Estimator(), Controller()
        self.estimate: Optional[Estimate] = None
        self.at = float("-inf")
        self.leave: Optional[str] = None


class _Sent(NamedTuple):
    """Counters of a segment at some time: datagrams and bytes by class, and protecting bytes of all."""

    at: float
    packets: Tuple[int, ...]
    bytes: Tuple[int, ...]
    extra_bytes: int


class Steering:
    """One node's. Acts on the segments and lanes of `routes`."""

    def __init__(self, routes: Routes, rtt_s: Callable[[str], Optional[float]]) -> None:
        """`rtt_s(neighbour)`: None if unmeasured."""
        self._routes, self._rtt_s = routes, rtt_s
        self._watches: Dict[Tuple[int, int], _Watch] = {}  # by node numbers
        self._sent: Dict[str, _Sent] = {}
        self._next = float("-inf")

    # --- reports -------------------------------------------------------------------------------------------

    def reported(self, row: Row, now: float) -> None:
        """A row of our own segment, or of one further down, by somebody who may tell of it (`Routes.further`)."""
        key = (row.from_number, row.to_number)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch()
        segment = self._own(row)
        rtt_s = None if segment is None else self._rtt_s(segment.peer.id)
        estimate = watch.estimator.row(row, now, rtt_s)
        watch.at = now
        if estimate is None:
            return
        watch.estimate = estimate
        if segment is None:
            watch.controller.measured(estimate, now)
            # Its sender protects it; for us is only whether that suffices.
            watch.leave = _leave(watch.controller.plan(VIDEO, estimate.packets_per_s, 1.0, now))
            return
        self._protect(segment, watch, estimate, now)

    def _own(self, row: Row) -> Optional[Segment]:
        if row.from_number != self._routes.number:
            return None
        node = self._routes.by_number.get(row.to_number)
        return None if node is None else self._routes.segments.get(node)

    def _protect(self, segment: Segment, watch: _Watch, estimate: Estimate, now: float) -> None:
        if estimate.loss_1s > BLACK_HOLE_LOSS:
            segment.mtu.suspicious(now)
        before, sent = self._sent.get(segment.peer.id), _counted(segment, now)
        if before is None or now - before.at > 5 * INTERVAL_S:
            self._sent[segment.peer.id] = sent
            return
        elapsed_s = now - before.at
        if elapsed_s < INTERVAL_S / 2:
            return
        self._sent[segment.peer.id] = sent
        media = sum(sent.bytes) - sum(before.bytes)
        watch.controller.measured(estimate, now, (media + sent.extra_bytes - before.extra_bytes) / elapsed_s)
        backup_loss = self._backup_loss(segment, now)
        reasons: List[Optional[str]] = []
        for word in PROTECTED:
            packets = sent.packets[word] - before.packets[word]
            share = (sent.bytes[word] - before.bytes[word]) / media if media else 0.0
            plan = watch.controller.plan(
                word, packets / elapsed_s, share, now, media / elapsed_s, backup_loss
            )
            segment.use(word, plan)
            reasons.append(_leave(plan) if packets else None)
        watch.leave = next((reason for reason in reasons if reason is not None), None)

    def _backup_loss(self, segment: Segment, now: float) -> Optional[float]:
        """Of the best other path of a way that rides this segment; None: there is none that works."""
        losses = []
        for way in self._routes.egresses.values():
            if way.lane.next is segment and now - way.last_data < FLOW_ACTIVE_S:
                other = _other_lane(way)
                if other is None:
                    return None
                losses.append(self._loss_of(other, now))
        return max(losses) if losses else None

    def _loss_of(self, lane: Lane, now: float) -> float:
        """As far as it is known: nothing is measured where nothing flows."""
        known = [
            watch.estimate.p
            for watch in map(self._watches.get, lane.numbers)
            if watch is not None and watch.estimate is not None and now - watch.at < FORGET_S
        ]
        return 1 - math.prod(1 - loss for loss in known)

    # --- deeds ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Which lanes are too bad, and which classes go twice. Call it before paths are chosen."""
        if now < self._next:
            return
        self._next = now + INTERVAL_S
        for key in [key for key, watch in self._watches.items() if now - watch.at > FORGET_S]:
            del self._watches[key]
        self._give_up_unreported(now)
        one_way_s: Dict[Segment, float] = {}
        for way in self._routes.egresses.values():
            for lane in way.lanes.values():
                lane.monitor.leave = self._leave_of(lane, now)
            is_active = now - way.last_data < FLOW_ACTIVE_S
            way.copies_on = self._copies_on(way) if is_active else {}
            if is_active and way.lane.monitor.rtt_s is not None:
                following = way.lane.next
                one_way_s[following] = max(one_way_s.get(following, 0.0), way.lane.monitor.rtt_s / 2)
        for segment, seconds in one_way_s.items():
            watch = self._watches.get((self._routes.number, segment.peer.number))
            if watch is not None:
                watch.controller.path_one_way_s = seconds

    def _give_up_unreported(self, now: float) -> None:
        """Where nobody reports, nobody asks for repeats either: no reason to keep anything, or to send no trains."""
        for segment in self._routes.segments.values():
            if segment.repair.guards[OTHER].plan is not UNMEASURED or segment.first_data is None:
                continue
            if now - segment.first_data > UNREPORTED_S:
                for word in PROTECTED:
                    segment.use(word, UNREPORTED)

    def _leave_of(self, lane: Lane, now: float) -> Optional[str]:
        for key, (sender, receiver) in zip(lane.numbers, lane.segments):
            watch = self._watches.get(key)
            if watch is not None and watch.leave is not None and now - watch.at < FRESH_S:
                return "%s from %s to %s" % (watch.leave, sender, receiver)
        return None

    def _copies_on(self, way: Egress) -> Dict[int, Lane]:
        guards = way.lane.next.repair.guards
        if not any(guard.plan.backup for guard in guards.values()):
            return {}
        other = _other_lane(way)
        return {} if other is None else {word: other for word, guard in guards.items() if guard.plan.backup}

    # --- what it tells -------------------------------------------------------------------------------------

    def status(self, segment: Segment, now: float) -> Optional[Dict[str, object]]:
        """What is known of our own segment to this neighbour, and what is done about it; None: nothing reported."""
        watch = self._watches.get((self._routes.number, segment.peer.number))
        if watch is None or watch.estimate is None:
            return None
        return {**watch.controller.status(), "age_s": round(now - watch.at, 1), "leave": watch.leave}

    def further(self, now: float) -> List[Dict[str, object]]:
        """The segments further down that were reported: from, to (ids), loss, burst, queue_ms, jitter_ms, age_s."""
        ids = self._routes.by_number
        return [
            {
                "from": ids.get(sender),
                "to": ids.get(receiver),
                "loss": round(watch.estimate.p, 5),
                "burst": round(watch.estimate.burst, 2),
                "queue_ms": round(watch.estimate.queue_ms, 1),
                "jitter_ms": round(watch.estimate.jitter_ms, 1),
                "age_s": round(now - watch.at, 1),
            }
            for (sender, receiver), watch in self._watches.items()
            if watch.estimate is not None and sender != self._routes.number
        ]

    def figures(self) -> Dict[str, int]:
        """{"entries", "most_entries"}."""
        return {
            "entries": len(self._watches),
            "most_entries": len(self._routes.segments) + MAX_HOPS * len(self._routes.monitors),
        }


def _leave(plan: Plan) -> Optional[str]:
    return plan.reason if plan.leave else None


def _other_lane(way: Egress) -> Optional[Lane]:
    """Another path of this way that works, the best first."""
    for lane in way.lanes.values():
        if lane.path != way.lane.path and lane.monitor.state == failover.UP:
            return lane
    return None


def _counted(segment: Segment, now: float) -> _Sent:
    classes = [segment.classes[word] for word in CLASSES]
    return _Sent(
        now,
        tuple(traffic.packets for traffic in classes),
        tuple(traffic.bytes for traffic in classes),
        sum(traffic.extra_bytes for traffic in classes),
    )
