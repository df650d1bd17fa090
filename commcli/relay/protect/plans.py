"""What to do against loss on one directed segment: the choices, what each would leave and cost, and the cheapest.

A plan costs the bytes it adds, as a share of all media on the segment; a price for each packet that comes late, more
than `prompt_s` after its time, of which a few are not noticed; and a high one for each that never comes, of which we
promise that they are few (TARGET). So retransmission alone, which costs no more than what was lost, wins where the
round trip is short or losses are few; else enough parity to keep late packets rare, and retransmission of what parity
leaves, which is little, because the sender does not answer for a block that its parity mends (`mending`).

Delay budgets, with G.114 (one-way up to 150 ms does no harm, up to 400 ms is to be borne): `prompt_s` is what is left
of 150 ms, but 67 ms (two frames of video) at most, since a call has two access lines and two jitter buffers as well,
and not under 30 ms, since then the path itself is the worst of it. `worth_s` is what is left of 400 ms: later, nobody
waits for a packet.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Iterator, List, NamedTuple, Optional, Tuple

from commcli.relay.protect import gilbert

OTHER, AUDIO, VIDEO = 0, 1, 2

TARGET = 0.0005  # half of what we promise (0.1 %): the loss is an estimate
# A percent of packets that come late is worth so many percent of bytes. Late audio is mostly as good as lost, and is
# small; late video holds a picture back; files and signalling do not mind. A percent of loss costs an Opus call some
# 5 points of R (G.107), so what is left to conceal under UNNOTICED costs 2 or 3, and hardly matters.
LATE_PRICE = {OTHER: 0.0, AUDIO: 20.0, VIDEO: 3.8}
UNNOTICED, UNNOTICED_PRICE = 0.005, 0.5
# A percent over TARGET. High, but no plan that doubles the traffic is worth the last tenth of a percent.
LOST_PRICE = 100.0
MODEL_SLACK = 1.05  # what the model leaves out must fit into what may be added, too

FINE_S, BEARABLE_S = 0.15, 0.4  # G.114, one way
MOST_PROMPT_S, LEAST_PROMPT_S = 0.067, 0.03
LEAST_WORTH_S = 0.1
MOST_K = 32
MOST_DEPTH = 8
# A parity is as long as the longest of its block, and says which these are: so much longer than its class's usual.
PARITY_LENGTH = {OTHER: 1.3, AUDIO: 1.35, VIDEO: 1.2}
# As `resend.Wanted` does it.
NOTICE_S = 0.005  # until a gap is asked for, beside the time to the next packet
MOST_ROUNDS = 5
BLIND_S = 0.02
UNKNOWN_RTT_S = 0.1


def prompt_s(one_way_s: float) -> float:
    """What a repair may take without harm, on a path that takes so long one way."""
    return min(MOST_PROMPT_S, max(LEAST_PROMPT_S, FINE_S - one_way_s))


def worth_s(one_way_s: float) -> float:
    """What a repair may take to be worth having: the budget of `resend.Wanted`."""
    return max(LEAST_WORTH_S, BEARABLE_S - one_way_s)


class Situation(NamedTuple):
    """What a plan depends on. p: share lost before repair; burst: mean run of losses."""

    word: int
    p: float
    burst: float
    rtt_s: Optional[float]  # of the segment
    one_way_s: float  # of the longest path over it
    packets_per_s: float  # of the class
    gap: int  # packets of the segment from one of the class to the next
    share: float  # of the segment's bytes
    most: float  # that may be added to the class, as a share of its bytes
    backup_loss: Optional[float]  # of the disjoint backup; None: there is none, or we are not the ingress


class Choice(NamedTuple):
    """One way to protect, and what the model says of it."""

    resend: bool = True
    copies: Optional[Tuple[int, float]] = None  # packets and seconds from the original to its copy
    parity: Optional[Tuple[int, int]] = None  # (k, m)
    depth: int = 1  # blocks filled in turn
    backup: bool = False
    residual: float = 0.0  # never repaired
    late: float = 0.0  # not repaired in prompt_s
    overhead: float = 0.0  # bytes added, as a share of the class's own


@lru_cache(maxsize=4096)
def best(situation: Situation) -> Choice:
    """The cheapest, all in all."""
    return min(_choices(situation), key=lambda choice: _cost(choice, situation))


def _cost(choice: Choice, situation: Situation) -> float:
    late = LATE_PRICE[situation.word] * max(0.0, choice.late - UNNOTICED) + UNNOTICED_PRICE * choice.late
    lost = LOST_PRICE * max(0.0, choice.residual - TARGET)
    return situation.share * choice.overhead + late + lost


def _choices(situation: Situation) -> Iterator[Choice]:
    for choice in _first_aid(situation):
        found = _with_resend(choice, situation)
        if found.overhead * MODEL_SLACK <= situation.most or choice.overhead == 0:
            yield found
        if (choice.copies is not None or choice.backup) and choice.overhead <= situation.most:
            yield choice._replace(resend=False, residual=choice.late)  # as much as may be is added already


def _first_aid(situation: Situation) -> Iterator[Choice]:
    """What is sent before anybody knows of a loss. In these, `late` is what it leaves."""
    p, burst = situation.p, situation.burst
    yield Choice(late=p)
    if situation.backup_loss is not None:
        yield Choice(backup=True, late=p * situation.backup_loss, overhead=1.0)
    if situation.packets_per_s <= 0:
        return
    budget_s = prompt_s(situation.one_way_s)
    for spacing in _spacings(situation, budget_s):
        lag = min(spacing, situation.packets_per_s * budget_s) * situation.gap
        left = gilbert.both_lost(p, burst, lag)
        yield Choice(copies=(spacing, budget_s), late=left, overhead=1.0)
    length = PARITY_LENGTH[situation.word]
    for k, depth in _shapes(situation, budget_s):
        left_of = gilbert.after_parity(p, burst, k, depth, situation.gap)
        for m in range(1, min(k, gilbert.MOST_PARITIES) + 1):
            yield Choice(parity=(k, m), depth=depth, late=left_of[m], overhead=length * m / k)


def _spacings(situation: Situation, budget_s: float) -> List[int]:
    """In packets; the rest of a burst is to be over. Where they are few, the time budget sends the copy."""
    fits = max(1, int(situation.packets_per_s * budget_s))
    return [
        spacing for spacing in sorted({1, 2, max(2, round(situation.burst + 1)), 8, 16}) if spacing <= fits
    ]


def _shapes(situation: Situation, budget_s: float) -> Iterator[Tuple[int, int]]:
    """(k, depth): all that the traffic fills in time, and parts of it, which leaves more but may cost less."""
    fits = 1 + round(situation.packets_per_s * budget_s)
    if fits < 2:
        return
    widest = min(MOST_K, fits)
    for k in sorted({widest, max(2, widest * 2 // 3), max(2, widest // 2)}):
        depth = max(1, min(MOST_DEPTH, fits // k))
        yield k, depth
        if depth > 2:
            yield k, 2


def _with_resend(choice: Choice, situation: Situation) -> Choice:
    """The choice and retransmission, which is only ever an answer, so that there is no reason to do without."""
    left = choice.late
    soon, worth = _rounds(situation)
    fails = 1 - (1 - situation.p) ** 2  # the request or its answer is lost
    answered = left if choice.parity is not None else situation.p
    # Further requests are made only while it has not come.
    answers = answered * (1 - situation.p) * sum(fails**n for n in range(worth))
    return choice._replace(
        resend=worth > 0,
        late=left * fails**soon,
        residual=left * fails**worth,
        overhead=choice.overhead + answers,
    )


def _rounds(situation: Situation) -> Tuple[int, int]:
    """How many requests for one packet can be answered in the prompt budget, and while it is worth having."""
    rtt = UNKNOWN_RTT_S if situation.rtt_s is None else situation.rtt_s
    noticed = NOTICE_S + min(0.02, 1.5 / max(situation.packets_per_s * situation.gap, 1.0))
    again = 1.25 * rtt + NOTICE_S
    counts = []
    for budget_s in (prompt_s(situation.one_way_s), worth_s(situation.one_way_s)):
        left = budget_s - noticed - rtt
        rounds = 0 if left < 0 else 1 + int(left / again)
        counts.append(min(MOST_ROUNDS, rounds))
    soon, worth = counts
    # The last round is asked for twice: see `Wanted`.
    if (
        0 < worth < MOST_ROUNDS
        and worth_s(situation.one_way_s) - noticed - rtt - (worth - 1) * again >= BLIND_S
    ):
        worth += 1
    return soon, worth
