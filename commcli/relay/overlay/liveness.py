"""Who of our neighbours is alive, and which segments further down are dead: hop by hop, as BFD does (RFC 5880).

An end-to-end probe needs a round trip to tell; a relay in the middle is 45 ms away where the round trip is 200. So
neighbours say hello to each other all the time, and a neighbour that was not heard for longer than its own promise
allows is dead (`patience` says how long). Everything authentic counts as a hello. Each side also tells whether it
hears the other one, which finds a segment that is cut in one direction, and both tell their other neighbours at once
which segments are dead; what a neighbour found at its own end is passed on once more, so that the ingress of a path
with two intermediate relays knows of the last segment. What a neighbour says condemns only paths that begin with it:
it could as well drop what it is given. A relay that says hello and forwards nothing is left to the probes.

`now` is monotonic seconds, `unix` wall-clock seconds. No clock, no socket, no random in here.
"""

from __future__ import annotations

import math
from typing import Callable, Container, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from commcli.relay.overlay import hello as wire
from commcli.relay.overlay.hello import Hello, Segment
from commcli.relay.overlay.patience import BUSY_S, FASTEST_S, STANDBY_S, Weather, pace_s, silence_s
from commcli.relay.overlay.wire import node_number

MAX_STANDBY_A_SECOND = 200.0  # hellos of a big fleet's idle neighbours together
MAX_BUSY_A_SECOND = 2000.0
MAX_HELLOS_A_CALL = 64  # spreads the first hellos to a big fleet
# A neighbour that never spoke since we know of it. Long: a whole fleet may just be starting.
UNHEARD_S = 5.0
# Who goes on more slowly has promised so for this long before, in case that some of these hellos are lost.
SLOW_DOWN_S = 0.5
# Twice at once, as the news must not wait for the next hello if one is lost.
NEWS_TIMES, NEWS_SPACING_S = 2, 0.01
UNKNOWN_RTT_S = 0.5
LONGEST_RTT_S = 10.0
JITTERS, MOST_JITTER_S = 4, 0.1
REVIEW_S = 0.5
# Called later than asked for: what came meanwhile may wait in our own socket, so nobody is judged in this call.
LATE_S = 0.03
# Who stood still for so long was silent to others too; what they say of that is no news of the network.
STALL_S = 0.06
PATIENCE_WITH_OURSELVES_S = 0.25
SLACK_S = 0.002  # a timer that fires a little early must not cost another turn
EARLY_S = 0.1  # hellos to those who stand by go together, so that few turns have one
SOONEST_S, LOOK_S = 0.001, 0.2  # how soon and how late `due` wants to be called again
_STAMPS = 1 << 32

UNHEARD, ALIVE, SILENT = "unheard", "alive", "silent"


