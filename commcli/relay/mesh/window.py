"""What one window of test packets says: the figures that the control word `mesh` answers. Pure.

Percentiles are nearest-rank. All figures are None where nothing was measured.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.mesh.losses import BACK, FORWARD, UNCERTAIN

# As short as holds enough packets for its percentiles, and each a multiple of the one before.
LENGTHS_S = (10, 30, 60, 300)
ENOUGH_PACKETS = 50


# (number, arrival) of answers: the reflector's, counted on over its restarts, and in which order the answers came.
Order = Tuple[float, float]
Orders = Sequence[Order]


class Answer(NamedTuple):
    """Of one packet. forward_s, back_s: T2-T1 and T4-T3, with the difference of the two clocks in them."""

    order: Order
    rtt_s: float
    forward_s: float
    back_s: float


class Jitter:
    """RFC 3550 s. 6.4.1 (and A.8): running over a session; the two clocks need not agree."""

    __slots__ = ("_transit_s", "value_s")

    def __init__(self) -> None:
        self.value_s = 0.0
        self._transit_s: Optional[float] = None

    def add(self, transits_s: Sequence[float]) -> None:
        """What packets took, in the order of arrival."""
        value_s, before_s = self.value_s, self._transit_s
        for transit_s in transits_s:
            if before_s is not None:
                value_s += (abs(transit_s - before_s) - value_s) / 16
            before_s = transit_s
        self.value_s, self._transit_s = value_s, before_s


def length_s(packets_a_second: float, start: float, unix: float) -> int:
    """How long a window that begins now is to be, if the one before it ended at `start`.

    Its own start, a multiple of its length, must not lie within that one.
    """
    lawful = [seconds for seconds in LENGTHS_S if unix // seconds * seconds >= start] or LENGTHS_S[:1]
    return next(
        (seconds for seconds in lawful if packets_a_second * seconds >= ENOUGH_PACKETS - 0.5), lawful[-1]
    )


def figures(
    answers: Sequence[Answer],
    others: Tuple[Orders, Orders],
    labels: Sequence[Optional[str]],
    clock_error_s: Optional[float],
    jitters: Tuple[Jitter, Jitter],
) -> Dict[str, object]:
    """answers: by the sequence of sending. labels: of all packets of the window, None for answered ones (losses.py).
    others: answers to what was sent before the window and after it. clock_error_s: of both clocks together, None if
    one is not synchronised.

    loss: of the round trip; loss_fwd: share of the sent that did not arrive; loss_back: share of the arrived whose
    answers did not. Those of a direction, and its bursts (runs of loss), are None while some loss is uncertain, as in
    an outage that goes on.
    """
    received = len(answers)
    forward, back = reordered(others[0], [answer.order for answer in answers], others[1])
    return {
        "sent": len(labels),
        "received": received,
        "rtt_ms": spread_ms([answer.rtt_s for answer in answers]),
        "loss": round(1 - received / len(labels), 6) if labels else None,
        **_losses(labels),
        **_delays(answers, clock_error_s, jitters),
        "reordered": forward + back,
        "reordered_fwd": forward,
        "reordered_back": back,
    }


def _losses(labels: Sequence[Optional[str]]) -> Dict[str, object]:
    forward: Optional[List[int]] = None
    back: Optional[List[int]] = None
    if labels and UNCERTAIN not in labels:
        forward, back = runs(labels, FORWARD), runs([label for label in labels if label != FORWARD], BACK)
    arrived = None if forward is None else len(labels) - sum(forward)
    return {
        "loss_fwd": None if forward is None else round(sum(forward) / len(labels), 6),
        "loss_back": round(sum(back) / arrived, 6) if arrived and back is not None else None,
        "bursts_fwd": None if forward is None else len(forward),
        "bursts_back": len(back) if arrived and back is not None else None,
        "longest_burst_fwd": None if forward is None else max(forward, default=0),
        "longest_burst_back": max(back, default=0) if arrived and back is not None else None,
    }


def runs(labels: Sequence[Optional[str]], label: str) -> List[int]:
    """How long each run of this label is."""
    return [sum(1 for _ in run) for found, run in groupby(labels) if found == label]


def _delays(
    answers: Sequence[Answer], clock_error_s: Optional[float], jitters: Tuple[Jitter, Jitter]
) -> Dict[str, object]:
    error_s = clock_error_s if answers else None
    found: Dict[str, object] = {"clock_error_ms": None if error_s is None else _ms(error_s)}
    there = [(answer.order[0], answer.forward_s) for answer in answers]
    back = [(answer.order[1], answer.back_s) for answer in answers]
    for way, ordered, jitter in (("fwd", there, jitters[0]), ("back", back, jitters[1])):
        delays_s = [delay_s for _, delay_s in sorted(ordered)]
        jitter.add(delays_s)
        spread = _spread_s(delays_s)
        found["jitter_%s_ms" % way] = _ms(jitter.value_s) if len(answers) >= 2 else None
        found["pdv_%s_ms" % way] = None if spread is None else _variation_ms(spread)
        found["delay_%s_ms" % way] = None if spread is None or error_s is None else _all_ms(spread)
    return found


def reordered(before: Orders, orders: Orders, later: Orders) -> Tuple[int, int]:
    """How many of the answers `orders` were reordered on the way there and on the way back (RFC 4737 s. 3).

    All by the sequence of sending; `before` and `later` are those of other windows that are known. Reordered is what
    comes after something that was sent later: there by our sequence, back by the reflector's number.
    """
    known = [*before, *orders, *later]
    if known == sorted(known) and _is_rising([arrival for _, arrival in known]):
        return 0, 0
    lowest, there = min((number for number, _ in later), default=math.inf), 0
    for number, _ in reversed(orders):
        if number > lowest:
            there += 1
        else:
            lowest = number
    ours, earliest, back = set(orders), math.inf, 0
    for row in sorted(known, reverse=True):
        if row[1] > earliest:
            back += row in ours
        else:
            earliest = row[1]
    return there, back


def _is_rising(values: List[float]) -> bool:
    return values == sorted(values)


def spread_ms(times_s: Sequence[float]) -> Optional[Dict[str, float]]:
    """Minimum and percentiles."""
    spread = _spread_s(times_s)
    return None if spread is None else _all_ms(spread)


def _spread_s(times_s: Sequence[float]) -> Optional[Dict[str, float]]:
    if not times_s:
        return None
    ordered = sorted(times_s)
    picked = {name: ordered[math.ceil(len(ordered) * percent / 100) - 1] for name, percent in _PERCENTILES}
    return {"min": ordered[0], **picked}


_PERCENTILES = (("p50", 50), ("p95", 95), ("p99", 99))


def _all_ms(spread_s: Dict[str, float]) -> Dict[str, float]:
    return {name: _ms(value_s) for name, value_s in spread_s.items()}


def _variation_ms(spread_s: Dict[str, float]) -> Dict[str, float]:
    """RFC 5481 s. 4.2, PDV: what each is more than the smallest."""
    return {name: _ms(spread_s[name] - spread_s["min"]) for name, _ in _PERCENTILES}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
