"""Which of a route's paths to use now: dead after three missed probe replies, back after 30 s of health.

`PathMonitor` judges one path from its probes, `Choice` picks among primary, backup and last resort. Both get the
monotonic time in seconds as `now` and do nothing else; `overlay` sends the probes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, List, NamedTuple, Optional, Sequence, Tuple

IN_USE_INTERVAL_S = 0.06
STANDBY_INTERVAL_S = 1.0
MISSES_TO_DIE = 3
# While media still comes in over the reverse path, the relays on it are alive and a few lost probes are only loss:
# three in a row happen every 9 s at 10 % loss each way, ten in a row once in years. Ten, and not never, because a
# path may die in our direction alone.
MISSES_TO_DIE_WHILE_HEARD = 10
HEARD_S = 3 * IN_USE_INTERVAL_S
HEALTH_TO_RETURN_S = 30.0
# A path that dies again soon after its return must prove itself for twice as long, so that a bad one cannot flap.
RELAPSE_S = 300.0
LONGEST_HEALTH_TO_RETURN_S = 480.0
UNKNOWN_RTT_TIMEOUT_S = 1.0
MARGIN_S = IN_USE_INTERVAL_S
MAX_PENDING = 64

UNTRIED, UP, DEAD, RECOVERING = "untried", "up", "dead", "recovering"
USABLE = (UP, RECOVERING)  # it answers


class _Probe(NamedTuple):
    id: int
    sent: float
    due: float


class PathMonitor:
    """The liveness of one path. `state`: untried (no reply yet, used in good faith), up, dead or recovering.

    rtt_s: smoothed round trip of the probes (RFC 6298 s. 2), None before the first reply.
    """

    __slots__ = (
        "_hold_s", "_misses", "_overdue", "_pending", "_returned_at", "_variation_s", "healthy_since",
        "last_heard", "last_probe", "path", "rtt_s", "state",
    )  # fmt: skip

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        self.state = UNTRIED
        self.rtt_s: Optional[float] = None
        self.last_probe = float("-inf")
        self.last_heard = float("-inf")  # written by the data path
        self.healthy_since: Optional[float] = None
        self._variation_s = 0.0
        self._pending: Deque[_Probe] = deque(maxlen=MAX_PENDING)
        self._overdue: Deque[_Probe] = deque(maxlen=MAX_PENDING)
        self._misses = 0
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
        if self.state == UNTRIED:
            self.state = UP
        elif self.state == DEAD:
            self.state, self.healthy_since = RECOVERING, now
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

    def excuse(self, seconds: float) -> None:
        """We slept for so long; replies may be waiting in our own socket, so nothing is late yet."""
        later = (probe._replace(due=probe.due + seconds) for probe in self._pending)
        self._pending = deque(later, MAX_PENDING)

    def judge(self, now: float) -> str:
        """The state now, after counting what should have been answered by now."""
        while self._pending and self._pending[0].due <= now:
            self._overdue.append(self._pending.popleft())
            self._misses += 1
        bearable = MISSES_TO_DIE_WHILE_HEARD if now - self.last_heard < HEARD_S else MISSES_TO_DIE
        if self._misses >= bearable and self.state != DEAD:
            self._die(now)
        elif self.state == RECOVERING and self._is_healthy(now):
            self.state, self._returned_at = UP, now
        return self.state

    def _is_healthy(self, now: float) -> bool:
        return (
            self._misses == 0 and self.healthy_since is not None and now - self.healthy_since >= self._hold_s
        )

    def _die(self, now: float) -> None:
        if self.state == UP:
            relapsed = self._returned_at is not None and now - self._returned_at < RELAPSE_S
            self._hold_s = (
                min(2 * self._hold_s, LONGEST_HEALTH_TO_RETURN_S) if relapsed else HEALTH_TO_RETURN_S
            )
        self.state, self.healthy_since = DEAD, None


@dataclass(frozen=True)
class Switch:
    """A move from one label to another, and why."""

    before: str
    after: str
    reason: str


class Choice:
    """The active one among a route's paths, given in order of preference as (label, monitor), at least one."""

    def __init__(self, candidates: Sequence[Tuple[str, PathMonitor]]) -> None:
        self._candidates: List[Tuple[str, PathMonitor]] = list(candidates)
        self.active = self._best(None)

    def decide(self, now: float) -> Optional[Switch]:
        """Judges every path; the switch made, None if all stays."""
        before = self.active
        was_alive = self._state(before) != DEAD
        for _, monitor in self._candidates:
            monitor.judge(now)
        self.active = self._best(before)
        if self.active == before:
            return None
        return Switch(before, self.active, self._why(before, was_alive))

    def _best(self, current: Optional[str]) -> str:
        """The first that is up, unless the current one comes before it and is not dead.

        Nobody moves onto an untried or recovering path while one that is up exists, nor from one that has just
        recovered to a worse one. If nothing is up, whatever may answer; if nothing may, the last resort.
        """
        for label, monitor in self._candidates:
            if monitor.state == UP or (label == current and monitor.state != DEAD):
                return label
        for label, monitor in self._candidates:
            if monitor.state != DEAD:
                return label
        return self._candidates[-1][0]

    def _state(self, label: str) -> str:
        return dict(self._candidates)[label].state

    def _why(self, before: str, was_alive: bool) -> str:
        if self._state(before) != DEAD:
            return "%s is healthy" % self.active
        if self._state(self.active) == DEAD:
            return "no path answers"
        return "%s does not answer" % before if was_alive else "%s answers" % self.active