class _Neighbour:
    """What we know of one neighbour, and what we owe it."""

    __slots__ = (
        "asked_at", "busy_s", "changed_at", "claims", "clock_ahead_s", "count", "counted", "first_at", "heard", "id",
        "interval_s", "is_deaf", "is_hurried", "jitter_s", "last_hello", "limit_s", "news", "next_hello", "number",
        "other_rate", "promise_s", "review_at", "rtt_s", "slow_at", "slower_s", "stamp", "stamp_at", "state",
        "their_nonce", "wanted_s", "weather", "wished_s",
    )  # fmt: skip

    def __init__(self, id: str, now: float) -> None:
        self.id, self.number = id, node_number(id)
        self.state, self.is_deaf = UNHEARD, False
        self.first_at = self.changed_at = now
        self.review_at = now + REVIEW_S
        self.heard = -math.inf  # anything authentic
        self.count = self.counted = 0  # datagrams but for hellos, and how many of them the last review knew
        self.other_rate = 0.0  # what it sends us besides hellos, datagrams a second
        self.busy_s = BUSY_S  # how often we want to hear it while there is traffic
        self.promise_s = STANDBY_S  # how often it says hello
        self.limit_s = UNHEARD_S  # the silence that means death
        self.wished_s = STANDBY_S  # how often it wants to hear us
        self.wanted_s = STANDBY_S  # how often we want to hear it
        self.asked_at: Optional[float] = None  # since when we want it faster, and it has not taken notice
        self.interval_s = STANDBY_S  # how often we say hello to it
        self.is_hurried = False  # more often than to those who stand by
        self.slow_at: Optional[float] = None  # when that becomes `slower_s`, which is promised before
        self.slower_s = STANDBY_S
        self.next_hello, self.last_hello = now, -math.inf
        self.news = 0
        self.their_nonce = 0
        self.stamp, self.stamp_at = 0, -math.inf
        self.rtt_s: Optional[float] = None
        self.jitter_s = 0.0
        self.clock_ahead_s: Optional[float] = None
        self.claims: FrozenSet[Segment] = frozenset()
        self.weather = Weather()

    def deadline(self) -> float:
        """When its silence will mean that it is dead."""
        if self.state == UNHEARD:
            return max(self.first_at, self.heard) + UNHEARD_S
        by_promise = self.heard + self.limit_s
        if self.asked_at is None:
            return by_promise
        # It was asked to say hello faster; if it is there, its answer takes a round trip.
        rtt_s = UNKNOWN_RTT_S if self.rtt_s is None else self.rtt_s
        patience_s = silence_s(BUSY_S, 0.0, self.weather.loss, self.weather.burst)
        by_answer = max(self.heard, self.asked_at) + rtt_s + self.margin_s() + patience_s
        return min(by_promise, by_answer)

    def margin_s(self) -> float:
        return min(MOST_JITTER_S, JITTERS * self.jitter_s)

    def judge_by_promise(self) -> None:
        """Anew how long its silence may be."""
        weather = self.weather
        self.limit_s = self.margin_s() + silence_s(
            self.promise_s, self.other_rate, weather.loss, weather.burst
        )

    def review(self, now: float) -> None:
        """Anew what it sends, twice a second."""
        rate = max(0, self.count - self.counted) / (now - self.review_at + REVIEW_S)
        # Believed slowly, forgotten at once: media that stopped must not look like death.
        self.other_rate, self.counted = min(rate, 2 * self.other_rate + 5), self.count
        self.review_at = now + REVIEW_S
        self.busy_s = pace_s(self.other_rate, self.weather.loss, self.weather.burst)
        self.judge_by_promise()


LEAST_NEWS_S = 0.1  # between two claims of one neighbour that are told on at once
LONGEST_PROMISE_S = 30.0  # longer than the hellos of 4096 idle neighbours are apart


def nothing_further(_peer: str) -> Container[Segment]:
    """Nobody may condemn but its own segments."""
    return ()


