"""How much protection each class on one directed segment gets now: what the model says (`plans`), without haste.

Protection grows with the first report that calls for more, and shrinks after DOWN_S in which less would have done, or
once the segment has been clean for so long (`telemetry` then says p = 0). Loss together with a queue is
congestion: more packets make it worse, so nothing is added and another route is wanted. So it is where there is no
queue and loss grows with what we add (`policing`). What got through past a queue is the segment's capacity, and for a
minute protection takes no more than a fifth of that.
"""

from __future__ import annotations

import math
from typing import Dict, Optional, Tuple

from commcli.relay.overlay.telemetry import Estimate
from commcli.relay.protect import plans
from commcli.relay.protect.plan import UNMEASURED, Plan
from commcli.relay.protect.plans import Choice, Situation
from commcli.relay.protect.policing import Policing

DOWN_S = 5.0
# Below, and where nothing is lost, nothing needs to be done: trains of datagrams are far cheaper than ones that can be
# repaired. But the first losses of a segment come before any report of them, and only retransmission can repair these:
# so what is no load anyway is always kept for it.
NO_LOSS = 0.0001
SMALL_PACKETS_S = 2000.0
# A receiver that stood still for 100 ms loses hundreds in a row, out of its own full socket buffer. Taken for bursts on
# the way, they would be answered with copies, each packet would cost ten times the CPU of one in a train, and it would
# stand still for good.
OVERFLOW, OVERFLOW_RUN = "overflow", 50.0
MOST_GUARDED_PACKETS_S = 20_000.0  # a fifth of a core
CHANCE = (
    1.3  # by so much does the estimate of an unchanged loss vary: a few hundred losses at most are known of
)
TRAFFIC_GAIN = 0.1  # two seconds, at five reports a second
BLOCK_SLACK = 1.6  # traffic comes in bursts, and a block that is closed early has more parity for less
CONGESTED_LOSS = 0.002
CONGESTED_REPORTS = 3  # with a queue, one after the other: the picture that a call begins with is gone sooner
CONGESTED_S = 2.0  # how long a queue is remembered
LEAVE_LOSS = 0.15
LEAVE_RESIDUAL = 0.02
STALE_S = 10.0  # without a report: whatever was known says nothing any more
MOST_OF_MEDIA = 1.0
MOST_OF_CAPACITY = 0.2
CAPACITY_S = 60.0
# Where more is added than the model says, since repeats get lost as well: plan for less until it fits.
LESS, MORE, LEAST_OF_MEDIA = 0.8, 0.02, 0.1


class _Class:
    """What one class gets, what that adds, when it was last called for; and what it sends, smoothed."""

    __slots__ = ("choice", "kept", "needed", "packets_per_s", "plan", "share")

    def __init__(self) -> None:
        self.plan, self.choice = UNMEASURED, Choice()
        self.needed = float("-inf")
        self.packets_per_s = self.share = 0.0
        self.kept: Dict[str, float] = {}

    def sends(self, packets_per_s: float, share: float) -> None:
        """What it sent in the last interval: frames come unevenly, and a plan must not change with each."""
        gain = TRAFFIC_GAIN if self.packets_per_s else 1.0
        self.packets_per_s += gain * (packets_per_s - self.packets_per_s)
        self.share += gain * (share - self.share)

    def steady(self, name: str, value: float, ratio: float, slack: float = 0.0) -> float:
        """The value, rounded to a power of the ratio, or as it was if it has changed by less than the ratio or slack.

        So noise changes no plan, and the model's answers can be kept.
        """
        before, least = self.kept.get(name, 0.0), max(ratio, slack)
        if value <= 0 or before <= 0 or not before / least < value < before * least:
            before = ratio ** round(math.log(value) / math.log(ratio)) if value > 0 else 0.0
            self.kept[name] = before
        return before

    def use(self, plan: Plan, choice: Choice, now: float) -> Plan:
        """This from now on."""
        self.plan, self.choice, self.needed = plan, choice, now
        return plan


