"""Retransmission on one segment: what the sender still has, what the receiver asks for, and how it says so.

A request (the body of a NACK) is a u64 first sequence, then u16 n, u32 bits each: bit b stands for
first + 32 * n + b. The n grow, no bits are zero and the first entry's are odd, so that a set of sequences has one body.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterable, List, Optional

from commcli.relay.protect.recent import Part, Recent

MAX_AT_ONCE = 160  # sequences: wherever they lie, they make a body of less than 1000 bytes
_FIRST = struct.Struct(">Q")
_WORD = struct.Struct(">HI")
_WORD_BITS = 32
_MAX_BODY = _FIRST.size + MAX_AT_ONCE * _WORD.size
_MAX_SPAN = _WORD_BITS << 16
_MAX_SEQUENCE = (1 << 64) - 1


def pack(sequences: Iterable[int]) -> bytes:
    """Raises ValueError for none, for more than a body holds and for ones that lie too far apart."""
    ordered = sorted(sequences)
    if not ordered or ordered[-1] - ordered[0] >= _MAX_SPAN or ordered[-1] > _MAX_SEQUENCE:
        raise ValueError("%d sequences do not go into one request" % len(ordered))
    words: Dict[int, int] = {}
    for sequence in ordered:
        number, bit = divmod(sequence - ordered[0], _WORD_BITS)
        words[number] = words.get(number, 0) | 1 << bit
    if len(words) > MAX_AT_ONCE:
        raise ValueError("%d sequences do not go into one request" % len(ordered))
    return _FIRST.pack(ordered[0]) + b"".join(_WORD.pack(*word) for word in words.items())


def unpack(body: bytes) -> List[int]:
    """The sequences, ascending. Raises ValueError for what `pack` does not make."""
    if not _FIRST.size < len(body) <= _MAX_BODY or (len(body) - _FIRST.size) % _WORD.size:
        raise ValueError("a request of %d bytes" % len(body))
    first = int.from_bytes(body[: _FIRST.size], "big")
    sequences: List[int] = []
    last = -1
    for number, bits in _WORD.iter_unpack(body[_FIRST.size :]):
        if number <= last or not bits:
            raise ValueError("a request whose words are out of order or empty")
        last = number
        start = first + number * _WORD_BITS
        sequences += [start + bit for bit in range(_WORD_BITS) if bits >> bit & 1]
    if sequences[0] != first or sequences[-1] > _MAX_SEQUENCE:
        raise ValueError("a request that does not begin where it says, or goes beyond the last sequence")
    return sequences


class Sent:
    """The sender's buffer of one directed segment. `keep(sequence, datagram, now)` each DATA datagram that goes out."""

    MOST_TIMES = 5
    # Two requests of one round (see Wanted) come further apart than this; a request that the network doubled does not.
    APART_S = 0.008
    # Repeats may take this share of what the buffer holds, beside a first handful.
    SHARE, HANDFUL_BYTES = 0.5, 65_536

    __slots__ = ("_recent", "_useful_s", "keep", "refused", "repeated", "unknown")

    def __init__(self, most_bytes: int = 4 << 20, useful_s: float = 0.4) -> None:
        """useful_s: what was sent longer ago than about this would come too late for anybody."""
        self._recent = Recent(most_bytes, useful_s)
        self._useful_s = useful_s
        self.keep = self._recent.keep
        # Cumulative, datagrams: sent again; refused (too often, too soon, too much); asked for but not here any more.
        self.repeated = self.refused = self.unknown = 0

    def again(self, sequences: Iterable[int], now: float) -> List[bytes]:
        """Of those asked for, the ones to send again now."""
        recent = self._recent
        recent.forget(now)
        newest = recent.parts[-1]
        spent = sum(part.spent_bytes for part in recent.parts)
        left = self.HANDFUL_BYTES + self.SHARE * recent.bytes - spent
        repeats = []
        for sequence in sequences:
            part = self._part_of(sequence)
            if part is None:
                self.unknown += 1
                continue
            datagram = part.datagrams[sequence]
            times, last = part.repeats.get(sequence, (0, float("-inf")))
            if times >= self.MOST_TIMES or now - last < self.APART_S or len(datagram) > left:
                self.refused += 1
                continue
            part.repeats[sequence] = (times + 1, now)
            left -= len(datagram)
            newest.spent_bytes += len(datagram)
            repeats.append(datagram)
        self.repeated += len(repeats)
        return repeats

    def _part_of(self, sequence: int) -> Optional[Part]:
        for part in reversed(self._recent.parts):
            if sequence in part.datagrams:
                return part
        return None

    def forget(self, now: float) -> None:
        """To be called now and then, for when nothing more is sent."""
        self._recent.forget(now)

    def figures(self) -> Dict[str, int]:
        """{"bytes", "datagrams", "most_bytes"}."""
        return self._recent.figures()


class _Ask:
    """What is known of one missing sequence that was asked for at least once."""

    __slots__ = ("blind", "first", "next", "noticed", "times")

    def __init__(self, noticed: float, now: float) -> None:
        self.noticed, self.first = noticed, now
        self.times, self.blind, self.next = 0, 0, now


