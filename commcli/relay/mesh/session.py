"""The Session-Sender's side of one peer: what was sent to it, what came back, and the windows of that. Pure.

A thousand peers are a hundred thousand packets in memory, and each of them is long out of the processor's cache when
its turn comes again. So packets are numbers in one array, and closed windows JSON.
"""

from __future__ import annotations

import json
import statistics
from array import array
from collections import deque
from typing import Deque, Dict, List, Optional, Sequence, Tuple

from commcli.relay.mesh import stamp
from commcli.relay.mesh.losses import NEW_SESSION, UNCERTAIN, Mark, Record, forget, judge, unwrapped
from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.mesh.window import Answer, Jitter, Orders, figures, length_s

Addr = Tuple[str, int]

# An answer later than this is a lost one. Also how long a window waits for the answers to what came after it, which
# tell in which direction its last packets were lost.
GRACE_S = 2.0
# Beside twice the open window's: how much of an outage is remembered, to tell its direction when it is over.
OUTAGE_S = 60.0
# Closed windows that are kept, by their length: a quarter of an hour or more, for controllers that come by seldom.
MOST_WINDOWS = {10: 60, 30: 30, 60: 15, 300: 6}

# The numbers of a packet: T1 and when that was on the monotonic clock; then of its answer the reflector's number, T2,
# the round trip, T4-T3, and how many answers of the session there are with it, 0 while there is none.
SENT_UNIX, SENT_NOW, NUMBER, RECEIVED_UNIX, RTT_S, BACK_S, ARRIVAL = range(7)
WIDTH = 7

Closed = Tuple[int, str]  # a window's end (unix), and its row as JSON


class OpenWindow:
    """Of packets `first` to before `end`. error_s: the largest of both clocks together, None: one is not
    synchronised.
    """

    __slots__ = ("close_at", "duplicates", "end", "error_s", "first", "seconds", "start_unix")

    def __init__(self, start_unix: int, seconds: int, close_at: float, first: int) -> None:
        self.start_unix, self.seconds, self.close_at, self.first = start_unix, seconds, close_at, first
        self.end, self.duplicates = first, 0
        self.error_s: Optional[float] = 0.0