class Liveness:
    """The hellos of one node. `changed`: somebody died or came back since the caller last set it to False."""

    def __init__(
        self,
        node: str,
        nonce_of: Callable[[str], int],
        further: Callable[[str], Container[Segment]] = nothing_further,
    ) -> None:
        """nonce_of: our present nonce for a neighbour, not 0; who repeats it has heard us since it was made up.

        further: the segments, beside those that it is an end of, that a neighbour may condemn.
        """
        self._further = further
        self._node, self._number, self._nonce_of = node, node_number(node), nonce_of
        self._rows: Dict[str, _Neighbour] = {}
        self._told: List[Segment] = []
        self._is_news = False  # `_told` is of before
        self._is_calm = True  # nothing is dead anywhere that we know of
        self._standby_s = STANDBY_S
        self._busiest_s = FASTEST_S
        self._wish = math.inf
        self._was_late = False
        self._stall_end = -math.inf
        self.changed = False

    def set_peers(self, peers: Iterable[str], now: float) -> None:
        """The neighbours from now on. What is known of those who stay is kept."""
        known = self._rows
        self._rows = {peer: known.get(peer) or _Neighbour(peer, now) for peer in peers}
        self._standby_s = max(STANDBY_S, len(self._rows) / MAX_STANDBY_A_SECOND)
        for row in self._rows.values():
            row.is_hurried = True  # until it has been looked at
        self._is_news, self._is_calm = True, False
        self._wish = now

    # --- what comes in -------------------------------------------------------------------------------------

    def heard(self, peer: str, now: float, count: int = 1) -> None:
        """Authentic datagrams of any kind, hellos too, came from a neighbour."""
        row = self._rows.get(peer)
        if row is not None:
            row.heard = now
            row.count += count

    def losses(self, peer: str, expected: int, lost: int, runs: int, now: float) -> None:
        """The cumulative counters of what comes from a neighbour (`Arrivals`), a few times a second."""
        row = self._rows.get(peer)
        if row is not None:
            row.weather.counted(expected, lost, runs, now)

    def hello(self, peer: str, body: bytes, sent_us: int, now: float, unix: float) -> None:
        """The body of an authentic hello. sent_us: its sender's wall clock. Raises ValueError for garbage."""
        said = wire.unpack(body)
        row = self._rows.get(peer)
        if row is None:
            return
        row.heard = now
        row.count -= 1  # `heard` counted it
        row.their_nonce = said.mine
        self._measure(row, said, now)
        row.clock_ahead_s = sent_us / 1e6 + (row.rtt_s or 0.0) / 2 - unix
        row.promise_s = min(LONGEST_PROMISE_S, max(FASTEST_S / 2, said.promise_ms / 1000))
        row.wished_s = min(LONGEST_PROMISE_S, max(FASTEST_S, said.wanted_ms / 1000))
        row.is_hurried = row.is_hurried or row.wished_s < STANDBY_S
        row.judge_by_promise()
        # Our own silence is no news of the network.
        excused = now - self._stall_end < (row.rtt_s or UNKNOWN_RTT_S) + PATIENCE_WITH_OURSELVES_S
        is_deaf = said.is_deaf and (row.is_deaf or not excused)
        claims = frozenset(
            claim for claim in said.dead if row.number in claim or claim in self._further(peer)
        )
        if row.state != ALIVE or is_deaf != row.is_deaf:
            row.state, row.is_deaf, row.claims = ALIVE, is_deaf, claims
            self._change(row, now)
        elif claims != row.claims:
            row.claims = claims
            if now - row.changed_at >= LEAST_NEWS_S:
                self._change(row, now)
            else:  # who changes its mind in every hello must not make us say each of them to everybody at once
                self.changed = self._is_news = True
                self._is_calm = False
        self._wish = min(self._wish, row.deadline(), max(now, row.last_hello + row.wished_s))

    def greeted(self, peer: str, body: bytes) -> None:
        """A hello with a right tag that may be a recording. Only its nonce is taken: our next hello repeats it, and
        its sender's next one will prove itself by repeating ours. Raises ValueError for garbage."""
        said = wire.unpack(body)
        row = self._rows.get(peer)
        if row is not None:
            row.their_nonce = said.mine

    def _measure(self, row: _Neighbour, said: Hello, now: float) -> None:
        """Round trip and jitter (RFC 3550 s. 6.4.1) by the stamps."""
        if row.stamp_at > now - 2.0:
            moved_s = (now - row.stamp_at) - ((said.stamp - row.stamp) % _STAMPS) / 1e6
            if abs(moved_s) < 2.0:
                row.jitter_s += (abs(moved_s) - row.jitter_s) / 16
        row.stamp, row.stamp_at = said.stamp, now
        if said.held_us is None:
            return
        away_s = ((_stamp(now) - said.your_stamp) % _STAMPS) / 1e6
        rtt_s = away_s - said.held_us / 1e6
        if 0 <= rtt_s < LONGEST_RTT_S:
            row.rtt_s = rtt_s if row.rtt_s is None else row.rtt_s + (rtt_s - row.rtt_s) / 8
        if row.asked_at is not None and now - away_s >= row.asked_at - SLACK_S:
            row.asked_at = None  # it has read what we ask for, so its promise is the answer

    # --- what goes out -------------------------------------------------------------------------------------

    def due(self, now: float, busy: Container[str]) -> "List[Tuple[str, bytes]]":
        """Judge everybody's silence; the hellos to send now, as (neighbour, body).

        busy: the neighbours on any path of the flows that live, backups included, so that a switch finds one that
        is known to be alive. Call it again at `wish()`.
        """
        if self._is_in_time(now):
            for row in self._rows.values():
                if row.state != ALIVE or row.review_at <= now or row.deadline() <= now:
                    self._judge(row, now)
        if self._is_news:
            self._tell()
        said: "List[Tuple[str, bytes]]" = []
        wish, fast, soon = now + LOOK_S, 0, now + EARLY_S
        for row in self._rows.values():
            is_busy = row.id in busy
            if is_busy or row.is_hurried:
                self._pace(row, is_busy, now)
                fast += row.is_hurried
            if (
                row.next_hello <= (now + SLACK_S if row.is_hurried else soon)
                and len(said) < MAX_HELLOS_A_CALL
            ):
                said.append((row.id, self._said(row, now)))
            if row.next_hello < wish:
                wish = row.next_hello
            if row.state != SILENT:
                wish = min(wish, row.deadline())
        self._busiest_s = max(FASTEST_S, fast / MAX_BUSY_A_SECOND)
        self._wish = max(wish, now + SOONEST_S)
        return said

    def wish(self) -> float:
        """When to call `due` again, monotonic seconds."""
        return self._wish

    def _is_in_time(self, now: float) -> bool:
        """Whether silence may be judged. A caller that is always late must not keep the dead alive."""
        late_s = now - self._wish
        if STALL_S < late_s < math.inf:
            self._stall_end = now
        was_late, self._was_late = self._was_late, late_s > LATE_S and not self._was_late
        return was_late or late_s <= LATE_S

    def excuse(self, seconds: float, now: float) -> None:
        """We slept for so long: nobody was silent meanwhile, and nobody can have heard us."""
        self._stall_end = now
        for row in self._rows.values():
            if row.state != SILENT:
                row.heard = min(now, row.heard + seconds)
            row.first_at += seconds
            if row.asked_at is not None:
                row.asked_at = min(now, row.asked_at + seconds)

    def _judge(self, row: _Neighbour, now: float) -> None:
        if now >= row.review_at:
            row.review(now)
        if row.state != ALIVE and row.heard > row.changed_at:
            row.state = ALIVE
            self._change(row, now)
        elif row.state != SILENT and now >= row.deadline():
            row.state, row.is_deaf, row.claims = SILENT, False, frozenset()
            row.wished_s = row.promise_s = STANDBY_S
            row.asked_at, row.other_rate = None, 0.0
            self._change(row, now)

    def _pace(self, row: _Neighbour, is_busy: bool, now: float) -> None:
        """How often we want to hear it, and how often it hears us."""
        before_s, row.wanted_s = row.wanted_s, row.busy_s if is_busy else self._standby_s
        if not is_busy:
            row.asked_at = None
        elif before_s > BUSY_S and row.promise_s > BUSY_S and row.state == ALIVE:
            row.asked_at = row.next_hello = now
        interval_s = BUSY_S if is_busy else self._standby_s
        if row.wished_s < STANDBY_S:
            interval_s = min(interval_s, row.wished_s)
        interval_s = max(interval_s, self._busiest_s)
        if interval_s <= row.interval_s:
            row.slow_at = None
            if interval_s < row.interval_s:
                row.interval_s = interval_s
                row.next_hello = min(row.next_hello, row.last_hello + interval_s)
        elif row.slow_at is None:
            row.slow_at, row.slower_s = now + SLOW_DOWN_S, interval_s
        elif now >= row.slow_at:
            row.interval_s, row.slow_at = row.slower_s, None
        row.is_hurried = is_busy or row.interval_s < self._standby_s

    def _said(self, row: _Neighbour, now: float) -> bytes:
        row.last_hello = now
        # What was said early, together with others, does not come earlier the next time too.
        row.next_hello = max(row.next_hello, now) + row.interval_s
        if row.news:
            row.news -= 1
            if row.news:
                row.next_hello = now + min(NEWS_SPACING_S, row.interval_s)
        promise_s = row.interval_s if row.slow_at is None else row.slower_s
        heard_ms = None if row.heard == -math.inf else int((now - row.heard) * 1000)
        held_us = None if row.stamp_at == -math.inf else int((now - row.stamp_at) * 1e6)
        return wire.pack(
            Hello(
                self._nonce_of(row.id), row.their_nonce, _stamp(now), row.stamp, held_us, heard_ms,
                round(promise_s * 1000), round(row.wanted_s * 1000), row.state == SILENT,
                () if self._is_calm else self._dead_for(row),
            )
        )  # fmt: skip

    # --- what is dead --------------------------------------------------------------------------------------

    def _change(self, row: _Neighbour, now: float) -> None:
        """Somebody died or came back: tell everybody with whom there is traffic at once."""
        row.changed_at = now
        self.changed = self._is_news = True
        self._is_calm = False
        for other in self._rows.values():
            if other.is_hurried or other is row:
                other.news = NEWS_TIMES
                other.next_hello = min(other.next_hello, max(now, other.last_hello + NEWS_SPACING_S))
                self._wish = min(self._wish, other.next_hello)

    def _tell(self) -> None:
        """Anew what we say is dead: our own neighbours first, then what they found; the latest news first."""
        rows = sorted(self._rows.values(), key=lambda row: -row.changed_at)
        own: List[Segment] = []
        passed: List[Segment] = []
        for row in rows:
            if row.state == SILENT:
                own += [(self._number, row.number), (row.number, self._number)]
            elif row.is_deaf:
                own.append((self._number, row.number))
            passed += [
                claim for claim in sorted(row.claims) if row.number in claim and self._number not in claim
            ]
        self._told = list(dict.fromkeys(own + passed))
        self._is_news = False
        self._is_calm = not (self._told or any(row.claims for row in rows))

    def _dead_for(self, row: _Neighbour) -> Sequence[Segment]:
        """Those to tell a neighbour; of its own segments it knows better, and DEAF says the rest."""
        found = []
        for segment in self._told:
            if row.number not in segment:
                found.append(segment)
                if len(found) == wire.MAX_SEGMENTS:
                    break
        return found

    def dead_on(self, path: Sequence[str]) -> "Optional[Tuple[str, str]]":
        """The first dead segment of a path that begins with us, None if we know of none."""
        if self._is_calm:
            return None
        row = self._rows.get(path[1])
        if row is None:
            return None
        if row.state == SILENT or row.is_deaf:
            return path[0], path[1]
        if row.claims:
            for at in range(1, len(path) - 1):
                if (node_number(path[at]), node_number(path[at + 1])) in row.claims:
                    return path[at], path[at + 1]
        return None

    def vouched(self, path: Sequence[str]) -> bool:
        """Whether we would know of a dead segment of this path: the neighbour that it begins with is alive."""
        row = self._rows.get(path[1])
        return row is not None and row.state == ALIVE

    def is_dead(self, sender: str, receiver: str) -> bool:
        """Whether we, or any neighbour that lives, take this directed segment for dead."""
        if self._node in (sender, receiver):
            row = self._rows.get(receiver if sender == self._node else sender)
            return row is not None and (row.state == SILENT or (row.is_deaf and sender == self._node))
        segment = node_number(sender), node_number(receiver)
        return any(segment in row.claims for row in self._rows.values())

    # --- what it tells -------------------------------------------------------------------------------------

    def rtt_s(self, peer: str) -> Optional[float]:
        """Smoothed round trip to a neighbour, None before it is measured."""
        row = self._rows.get(peer)
        return None if row is None else row.rtt_s

    def status(self, now: float) -> Mapping[str, Mapping[str, object]]:
        """JSON-able rows by neighbour; None: unmeasured. clock_ahead_ms is as good as the path is symmetric."""
        return {row.id: _status(row, now) for row in self._rows.values()}


def _status(row: _Neighbour, now: float) -> Dict[str, object]:
    return {
        "state": row.state,
        "hears_us": None if row.state != ALIVE else not row.is_deaf,
        "heard_ms_ago": None if row.heard == -math.inf else round((now - row.heard) * 1000),
        "dead_after_ms": round(row.limit_s * 1000),
        "hello_every_ms": round(row.interval_s * 1000),
        "rtt_ms": None if row.rtt_s is None else round(row.rtt_s * 1000, 3),
        "jitter_ms": round(row.jitter_s * 1000, 3),
        "clock_ahead_ms": None if row.clock_ahead_s is None else round(row.clock_ahead_s * 1000, 1),
        "loss": round(row.weather.loss, 4),
        "dead_segments": len(row.claims),
    }


def _stamp(now: float) -> int:
    return int(now * 1e6) % _STAMPS