class Wanted:
    """The receiver's side of one directed segment: which of the missing to ask for, and when.

    A sequence is asked for after a short wait (it may only have been overtaken, or a copy or a parity is about to
    bring it), and again when the answer is overdue, as long as an answer can still come within the budget. The last
    time that a whole round fits, a second request follows without waiting for the first one's answer: where the round
    trip leaves time for one round only, that is what withstands the loss of a request or of a repeat.

    budget_s: how long after it was noticed missing a datagram is still worth having; 0: ask for nothing.
    most_blind: how many requests may follow without waiting. Each costs about the lost share of packets once more.
    """

    BUDGET_S, MOST_BLIND = 0.12, 1
    MOST_TIMES = 5  # and not more than the sender would answer
    MARGIN_S = 0.005
    BLIND_S = 0.02  # longer than a burst of losses, if it can be
    LEAST_BLIND_S = 0.012  # between any two; must be more than Sent.APART_S, with room for jitter
    # The wait grows to what reordering shows to be needed, and shrinks while nothing comes late.
    FIRST_WAIT_S, LEAST_WAIT_S, MOST_WAIT_S = 0.005, 0.002, 0.025
    UNKNOWN_RTT_S = 0.1
    MAX_ASKED = 2048

    __slots__ = ("_asked", "_seen", "_wish", "asked", "budget_s", "early", "most_blind", "wait_s")

    def __init__(self, budget_s: float = BUDGET_S, most_blind: int = MOST_BLIND) -> None:
        self.budget_s, self.most_blind = budget_s, most_blind
        self.wait_s = self.FIRST_WAIT_S
        self._asked: Dict[int, _Ask] = {}
        self._seen = (
            -1,
            0,
        )  # the newest of the missing and how many there were: whether there is anything new
        self._wish: Optional[float] = None
        # Cumulative: requests, one a sequence and time; and those for what then came too soon to be the answer.
        self.asked = self.early = 0

    def due(self, missing: Dict[int, float], now: float, rtt_s: Optional[float]) -> List[int]:
        """The sequences to ask for now, ascending, at most MAX_AT_ONCE, never too far apart for one body.

        missing: sequence -> when that was noticed, the latest noticed last. rtt_s: None while unmeasured.
        Call it when something new is missing, at `wish()`, and once when nothing is missing any more: from what came
        before an answer could, it learns how long to wait.
        """
        newest = next(reversed(missing), -1)
        if (newest, len(missing)) == self._seen and (self._wish is None or now < self._wish):
            return []
        self._seen = (newest, len(missing))
        self._wish = None
        rtt = self.UNKNOWN_RTT_S if rtt_s is None else rtt_s
        self._settle(missing, now, rtt)
        wanted: List[int] = []
        for sequence in reversed(missing):
            noticed = missing[sequence]
            if noticed + self.budget_s < now + rtt or abs(newest - sequence) >= _MAX_SPAN // 2:
                break
            ask = self._asked.get(sequence)
            at = noticed + self.wait_s if ask is None else ask.next
            if at > now:
                self._wish_for(at, noticed, rtt)
            elif len(wanted) == MAX_AT_ONCE or (ask is None and len(self._asked) >= self.MAX_ASKED):
                self._wish = now + self.MARGIN_S
                break
            else:
                self._ask(sequence, ask or _Ask(noticed, now), now, rtt)
                wanted.append(sequence)
        self.asked += len(wanted)
        return sorted(wanted)

    def _ask(self, sequence: int, ask: _Ask, now: float, rtt: float) -> None:
        """Count one request, and find the time of the next."""
        self._asked[sequence] = ask
        ask.times += 1
        left = ask.noticed + self.budget_s - rtt - now  # in which a further request makes sense
        if ask.times >= self.MOST_TIMES or left < self.LEAST_BLIND_S:
            ask.next = float("inf")
        elif left >= 1.25 * rtt + self.MARGIN_S and not ask.blind:
            ask.next = now + max(1.25 * rtt + self.MARGIN_S, self.LEAST_BLIND_S)
        elif ask.blind < self.most_blind:
            share = left / (self.most_blind - ask.blind)
            ask.next = now + max(self.LEAST_BLIND_S, min(share, self.BLIND_S))
            ask.blind += 1
        else:
            ask.next = float("inf")
        self._wish_for(ask.next, ask.noticed, rtt)

    def _wish_for(self, at: float, noticed: float, rtt: float) -> None:
        if at + rtt <= noticed + self.budget_s and (self._wish is None or at < self._wish):
            self._wish = at

    def _settle(self, missing: Dict[int, float], now: float, rtt: float) -> None:
        """Forget those that came or are past hope, and learn how long to wait from those that came."""
        for sequence in [s for s, ask in self._asked.items() if self._is_over(s, ask, missing, now)]:
            ask = self._asked.pop(sequence)
            if sequence in missing:
                continue
            if now - ask.first < 0.75 * rtt:
                self.early += 1
                self.wait_s = min(self.MOST_WAIT_S, max(self.wait_s, 1.1 * (now - ask.noticed)))
            else:
                self.wait_s -= (self.wait_s - self.LEAST_WAIT_S) / 32

    def _is_over(self, sequence: int, ask: _Ask, missing: Dict[int, float], now: float) -> bool:
        return sequence not in missing or now - ask.noticed > self.budget_s

    def wish(self) -> Optional[float]:
        """When to call `due` next even if nothing new is missing, None if there is nothing to ask."""
        return self._wish

    def figures(self) -> Dict[str, int]:
        """{"entries", "most_entries"}: sequences asked for that have not come."""
        return {"entries": len(self._asked), "most_entries": self.MAX_ASKED}