class Session:
    """`request`, `answered` and `close` in the order of time. `_cells` are the packets from `first` on, by sequence."""

    __slots__ = (
        "_answers", "_cells", "_ended_unix", "_jitters", "_judged", "_mark", "_now", "_their_error", "_their_error_s",
        "addr", "closed", "first", "open", "peer", "reply_seals", "request_seal", "rtt_ms", "sequence",
    )  # fmt: skip

    def __init__(self, peer: Neighbour, node: str) -> None:
        self.sequence = self.first = 0
        self._cells = array("d")
        self._judged: Dict[int, Record] = {}  # unanswered ones, by sequence
        self._mark = NEW_SESSION
        self.open: Deque[OpenWindow] = deque()
        self._now: Optional[OpenWindow] = None  # the last of them
        self._ended_unix = 0  # the last window's end
        self.closed: Deque[Closed] = deque()
        self._answers = 0
        self._their_error = -1
        self._their_error_s: Optional[float] = None
        self._jitters = Jitter(), Jitter()
        self.rtt_ms: Optional[float] = None
        self.use(peer, node)

    def use(self, peer: Neighbour, node: str) -> None:
        """Take over the peer's address and keys; what was measured stays."""
        self.peer = peer
        self.addr: Addr = (peer.address, peer.stamp_port)
        key = stamp.session_key(peer.keys[0], node, reply=False) if peer.keys else None
        self.request_seal = None if key is None else stamp.Seal(key)
        seals = [stamp.Seal(stamp.session_key(key, node, reply=True)) for key in peer.keys]
        self.reply_seals: Sequence[Optional[stamp.Seal]] = seals or [None]

    @property
    def held(self) -> int:
        """How many packets are remembered."""
        return len(self._cells) // WIDTH

    def _column(self, which: int, begin: int = 0, end: Optional[int] = None) -> "array[float]":
        """One of their numbers, of the packets at these places."""
        return self._cells[begin * WIDTH + which : None if end is None else end * WIDTH : WIDTH]

    # --- packets ---------------------------------------------------------------------------------------------

    def request(self, now: float, unix: float, rate: float, error: int) -> Tuple[bytes, Optional[OpenWindow]]:
        """The next packet, and the window that begins with it, if one does. rate: packets a second."""
        sequence, window, begun = self.sequence, self._now, None
        if window is None or not 0 <= unix - window.start_unix < window.seconds:
            window = begun = self._begin(now, unix, rate)
        self.sequence = window.end = sequence + 1
        self._cells.extend((unix, now, 0.0, 0.0, 0.0, 0.0, 0.0))
        most = rate * (OUTAGE_S + 2 * window.seconds)
        if len(self._cells) > most * WIDTH and self.first < self.open[0].first:
            self._drop(1)
            self._mark = self._mark._replace(highest=None)  # a long outage: what came before is forgotten
        data = stamp.pack_request(sequence, stamp.to_timestamp(unix), error, self.request_seal)
        return data, begun

    def _begin(self, now: float, unix: float, rate: float) -> OpenWindow:
        seconds = length_s(rate, self._ended_unix, unix)
        start = int(unix // seconds) * seconds
        window = OpenWindow(start, seconds, now + start + seconds - unix + GRACE_S, self.sequence)
        self._ended_unix = start + seconds
        self.open.append(window)
        self._now = window
        return window

    def answered(
        self, reply: stamp.Reply, now: float, unix: float, error_s: Optional[float]
    ) -> Optional[str]:
        """An authentic answer. error_s: of our clock. Returns why it does not count, None if it does."""
        number, t3, their_error, t2, sequence, t1, _, _ = reply
        cells, at = self._cells, (sequence - self.first) * WIDTH
        # The timestamp comes back as it went, so without keys it still is a nonce that only the peer saw.
        if not 0 <= at < len(cells) or stamp.to_timestamp(cells[at + SENT_UNIX]) != t1:
            return "unasked"
        elapsed_s, window = now - cells[at + SENT_NOW], self._window_of(sequence)
        if window is None or elapsed_s > GRACE_S:
            return "late"
        if cells[at + ARRIVAL]:
            window.duplicates += 1
            return None
        received_unix, sent_unix = (
            stamp.from_timestamp(t2, their_error),
            stamp.from_timestamp(t3, their_error),
        )
        dwell_s = sent_unix - received_unix
        # A reflector whose clock steps between T2 and T3 would make the round trip negative or endless.
        rtt_s = cells[at + RTT_S] = elapsed_s - dwell_s if 0 <= dwell_s <= elapsed_s else elapsed_s
        cells[at + NUMBER] = number
        cells[at + RECEIVED_UNIX] = received_unix
        cells[at + BACK_S] = unix - sent_unix
        answers = self._answers = self._answers + 1
        cells[at + ARRIVAL] = answers
        if their_error != self._their_error:
            self._their_error = their_error
            self._their_error_s = stamp.ErrorEstimate.unpack(their_error).known_s
        if error_s is None or self._their_error_s is None:
            window.error_s = None
        elif window.error_s is not None:
            window.error_s = max(window.error_s, error_s + self._their_error_s)
        if not self.closed and answers & (answers - 1) == 0:
            self.rtt_ms = round(statistics.median(self._rtts_s() or [rtt_s]) * 1000, 3)
        return None

    def _rtts_s(self) -> List[float]:
        return [rtt_s for rtt_s, arrival in zip(self._column(RTT_S), self._column(ARRIVAL)) if arrival]

    def _window_of(self, sequence: int) -> Optional[OpenWindow]:
        for window in reversed(self.open):
            if window.first <= sequence < window.end:
                return window
        return None

    # --- windows ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the oldest window."""
        window = self.open.popleft()
        if not self.open:
            self._now = None
        begin, end = window.first - self.first, window.end - self.first
        arrivals = self._column(ARRIVAL)
        records = self._lossy(arrivals, end)
        if records is None:
            counted: Sequence[float] = self._column(NUMBER)
            labels: List[Optional[str]] = [None] * (end - begin)
        else:
            judge(records, self._mark, window.end - 1)
            numbers = unwrapped(records, self._mark)
            counted = [numbers.get(record.sequence, (-1, 0))[0] for record in records]
            labels = [record.lost for record in records[begin:end]]
        orders = list(zip(counted, arrivals))
        others = (
            [order for order in orders[:begin] if order[1]],
            [order for order in orders[end:] if order[1]],
        )
        row: Dict[str, object] = {
            "peer": self.peer.id, "start": window.start_unix, "seconds": window.seconds,
            **figures(self._answers_of(orders, begin, end), others, labels, window.error_s, self._jitters),
            "duplicates": window.duplicates,
        }  # fmt: skip
        self.keep(row)
        self._forget(records, begin)

    def _answers_of(self, orders: Orders, begin: int, end: int) -> List[Answer]:
        return [
            Answer(order, rtt_s, received_unix - sent_unix, back_s)
            for order, rtt_s, received_unix, sent_unix, back_s in zip(
                orders[begin:end],
                self._column(RTT_S, begin, end),
                self._column(RECEIVED_UNIX, begin, end),
                self._column(SENT_UNIX, begin, end),
                self._column(BACK_S, begin, end),
            )
            if order[1]
        ]

    def _lossy(self, arrivals: "array[float]", end: int) -> Optional[List[Record]]:
        """The records to judge; None if all before `end` was answered in order, so that there is nothing to judge."""
        highest = self._mark.highest
        if highest is not None and all(arrivals[:end]):
            first, numbers = highest + 1 - self._mark.base, self._column(NUMBER)
            if numbers[:end] == array("d", range(first, first + end)):
                later = [number for number, arrival in zip(numbers[end:], arrivals[end:]) if arrival]
                if min(later, default=first + end) >= first + end:
                    return None
        return [self._record(place) for place in range(self.held)]

    def _record(self, place: int) -> Record:
        sequence, at = self.first + place, place * WIDTH
        sent_unix = self._cells[at + SENT_UNIX]
        if not self._cells[at + ARRIVAL]:
            return self._judged.get(sequence) or Record(sequence, sent_unix)
        return Record(sequence, sent_unix, int(self._cells[at + NUMBER]), self._cells[at + RECEIVED_UNIX])

    def keep(self, row: Dict[str, object]) -> None:
        """One more closed window. As many are kept as fits its length."""
        spread, start, seconds = row["rtt_ms"], row["start"], row["seconds"]
        if not isinstance(start, int) or not isinstance(seconds, int):
            raise ValueError("a window without a time")
        self.rtt_ms = spread["p50"] if isinstance(spread, dict) else None
        self.closed.append((start + seconds, json.dumps(row, separators=(",", ":"))))
        while len(self.closed) > MOST_WINDOWS.get(seconds, 1):
            self.closed.popleft()

    def _forget(self, records: Optional[List[Record]], begin: int) -> None:
        # This window's packets stay until the next one is closed: its first packets may have overtaken them.
        if records is not None:
            count, self._mark = forget(records, self._mark, self.first + begin)
            kept = (record for record in records[count:] if record.number is None)
            self._judged = {record.sequence: record for record in kept if record.lost != UNCERTAIN}
        else:
            count, mark = begin, self._mark
            if count:
                self._mark = Mark(
                    mark.base, (mark.highest or 0) + count, self._cells[(count - 1) * WIDTH + RECEIVED_UNIX]
                )
        self._drop(count)

    def _drop(self, count: int) -> None:
        self.first += count
        del self._cells[: count * WIDTH]
