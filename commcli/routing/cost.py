"""What an edge costs, in milliseconds of RTT: the one currency that paths are compared in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commcli.routing.estimate import Estimate, Matrix


@dataclass(frozen=True, slots=True)
class Prices:
    """cost = RTT + `jitter` x jitter + `loss_ms` x -ln(1 - loss), and `hop_ms` for each intermediate relay.

    -ln(1 - loss) adds up along a path as survival multiplies. A millisecond of jitter costs a receiver about
    two in its buffer; 1000 makes one percent of loss worth 10 ms.
    """

    jitter: float = 2.0
    loss_ms: float = 1000.0
    hop_ms: float = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class EdgeCosts:
    """(N, N) matrices in ms, infinite in the sums where an edge is unmeasured or loses everything.

    `straight` is RTT, jitter and loss: an edge as the direct path; `total` has `caution` added: an edge as a part of a
    relayed path (Estimate.cautious_ms).
    """

    rtt: Matrix
    jitter: Matrix
    loss: Matrix
    caution: Matrix
    straight: Matrix
    total: Matrix


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
        loss = prices.loss_ms * np.maximum(0.0, -np.log1p(-np.clip(estimate.loss, 0.0, 1.0)))
    caution = estimate.cautious_ms - estimate.rtt_ms
    straight = np.where(measured, estimate.rtt_ms + jitter + loss, np.inf)
    total = np.where(measured, straight + caution, np.inf)
    for matrix in (straight, total):
        np.fill_diagonal(matrix, np.inf)
    return EdgeCosts(
        rtt=estimate.rtt_ms, jitter=jitter, loss=loss, caution=caution, straight=straight, total=total
    )
