"""What the overlay tells an operator: JSON-able documents out of its state."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from commcli.relay.overlay.arrivals import MAX_MISSING
from commcli.relay.overlay.flows import FlowTable
from commcli.relay.overlay.liveness import Liveness
from commcli.relay.overlay.routes import MAX_STEPS, Egress, Routes
from commcli.relay.overlay.segment import Segment
from commcli.relay.overlay.steering import Steering
from commcli.relay.overlay.wire import CLASSES


def paths(routes: Routes) -> Dict[str, object]:
    """{egress: what is known of the way there}; rtt_ms None: unmeasured."""
    return {egress: _path(routes, way) for egress, way in routes.egresses.items()}


def _path(routes: Routes, way: Egress) -> Dict[str, object]:
    lane = way.lane
    return {
        "active": lane.label,
        "straight": routes.goes_straight(lane.path[-1]),
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


def segments(routes: Routes, steering: Steering, liveness: Liveness, now: float) -> Dict[str, object]:
    """{neighbour: {"out": ..., "in": ..., "hello": ...}} of those that anything came from or went to.

    out: loss, burst, queue_ms, jitter_ms, rtt_ms as the neighbour reports them (None: unmeasured), and what is done
    about it by class. in: what came, counted here since the start.
    """
    heard = liveness.status(now)
    return {
        node: {"out": _out(segment, steering, now), "in": _in(segment), "hello": heard.get(node)}
        for node, segment in routes.segments.items()
        if segment.sent_datagrams or segment.peer.arrivals is not None
    }


_UNREPORTED = dict.fromkeys(("loss", "burst", "queue_ms", "jitter_ms", "rtt_ms", "age_s", "leave"))


def _out(segment: Segment, steering: Steering, now: float) -> Dict[str, object]:
    reported = steering.status(segment, now)
    known = dict(_UNREPORTED if reported is None else reported)
    plan = known.pop("classes", {})
    return {
        **known,
        "plan": plan,
        "datagrams": segment.sent_datagrams,
        "bytes": segment.sent_bytes,
        "packed": segment.packed,
        "overflow": segment.overflow,
        "mtu": segment.mtu.figures(),
        "classes": {
            CLASSES[word]: {
                "datagrams": traffic.packets,
                "bytes": traffic.bytes,
                "extra_bytes": traffic.extra_bytes,
            }
            for word, traffic in segment.classes.items()
        },
        **segment.repair.counts(),
    }


def _in(segment: Segment) -> Dict[str, object]:
    arrivals = segment.peer.arrivals
    if arrivals is None:
        return {}
    return {
        "expected": arrivals.expected,
        "lost": arrivals.lost,
        "repaired": arrivals.repaired,
        "reordered": arrivals.reordered,
        "duplicates": arrivals.duplicates,
        "runs": arrivals.runs,
        "train_packets_lost": segment.yard.lost,
    }


def came(routes: Routes, rtt_s: "Callable[[str], Optional[float]]") -> List[Dict[str, object]]:
    """The directed segments that end here: {"from", "to", what `Ledger.row` says, "sent_again", "rtt_ms"}.

    sent_again None: only its sender knows, see `sent`.
    """
    rows = ((node, segment.ledger.row()) for node, segment in routes.segments.items())
    return [
        {"from": node, "to": routes.node, **row, "sent_again": None, "rtt_ms": _milliseconds(rtt_s(node))}
        for node, row in rows
        if row is not None
    ]


def sent(routes: Routes) -> List[Dict[str, object]]:
    """Those that begin here and that anything left on: {"from", "to", "sent_again": datagrams repeated because the
    other end missed them, "extra_bytes": of copies, parity and repeats}.
    """
    return [
        {
            "from": routes.node,
            "to": node,
            "sent_again": segment.repair.counts()["repeated"],
            "extra_bytes": sum(traffic.extra_bytes for traffic in segment.classes.values()),
        }
        for node, segment in routes.segments.items()
        if segment.sent_datagrams
    ]


def buffers(routes: Routes, steering: Steering, flows: Sequence[FlowTable]) -> Dict[str, Dict[str, int]]:
    """{buffer: what is in it and its bound, of all neighbours together}: entries, most_entries, bytes, most_bytes."""
    found: Dict[str, Counter[str]] = {
        name: Counter()
        for name in ("sent", "blocks", "copies", "rebuilders", "trains", "mending", "missing", "waiting")
    }
    for segment in routes.segments.values():
        for name, rows in segment.repair.figures().items():
            for row in rows:
                found[name].update(row)
        found["trains"].update(segment.yard.figures())
        found["mending"].update(segment.repair.mending.figures())
        arrivals = (segment.peer.arrivals, segment.peer.numbers.arrivals)
        missing = sum(len(book.missing) for book in arrivals if book is not None)
        found["missing"].update(entries=missing, most_entries=2 * MAX_MISSING)
        found["waiting"].update(segment.gathered())
    return {
        "flows": {"entries": sum(map(len, flows)), "most_entries": sum(table.limit for table in flows)},
        "steps": {"entries": routes.steps, "most_entries": MAX_STEPS},
        "segments_reported": steering.figures(),
        **{name: dict(figures) for name, figures in found.items() if figures},
    }


def _milliseconds(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds * 1000, 3)
