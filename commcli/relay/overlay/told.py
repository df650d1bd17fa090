"""What the overlay tells an operator: JSON-able documents out of its state."""

from __future__ import annotations

from typing import Dict, Optional, Sequence

from commcli.relay.overlay.flows import FlowTable
from commcli.relay.overlay.routes import Egress, Routes
from commcli.relay.overlay.segment import Segment
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


def segments(routes: Routes) -> Dict[str, object]:
    """{neighbour: {"out": ..., "in": ...}} of the neighbours that anything came from or went to."""
    return {
        node: {"out": _out(segment), "in": _in(segment)}
        for node, segment in routes.segments.items()
        if segment.sent_datagrams or segment.peer.arrivals is not None
    }


def _out(segment: Segment) -> Dict[str, object]:
    return {
        "datagrams": segment.sent_datagrams,
        "bytes": segment.sent_bytes,
        "packed": segment.packed,
        "mtu": segment.mtu_bytes,
        "classes": {
            CLASSES[word]: {
                "datagrams": traffic.packets,
                "bytes": traffic.bytes,
                "extra_bytes": traffic.extra_bytes,
            }
            for word, traffic in segment.classes.items()
        },
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
    }


def buffers(routes: Routes, flows: Sequence[FlowTable]) -> Dict[str, Dict[str, int]]:
    """{buffer: {"entries" or "bytes": n, "most_...": bound}}."""
    return {
        "flows": {"entries": sum(map(len, flows)), "most_entries": sum(table.limit for table in flows)},
    }


def _milliseconds(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds * 1000, 3)
