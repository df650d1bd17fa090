"""What neighbours tell each other beside media, and when: hellos, reports, requests to repeat, path MTU."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, Optional

from commcli.relay.overlay.routes import Routes
from commcli.relay.overlay.segment import Segment


class Exchange:
    """The control datagrams of one node. Gathers them at their segments and says so in `ready`."""

    def __init__(
        self,
        node: str,
        routes: Routes,
        random_bytes: Callable[[int], bytes],
        ready: Dict[Segment, None],
        drops: "Counter[str]",
    ) -> None:
        self._node, self._routes, self._random = node, routes, random_bytes
        self._ready, self._drops = ready, drops

    def begin(
        self, segment: Segment, kind: int, data: bytes, sequence: int, sent_us: int, now: float, unix: float
    ) -> Optional[str]:
        """An authentic datagram that the neighbour's book refuses: begin a new book, or say why not."""
        return segment.peer.begin(sequence, sent_us, now, unix)

    def receive(
        self, segment: Segment, kind: int, data: bytes, sent_us: int, now: float, unix: float
    ) -> None:
        """A control datagram, authentic and new."""
        self._drops["version"] += 1

    def tick(self, now: float, unix: float) -> None:
        """Gather what is due."""
