"""What is told to people of one directed segment that ends here: all its traffic, counted since its book began."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Iterable, Optional, Sequence, Tuple

from commcli.relay.overlay.arrivals import Arrivals

KEPT_S = 10.0  # as long as a short call
MOST_KEPT = 20  # delays of each look, five times a second: a call has some 100 packets a second and way


class Ledger:
    """`since_unix`: when the present book began, as far as we looked; None before there is one."""

    __slots__ = ("_book", "_delays", "since_unix")

    def __init__(self) -> None:
        self._book: Optional[Arrivals] = None
        self._delays: Deque[Tuple[float, Sequence[int]]] = deque()
        self.since_unix: Optional[float] = None

    def look(self, book: Arrivals, now: float, unix: float) -> None:
        """Five times a second, before somebody else clears the samples of the book."""
        if book is not self._book:
            self._book, self.since_unix = book, unix
            self._delays.clear()
        if book.samples:
            every = -(-len(book.samples) // MOST_KEPT)
            self._delays.append((now, tuple(book.samples)[::every]))
        while self._delays and now - self._delays[0][0] > KEPT_S:
            self._delays.popleft()

    def row(self) -> "Optional[Dict[str, object]]":
        """JSON-able; None: nothing has come yet. lost: before repair; unrepaired: of these, after it. duplicates:
        also copies and retransmissions of what had come.

        delay_ms: of the last KEPT_S, by the clocks of both ends; None: nothing came.
        """
        book = self._book
        if book is None:
            return None
        return {
            "expected": book.expected,
            "lost": book.lost,
            "repaired": book.repaired,
            "unrepaired": book.lost - book.repaired,
            "reordered": book.reordered,
            "duplicates": book.duplicates,
            "delay_ms": _percentiles(delay for _, delays in self._delays for delay in delays),
            "started_unix": self.since_unix,
        }


def _percentiles(delays_us: Iterable[int]) -> "Optional[Dict[str, float]]":
    ordered = sorted(delays_us)
    if not ordered:
        return None
    last = len(ordered) - 1
    return {"p50": ordered[last // 2] / 1000, "p95": ordered[-(-last * 95 // 100)] / 1000}