_NOTHING = Choice(resend=False)


class Controller:
    """One directed segment, at its sender. path_one_way_s: of the longest path over it; None: the segment's own."""

    __slots__ = (
        "_bad", "_capacity", "_classes", "_estimate", "_measured", "_media", "_policing", "_queued", "_queues",
        "_room", "path_one_way_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.path_one_way_s: Optional[float] = None
        self._classes: Dict[int, _Class] = {}
        self._estimate: Optional[Estimate] = None
        self._measured = self._queued = self._bad = float("-inf")
        self._queues = 0
        self._policing = Policing()
        self._room = MOST_OF_MEDIA
        self._media: Optional[float] = None  # bytes/s
        self._capacity: Optional[Tuple[float, float]] = None  # bytes/s, when

    def measured(self, report: Estimate, now: float, bytes_per_s: Optional[float] = None) -> None:
        """What is known of the segment now. bytes_per_s: all that we send there, protection included."""
        self._estimate, self._measured = report, now
        self._queues = self._queues + 1 if report.queue_grows else 0
        if self._queues >= CONGESTED_REPORTS and report.loss_1s > CONGESTED_LOSS:
            self._queued = now
            if bytes_per_s:
                self._capacity = (bytes_per_s * (1 - report.loss_1s), now)
        if bytes_per_s and self._media:
            added = max(0.0, bytes_per_s / self._media - 1)
            self._policing.measured(report.loss_1s, added, report.packets_per_s, report.burst, now)
            if self._policing.added > MOST_OF_MEDIA:
                self._room = max(LEAST_OF_MEDIA, LESS * self._room)
            else:
                self._room = min(MOST_OF_MEDIA, MORE + self._room)

    def plan(
        self,
        class_: int,
        packets_per_s: float,
        bytes_share: float,
        now: float,
        bytes_per_s: Optional[float] = None,
        backup_loss: Optional[float] = None,
    ) -> Plan:
        """What to do for a class that sends so much, bytes_share (0..1) being its part of the media on the segment.

        bytes_per_s: media of all classes there. backup_loss: of the disjoint backup; None: no copy can go there.
        """
        kept = self._classes.setdefault(class_, _Class())
        kept.sends(packets_per_s, bytes_share)
        self._media = bytes_per_s
        report = self._estimate
        if report is None or now - self._measured > STALE_S:
            return kept.use(UNMEASURED, Choice(), now)
        if now - self._queued < CONGESTED_S:
            return kept.use(Plan(leave=True, reason="congestion"), _NOTHING, now)
        forbidden = self._policing.forbids(now)
        if forbidden is not None:
            return kept.use(Plan(leave=forbidden == "policed", reason=forbidden), _NOTHING, now)
        crowd = self._crowded(report)
        if crowd is not None:
            leave = self._leaves(crowd == OVERFLOW or report.proven > LEAVE_LOSS, now)
            return kept.use(Plan(leave=leave, reason=crowd), _NOTHING, now)
        if report.p == 0:
            plan = Plan(resend=self._is_small(), leave=self._leaves(False, now), reason="clean")
            return kept.use(plan, _NOTHING, now)
        situation = self._situation(class_, report, now, bytes_per_s, backup_loss)
        choice = plans.best(situation) if report.p >= NO_LOSS else Choice(resend=self._is_small())
        leave = self._leaves(report.proven > LEAVE_LOSS or choice.residual > LEAVE_RESIDUAL, now)
        if choice.overhead < kept.choice.overhead and now - kept.needed < DOWN_S:
            kept.plan = kept.plan._replace(leave=leave)
            return kept.plan
        return kept.use(_plan(choice, situation, leave), choice, now)

    def _situation(
        self,
        class_: int,
        report: Estimate,
        now: float,
        bytes_per_s: Optional[float],
        backup_loss: Optional[float],
    ) -> Situation:
        kept = self._classes[class_]
        rtt_s = report.rtt_s
        return Situation(
            class_,
            kept.steady("p", report.p, 1.15, CHANCE),
            kept.steady("burst", report.burst, 1.15),
            None if rtt_s is None else kept.steady("rtt", rtt_s, 1.1),
            kept.steady("one way", self._one_way_s(report), 1.1),
            kept.steady("packets", kept.packets_per_s, 1.1),
            self._gap(kept.packets_per_s),
            kept.steady("share", kept.share, 1.2),
            kept.steady("most", self._most(now, bytes_per_s), 1.1),
            None if backup_loss is None else kept.steady("backup", max(backup_loss, 0.01), 2.0),
        )

    def _crowded(self, report: Estimate) -> Optional[str]:
        """Why a segment with losses gets nothing: what protects would cost the relays more than the losses do."""
        total = sum(kept.packets_per_s for kept in self._classes.values())
        if report.p >= NO_LOSS and total > MOST_GUARDED_PACKETS_S:
            return "more packets than repair has time for"
        if report.burst > OVERFLOW_RUN and total > SMALL_PACKETS_S:
            return OVERFLOW
        return None

    def _is_small(self) -> bool:
        """So little traffic that it costs nothing to keep it, in case of a first loss."""
        return sum(kept.packets_per_s for kept in self._classes.values()) < SMALL_PACKETS_S

    def _leaves(self, is_bad: bool, now: float) -> bool:
        if is_bad:
            self._bad = now
        return now - self._bad < DOWN_S

    def _one_way_s(self, report: Estimate) -> float:
        own = (plans.UNKNOWN_RTT_S if report.rtt_s is None else report.rtt_s) / 2
        return max(own, self.path_one_way_s or 0.0)

    def _gap(self, packets_per_s: float) -> int:
        total = sum(kept.packets_per_s for kept in self._classes.values())
        return max(1, min(8, int(total / packets_per_s))) if packets_per_s > 0 else 1

    def _most(self, now: float, bytes_per_s: Optional[float]) -> float:
        """How much may be added, as a share of the media."""
        if self._capacity is None or not bytes_per_s or now - self._capacity[1] > CAPACITY_S:
            return self._room
        return min(self._room, MOST_OF_CAPACITY * self._capacity[0] / bytes_per_s)

    def status(self) -> Dict[str, object]:
        """JSON-able; None: unmeasured."""
        report = self._estimate
        return {
            "loss": None if report is None else round(report.p, 5),
            "burst": None if report is None else round(report.burst, 2),
            "queue_ms": None if report is None else round(report.queue_ms, 1),
            "jitter_ms": None if report is None else round(report.jitter_ms, 1),
            "rtt_ms": None if report is None or report.rtt_s is None else round(report.rtt_s * 1000, 1),
            "classes": {_NAMES.get(word, str(word)): _told(kept) for word, kept in self._classes.items()},
        }


_NAMES = {plans.OTHER: "other", plans.AUDIO: "audio", plans.VIDEO: "video"}


def _told(kept: _Class) -> Dict[str, object]:
    plan, choice = kept.plan, kept.choice
    return {
        "resend": plan.resend,
        "copies": None if plan.copies is None else plan.copies[0],
        "parity": None if plan.parity is None else [*plan.parity[:2], plan.parity[3]],
        "backup": plan.backup,
        "leave": plan.leave,
        "reason": plan.reason,
        "expected_residual": round(choice.residual, 6),
        "expected_overhead": round(choice.overhead, 4),
    }


def _plan(choice: Choice, situation: Situation, leave: bool) -> Plan:
    block_s = BLOCK_SLACK * plans.prompt_s(situation.one_way_s)
    return Plan(
        choice.resend,
        choice.copies,
        None if choice.parity is None else (*choice.parity, block_s, choice.depth),
        choice.backup,
        leave,
        "loss %.1f %%, runs of %.1f" % (100 * situation.p, situation.burst),
    )
