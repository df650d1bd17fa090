"""The Session-Sender's side of one peer: what was sent to it, what came back, and the windows of that. Pure.

A thousand peers are a hundred thousand packets in memory, so packets are columns of arrays and closed windows JSON.
"""

from __future__ import annotations

import json
import statistics
from array import array
from collections import deque
from typing import Deque, Dict, Iterable, List, Optional, Sequence, Tuple

from commcli.relay.mesh import stamp
from commcli.relay.mesh.losses import NEW_SESSION, UNCERTAIN, Mark, Record, forget, judge, unwrapped
from commcli.relay.mesh.neighbours import Neighbour
from commcli.relay.mesh.window import Answers, Jitter, Orders, figures, length_s

Addr = Tuple[str, int]

# An answer later than this is a lost one. Also how long a window waits for the answers to what came after it, which
# tell in which direction its last packets were lost.
GRACE_S = 2.0
# Beside twice the open window's: how much of an outage is remembered, to tell its direction when it is over.
OUTAGE_S = 60.0
# Closed windows that are kept, by their length: a quarter of an hour or more, for controllers that come by seldom.
MOST_WINDOWS = {10: 60, 30: 30, 60: 15, 300: 6}

_MORE = bytes(16 * 8)  # packets by which the columns of answers grow

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
    """`request`, `answered` and `close` in the order of time. Columns hold the packets from `first` on, by sequence."""

    def __init__(self, peer: Neighbour, node: str) -> None:
        self.sequence = self.first = 0
        self._sent_unix, self._sent_now = array("d"), array("d")
        # Of the answers; `arrival` 0 while there is none. They are as long as the others or longer.
        self._number, self._arrival = array("q"), array("q")
        self._received_unix, self._rtt_s, self._back_s = array("d"), array("d"), array("d")
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
        return len(self._sent_now)

    # --- packets ---------------------------------------------------------------------------------------------

    def request(self, now: float, unix: float, rate: float, error: int) -> Tuple[bytes, Optional[OpenWindow]]:
        """The next packet, and the window that begins with it, if one does. rate: packets a second."""
        sequence, window, begun = self.sequence, self._now, None
        if window is None or not 0 <= unix - window.start_unix < window.seconds:
            window = begun = self._begin(now, unix, rate)
        self.sequence = window.end = sequence + 1
        self._sent_unix.append(unix)
        self._sent_now.append(now)
        if len(self._sent_now) > len(self._arrival):
            for column in (self._number, self._arrival, self._received_unix, self._rtt_s, self._back_s):
                column.frombytes(_MORE)
        most = rate * (OUTAGE_S + 2 * window.seconds)
        if len(self._sent_now) > most and self.first < self.open[0].first:
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
        place = sequence - self.first
        # The timestamp comes back as it went, so without keys it still is a nonce that only the peer saw.
        if not 0 <= place < len(self._sent_now) or stamp.to_timestamp(self._sent_unix[place]) != t1:
            return "unasked"
        elapsed_s = now - self._sent_now[place]
        window = self._window_of(sequence)
        if window is None or elapsed_s > GRACE_S:
            return "late"
        if self._arrival[place]:
            window.duplicates += 1
            return None
        received_unix, sent_unix = (
            stamp.from_timestamp(t2, their_error),
            stamp.from_timestamp(t3, their_error),
        )
        dwell_s = sent_unix - received_unix
        # A reflector whose clock steps between T2 and T3 would make the round trip negative or endless.
        rtt_s = self._rtt_s[place] = elapsed_s - dwell_s if 0 <= dwell_s <= elapsed_s else elapsed_s
        self._number[place], self._received_unix[place], self._back_s[place] = (
            number,
            received_unix,
            unix - sent_unix,
        )
        answers = self._arrival[place] = self._answers = self._answers + 1
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
        return [rtt_s for rtt_s, arrival in zip(self._rtt_s, self._arrival) if arrival]

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
        records = self._lossy(end)
        if records is None:
            counted: Sequence[int] = self._number
            answered: Iterable[int] = range(begin, end)
            labels: List[Optional[str]] = [None] * (end - begin)
        else:
            judge(records, self._mark, window.end - 1)
            numbers = unwrapped(records, self._mark)
            counted = [numbers.get(record.sequence, (-1, 0))[0] for record in records]
            answered = [place for place in range(begin, end) if self._arrival[place]]
            labels = [record.lost for record in records[begin:end]]
        others = self._orders(range(begin), counted), self._orders(range(end, self.held), counted)
        row: Dict[str, object] = {
            "peer": self.peer.id, "start": window.start_unix, "seconds": window.seconds,
            **figures(self._answers_at(answered, counted), others, labels, window.error_s, self._jitters),
            "duplicates": window.duplicates,
        }  # fmt: skip
        self.keep(row)
        self._forget(records, begin)

    def _answers_at(self, places: Iterable[int], counted: Sequence[int]) -> Answers:
        arrival, sent, received = self._arrival, self._sent_unix, self._received_unix
        return Answers(
            [counted[place] for place in places],
            [arrival[place] for place in places],
            [self._rtt_s[place] for place in places],
            [received[place] - sent[place] for place in places],
            [self._back_s[place] for place in places],
        )

    def _orders(self, places: Iterable[int], counted: Sequence[int]) -> Orders:
        arrival = self._arrival
        return [(counted[place], arrival[place]) for place in places if arrival[place]]

    def _lossy(self, end: int) -> Optional[List[Record]]:
        """The records to judge; None if all before `end` was answered in order, so that there is nothing to judge."""
        highest = self._mark.highest
        if highest is not None and all(self._arrival[:end]):
            first = highest + 1 - self._mark.base
            if self._number[:end] == array("q", range(first, first + end)):
                later = [n for n, a in zip(self._number[end:], self._arrival[end:]) if a]
                if min(later, default=first + end) >= first + end:
                    return None
        return [self._record(place) for place in range(self.held)]

    def _record(self, place: int) -> Record:
        sequence = self.first + place
        if not self._arrival[place]:
            return self._judged.get(sequence) or Record(sequence, self._sent_unix[place])
        return Record(sequence, self._sent_unix[place], self._number[place], self._received_unix[place])

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
                self._mark = Mark(mark.base, (mark.highest or 0) + count, self._received_unix[count - 1])
        self._drop(count)

    def _drop(self, count: int) -> None:
        self.first += count
        for column in (
            self._sent_unix, self._sent_now, self._number, self._arrival, self._received_unix, self._rtt_s,
            self._back_s,
        ):  # fmt: skip
            del column[:count]
