"""What an edge costs, in milliseconds of RTT: the one currency that paths are compared in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commcli.fleet.model import Media
from commcli.routing.estimate import SKILLED, UNSKILLED, Estimate, Matrix


@dataclass(frozen=True, slots=True)
class Prices:
    """cost = RTT + `jitter` x jitter + `loss_ms` x -ln(1 - loss), and for each intermediate relay `hop_ms` and its own
    price.

    -ln(1 - loss) adds up along a path as survival multiplies. A millisecond of jitter costs a receiver about
    two in its buffer; 1000 makes one percent of loss worth 10 ms.
    """

    jitter: float = 2.0
    loss_ms: float = 1000.0
    hop_ms: float = 2.0


# What a class of media suffers from. Audio: its buffer holds the jitter, and hides a lost packet. Video: a lost packet
# spoils the frames until it is there again. Data: nothing is lost for good, and nobody plays it out.
CLASSES: dict[Media, Prices] = {
    "audio": Prices(),
    "video": Prices(jitter=1.0, loss_ms=2000.0),
    "data": Prices(jitter=0.0, loss_ms=500.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class EdgeCosts:
    """(N, N) matrices in ms, infinite in the sums where an edge is unmeasured or loses everything.

    `straight` is RTT, jitter and loss: an edge as the direct path; `total` has `caution` added: an edge as a part of a
    relayed path (Estimate.cautious_ms). Loss is its upper bound, less what the overlay repairs. An edge without skill
    is not in `total`, nor is one of unknown skill unless the fleet is new. `kept` is for paths that are in force: they
    are judged by their medians, as the direct one is, and keep an edge until next to no skill is left of it. `skill`
    is that of Estimate.
    """

    rtt: Matrix
    jitter: Matrix
    loss: Matrix
    caution: Matrix
    straight: Matrix
    total: Matrix
    kept: Matrix
    skill: Matrix


def edge_costs(estimate: Estimate, prices: Prices | None = None) -> EdgeCosts:
    """The price of every directed edge.

    Jitter that nobody measured on a measured edge is taken as the fleet's median (0 if it was measured
    nowhere): an edge must not win because it was looked at less.
    """
    prices = prices or Prices()
    measured = estimate.measured
    known = estimate.jitter_ms[measured & ~np.isnan(estimate.jitter_ms)]
    typical = float(np.median(known)) if known.size else 0.0
    jitter = prices.jitter * np.where(np.isnan(estimate.jitter_ms), typical, estimate.jitter_ms)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(
            estimate.loss < 1.0, np.clip(estimate.loss_bound, 0.0, 1.0) * (1 - estimate.repaired), 1.0
        )
        loss = prices.loss_ms * np.maximum(0.0, -np.log1p(-np.where(np.isnan(estimate.loss), np.nan, left)))
    caution = estimate.cautious_ms - estimate.rtt_ms
    straight = np.where(measured, estimate.rtt_ms + jitter + loss, np.inf)
    skill = estimate.skill
    trusted = (skill >= SKILLED) | (np.isnan(skill) & estimate.is_new)
    total = np.where(measured & trusted, straight + caution, np.inf)
    kept = np.where(measured & ~(skill < UNSKILLED), straight, np.inf)
    for matrix in (straight, total, kept):
        np.fill_diagonal(matrix, np.inf)
    return EdgeCosts(estimate.rtt_ms, jitter, loss, caution, straight, total, kept, skill)
