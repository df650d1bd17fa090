"""Which of a route's paths to use now: dead with any of its segments, back after 30 s of health.

`PathMonitor` judges one path: by the segments that `liveness` takes for dead; by its own probes, end to end, which
find the relay that is alive and forwards nothing; and by what protection says of a path that is alive and too bad to
stay on. `Choice` picks among primary, backup and last resort. Both get the monotonic time in seconds as `now` and do
nothing else; `overlay` sends the probes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple

IN_USE_INTERVAL_S = 0.06
STANDBY_INTERVAL_S = 1.0
MISSES_TO_DIE = 3
# While media still comes in over the reverse path, or the relays on it are known to hear each other, a few lost probes
# are only loss: three in a row happen every 9 s at 10 % loss each way, and every 2 s where that is so on two segments;
# ten in a row once in years, and every 76 minutes. Ten, and not never, because a path may die in our direction alone,
# and a relay that is alive may forward nothing.
MISSES_TO_DIE_WHILE_ALIVE = 10
HEARD_S = 3 * IN_USE_INTERVAL_S
HEALTH_TO_RETURN_S = 30.0
# A path that stands by is probed once a second, so one that comes and goes misses a part of these. More than so
# many and more than this share, and health begins anew; up to 15 % of loss each way are no illness.
MISSES_TO_BEGIN_ANEW, SHARE_TO_BEGIN_ANEW = 4, 0.3
# A path that dies again soon after its return must prove itself for twice as long, so that a bad one cannot flap.
RELAPSE_S = 300.0
LONGEST_HEALTH_TO_RETURN_S = 480.0
# When every path is dead, it is an edge that was cut off: no path is to blame. After a moment of that all is as it was.
MOMENT_S = 5.0
SETTLED_S = 1.0
UNKNOWN_RTT_TIMEOUT_S = 1.0
MARGIN_S = IN_USE_INTERVAL_S
MAX_PENDING = 64

UNTRIED, UP, BAD, DEAD, RECOVERING = "untried", "up", "bad", "dead", "recovering"
STATES = (UNTRIED, UP, BAD, DEAD, RECOVERING)
USABLE = (UP, BAD, RECOVERING)  # it answers

Segment = Tuple[str, str]  # directed, by node ids


def no_segment(_path: Sequence[str]) -> Optional[Segment]:
    """Nothing is known of any segment."""
    return None


def nobody(_path: Sequence[str]) -> bool:
    """Nobody would know of a dead segment."""
    return False


class _Probe(NamedTuple):
    id: int
    sent: float
    due: float


class PathMonitor:
    """The liveness of one path. `state`: untried (no reply yet, used in good faith), up, bad, dead or recovering.

    leave: why protection wants to be off this path, None if it does not; written by the data path.
    cut: the dead segment on it, None if there is none.
    rtt_s: smoothed round trip of the probes (RFC 6298 s. 2), None before the first reply.
    """

    __slots__ = (
        "_answers_since", "_hold_s", "_misses", "_misses_since", "_overdue", "_pending", "_returned_at", "_variation_s",
        "cut", "healthy_since", "last_heard", "last_probe", "leave", "path", "rtt_s", "state",
    )  # fmt: skip

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        self.state = UNTRIED
        self.cut: Optional[Segment] = None
        self.leave: Optional[str] = None
        self.rtt_s: Optional[float] = None
        self.last_probe = float("-inf")
        self.last_heard = float("-inf")  # written by the data path
        self.healthy_since: Optional[float] = None
        self._variation_s = 0.0
        self._pending: Deque[_Probe] = deque(maxlen=MAX_PENDING)
        self._overdue: Deque[_Probe] = deque(maxlen=MAX_PENDING)
        self._misses = 0
        self._answers_since = self._misses_since = 0  # since it is healthy
        self._hold_s = HEALTH_TO_RETURN_S
        self._returned_at: Optional[float] = None

    def probed(self, probe_id: int, now: float) -> None:
        """A probe goes out."""
        wait = UNKNOWN_RTT_TIMEOUT_S
        if self.rtt_s is not None:
            wait = self.rtt_s + max(MARGIN_S, 4 * self._variation_s)
        self._pending.append(_Probe(probe_id, now, now + wait))
        self.last_probe = now

    def answered(self, probe_id: int, now: float) -> bool:
        """A reply came in; False if it answers no probe that we remember.

        A late one counts too: it was a miss, but the path lives, and its RTT teaches us to wait longer.
        """
        sent = self._sent_at(probe_id)
        if sent is None:
            return False
        self._measure(now - sent)
        self._misses = 0
        self._answers_since += 1
        if self.state == UNTRIED:
            self.state = UP
        elif self.state == DEAD and self.cut is None:
            self._recover(now)
        return True

    def _sent_at(self, probe_id: int) -> Optional[float]:
        """When it was sent; forgets it and all before it, which are overtaken."""
        for waiting in (self._pending, self._overdue):
            if any(probe.id == probe_id for probe in waiting):
                while True:
                    probe = waiting.popleft()
                    if probe.id == probe_id:
                        return probe.sent
        return None

    def _measure(self, rtt_s: float) -> None:
        if self.rtt_s is None:
            self.rtt_s, self._variation_s = rtt_s, rtt_s / 2
            return
        self._variation_s += (abs(self.rtt_s - rtt_s) - self._variation_s) / 4
        self.rtt_s += (rtt_s - self.rtt_s) / 8

    def kept(self, now: float) -> List[object]:
        """What the next process of this relay is to know (JSON), for `resume`: times as seconds ago."""
        ago = [None if at is None else round(now - at, 3) for at in (self.healthy_since, self._returned_at)]
        return [self.state, self.rtt_s, self._hold_s, *ago]

    def resume(self, kept: Sequence[Any], now: float) -> None:
        """Go on with what an earlier process `kept`."""
        state, rtt_s, hold_s, healthy_s, returned_s = kept
        if self.state != UNTRIED or state not in STATES:
            return
        self.state, self._hold_s = state, hold_s
        self.healthy_since = None if healthy_s is None else now - healthy_s
        self._returned_at = None if returned_s is None else now - returned_s
        if rtt_s is not None:
            self._measure(rtt_s)

    def excuse(self, seconds: float) -> None:
        """We slept for so long; replies may be waiting in our own socket, so nothing is late yet."""
        later = (probe._replace(due=probe.due + seconds) for probe in self._pending)
        self._pending = deque(later, MAX_PENDING)

    def judge(self, now: float, cut: Optional[Segment] = None, is_vouched: bool = False) -> str:
        """The state now, after counting what should have been answered by now.

        cut: a dead segment on the path. is_vouched: somebody would know of one.
        """
        while self._pending and self._pending[0].due <= now:
            self._overdue.append(self._pending.popleft())
            self._misses += 1
            self._misses_since += 1
        self.cut = cut
        is_alive = is_vouched or now - self.last_heard < HEARD_S
        bearable = MISSES_TO_DIE_WHILE_ALIVE if is_alive else MISSES_TO_DIE
        if cut is not None or self._misses >= bearable:
            if self.state != DEAD:
                self._fall(DEAD, now)
        elif self.leave is not None:
            if self.state in (UP, RECOVERING):
                self._fall(BAD, now)
        elif self.state == BAD or (self.state == RECOVERING and self._is_ill()):
            self._recover(now)
        elif self.state == RECOVERING and self._is_healthy(now):
            self.state, self._returned_at = UP, now
        return self.state

    def _recover(self, now: float) -> None:
        self.state, self.healthy_since = RECOVERING, now
        self._answers_since = self._misses_since = 0

    def _is_ill(self) -> bool:
        misses = self._misses_since
        return misses >= MISSES_TO_BEGIN_ANEW and misses > SHARE_TO_BEGIN_ANEW * (
            misses + self._answers_since
        )

    def _is_healthy(self, now: float) -> bool:
        return (
            self._misses == 0 and self.healthy_since is not None and now - self.healthy_since >= self._hold_s
        )

    def _fall(self, state: str, now: float) -> None:
        if self.state == UP:
            relapsed = self._returned_at is not None and now - self._returned_at < RELAPSE_S
            self._hold_s = (
                min(2 * self._hold_s, LONGEST_HEALTH_TO_RETURN_S) if relapsed else HEALTH_TO_RETURN_S
            )
        self.state, self.healthy_since = state, None


@dataclass(frozen=True)
class Switch:
    """A move from one label to another, and why."""

    before: str
    after: str
    reason: str


class Choice:
    """The active one among a route's paths, given in order of preference as (label, monitor), at least one."""

    def __init__(self, candidates: Sequence[Tuple[str, PathMonitor]], current: Optional[str] = None) -> None:
        """current: the one that is in use, if one is."""
        self._candidates: List[Tuple[str, PathMonitor]] = list(candidates)
        self.active = self._best(current)
        self._settled = self.active  # the last one that was in use for a while
        self._moved_at = float("-inf")
        self._dark_at: Optional[float] = None  # since when no path answers, or did a moment ago

    def decide(
        self,
        now: float,
        dead_on: Callable[[Sequence[str]], Optional[Segment]] = no_segment,
        vouched: Callable[[Sequence[str]], bool] = nobody,
    ) -> Optional[Switch]:
        """Judges every path; the switch made, None if all stays. dead_on, vouched: of `Liveness`."""
        before = self.active
        was_alive = self._state(before) != DEAD
        for _, monitor in self._candidates:
            monitor.judge(now, dead_on(monitor.path), vouched(monitor.path))
        is_home = self._is_dawn(now)
        self.active = self._settled if is_home else self._best(before)
        if self.active == before:
            return None
        self._moved_at = now
        reason = "every path was dead for a moment" if is_home else self._why(before, was_alive)
        return Switch(before, self.active, reason)

    def _is_dawn(self, now: float) -> bool:
        """Whether the path that was in use answers again after a moment in which none did."""
        if all(monitor.state == DEAD for _, monitor in self._candidates):
            self._dark_at = now if self._dark_at is None else self._dark_at
            return False
        if self._dark_at is None:
            if now - self._moved_at >= SETTLED_S and self._state(self.active) != DEAD:
                self._settled = self.active
            return False
        is_over = now - self._dark_at > MOMENT_S or self._state(self._settled) in USABLE
        is_dawn = is_over and now - self._dark_at <= MOMENT_S
        if is_over:
            self._dark_at = None
        return is_dawn

    def _best(self, current: Optional[str]) -> str:
        """The first that is up, unless the current one comes before it and is neither dead nor bad.

        Nobody moves onto an untried or recovering path while one that is up exists, nor from one that has just
        recovered to a worse one. A bad path is left for one that is up, and for no other. If nothing is up, whatever
        may answer; if nothing may, the last resort.
        """
        for label, monitor in self._candidates:
            if monitor.state == UP or (label == current and monitor.state not in (DEAD, BAD)):
                return label
        if current is not None and self._state(current) == BAD:
            return current
        for label, monitor in self._candidates:
            if monitor.state != DEAD:
                return label
        return self._candidates[-1][0]

    def _state(self, label: str) -> str:
        return dict(self._candidates)[label].state

    def _why(self, before: str, was_alive: bool) -> str:
        monitor = dict(self._candidates)[before]
        if monitor.state == BAD:
            return "%s is bad: %s" % (before, monitor.leave)
        if monitor.state != DEAD:
            return "%s is healthy" % self.active
        if self._state(self.active) == DEAD:
            return "no path answers"
        if not was_alive:
            return "%s answers" % self.active
        if monitor.cut is not None:
            return "%s is dead from %s to %s" % (before, *monitor.cut)
        return "%s does not answer" % before
