"""Loss as a chain of two states (Gilbert): nothing is lost in the good one, everything in the bad one.

p is the share of packets lost, B the mean length of a run of losses. The bad state is left with probability 1/B and
entered with p / (B (1 - p)). B = 1 / (1 - p) is independent loss: shorter runs do not come by chance.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import List, Tuple

MOST_PARITIES = 16


def memory(p: float, burst: float) -> float:
    """How much a packet's fate says of the next one's: 0 for independent loss, towards 1 for long runs."""
    if not 0 < p < 1:
        return 0.0
    return max(0.0, 1 - 1 / burst - p / (burst * (1 - p)))


def both_lost(p: float, burst: float, lag: float) -> float:
    """The share of packets that are lost together with the one `lag` packets later."""
    return p * (p + (1 - p) * math.pow(memory(p, burst), lag))


@lru_cache(maxsize=2048)
def after_parity(p: float, burst: float, k: int, depth: int, gap: int) -> Tuple[float, ...]:
    """The share of data still lost with a code (k, m), for m = 0..MOST_PARITIES.

    depth: of interleaving; gap: packets of the segment from one of the class to the next; the parities follow the
    last data packet one after the other. Either loss is within the code's m and costs nothing, or the data lost
    stay lost. Rounded inputs make it cheap: about a millisecond when new (k = 32).
    """
    if p >= 1:
        return (1.0,) * (MOST_PARITIES + 1)
    # In joint states (bad now?, lost so far <= 16): its probability, and the data lost in it, as an expectation.
    mean_burst = max(burst, 1 / (1 - p))
    data = _step(p, mean_burst, depth * gap)
    chance = [[1 - p] + [0.0] * MOST_PARITIES, [0.0] * (MOST_PARITIES + 1)]
    chance[1][1] = p
    weight = [[0.0] * (MOST_PARITIES + 1), [0.0] * (MOST_PARITIES + 1)]
    weight[1][1] = p
    for _ in range(k - 1):
        chance, weight = _advance(chance, weight, data, True)
    parity = _step(p, mean_burst, 1)
    left = [p]
    for m in range(1, MOST_PARITIES + 1):
        chance, weight = _advance(chance, weight, parity if m > 1 or depth == 1 else data, False)
        repaired = sum(weight[0][: m + 1]) + sum(weight[1][: m + 1])
        left.append(max(0.0, p - repaired / k))
    return tuple(left)


def _step(p: float, burst: float, lag: int) -> Tuple[float, float]:
    """Chances to be in the bad state after `lag` packets: from the good one, from the bad one."""
    kept = memory(p, burst) ** lag
    return p * (1 - kept), p + (1 - p) * kept


Joint = List[List[float]]


def _advance(chance: Joint, weight: Joint, step: Tuple[float, float], is_data: bool) -> Tuple[Joint, Joint]:
    """One packet later."""
    from_good, from_bad = step
    good_chance = [a * (1 - from_good) + b * (1 - from_bad) for a, b in zip(*chance)]
    good_weight = [a * (1 - from_good) + b * (1 - from_bad) for a, b in zip(*weight)]
    # What falls off the end is past all hope.
    bad_chance = [0.0, *[a * from_good + b * from_bad for a, b in zip(*chance)][:-1]]
    bad_weight = [0.0, *[a * from_good + b * from_bad for a, b in zip(*weight)][:-1]]
    if is_data:
        bad_weight = [w + c for w, c in zip(bad_weight, bad_chance)]
    return [good_chance, bad_chance], [good_weight, bad_weight]
