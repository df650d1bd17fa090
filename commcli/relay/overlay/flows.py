"""What really passed here: packets and bytes per flow and path, bounded in number.

A flow is one direction between two relayed addresses on one path; after a switch of paths it is another flow. So
the hops in a report come from what every relay on them counted, not from a plan.
"""

from __future__ import annotations

from typing import Dict, Hashable, List, Optional, Sequence, Tuple

from commcli.relay.overlay.wire import Addr
from commcli.relay.protect.classes import Classifier

MAX_FLOWS = 4096
IDLE_S = 300.0
FLOW_ACTIVE_S = 2.0  # media that came no longer ago flows


class Flow:
    """One row. `ends`: at the ingress, the endpoints as they stand in an entry."""

    __slots__ = (
        "bytes", "classifier", "dst", "ends", "family", "first_unix", "last_unix", "packets", "path", "role", "src",
    )  # fmt: skip

    def __init__(self, src: Addr, dst: Addr, role: str, path: Tuple[str, ...], unix: float) -> None:
        self.src, self.dst, self.role, self.path = src, dst, role, path
        self.family, self.ends = 0, b""
        self.classifier: Optional[Classifier] = Classifier() if role == "ingress" else None
        self.packets = self.bytes = 0
        self.first_unix = self.last_unix = unix

    def passed(self, packets: int, size: int, unix: float) -> None:
        """So many packets, and bytes of payload together."""
        self.packets += packets
        self.bytes += size
        self.last_unix = unix

    def row(self) -> Dict[str, object]:
        """JSON-able. role: ingress, transit or egress; bytes: payload alone."""
        return {
            "src": "%s:%d" % self.src,
            "dst": "%s:%d" % self.dst,
            "role": self.role,
            "path": list(self.path),
            "packets": self.packets,
            "bytes": self.bytes,
            "first_unix": self.first_unix,
            "last_unix": self.last_unix,
        }


class FlowTable:
    """Flows by whatever key the data path has at hand. A full table forwards all the same and stops counting."""

    def __init__(self, limit: int = MAX_FLOWS) -> None:
        self.limit = limit
        self._rows: Dict[Hashable, Flow] = {}
        self._next_sweep_unix = float("-inf")
        self.find = self._rows.get  # on the data path a bound method is cheaper than a call into one
        self.uncounted = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: Hashable, flow: Flow) -> Flow:
        """Keep the flow, or if the table is full only hand it back."""
        if len(self._rows) >= self.limit:
            self._sweep(flow.first_unix)
        if len(self._rows) >= self.limit:
            self.uncounted += 1
        else:
            self._rows[key] = flow
        return flow

    def _sweep(self, unix: float) -> None:
        """Forget the idle, at most once a second: a client that invents flows must not cost a scan a packet."""
        if unix < self._next_sweep_unix <= unix + 1.0:
            return
        self._next_sweep_unix = unix + 1.0
        self.expire(unix, IDLE_S / 10)

    def expire(self, unix: float, idle_s: float = IDLE_S) -> None:
        """Forget what has been idle for so long. What is as far ahead is from before the clock was set back."""
        for key in [key for key, flow in self._rows.items() if abs(unix - flow.last_unix) > idle_s]:
            del self._rows[key]

    def rows(self, limit: Optional[int] = None) -> List[Dict[str, object]]:
        """Latest first."""
        latest: Sequence[Flow] = sorted(self._rows.values(), key=lambda flow: -flow.last_unix)
        return [flow.row() for flow in latest[:limit]]
