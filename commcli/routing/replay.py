"""Back-tests of the rules on recorded round trips: decide on what was before a slice, score on the slice. Pure.

The rules are those of `route plan`; nothing here is tuned to a slice that it is scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commcli.errors import BadInput
from commcli.routing import planner
from commcli.routing.cost import Prices, edge_costs
from commcli.routing.decision import made_on
from commcli.routing.estimate import ROUNDS_KEPT, Matrix, from_rounds
from commcli.routing.past import Past
from commcli.routing.planner import Incumbent, Margin, Paths, Plan, Routes
from commcli.routing.policy import Mask, Masks
from commcli.routing.search import NOBODY

# What counts as a gain, and as a loss that somebody notices.
GAIN, HARM = 0.10, 0.05
PERCENTILES = (50, 95, 99)
SHARES = ("pairs_ge10", "pairs_worse5", "churn", "cover", "lost", "relayed")


@dataclass(frozen=True, slots=True)
class Score:
    """One slice, over the ordered pairs that were measured in it. RTTs in ms, a relay's price included.

    `pairs_ge10`, `pairs_worse5`: shares of them that fare at least 10 % better, or more than 5 % worse, than by the
    direct path; `churn`: share whose path is not that of the slice before (None for the first one); `cover`: share that
    has a backup of which every edge answered; `lost`: share whose path lost an edge. `direct`, `chosen`, `oracle`:
    mean, p50, p95, p99; the oracle knows the slice itself.
    """

    slice: int
    pairs: int
    pairs_ge10: float
    pairs_worse5: float
    churn: float | None
    cover: float
    lost: float
    relayed: float
    direct: tuple[float, ...]
    chosen: tuple[float, ...]
    oracle: tuple[float, ...]


def check(rtt: NDArray[np.floating], loss: NDArray[np.floating] | None = None) -> None:
    """Raise BadInput unless `rtt` is (T, N, N) in ms, and `loss` of the same shape, with something to score."""
    if rtt.ndim != 3 or rtt.shape[1] != rtt.shape[2]:
        raise BadInput(f"rtt has the shape {rtt.shape}, not (slices, nodes, nodes)")
    if rtt.shape[0] < 2 or rtt.shape[1] < 2:
        raise BadInput(
            f"rtt has {rtt.shape[0]} slices of {rtt.shape[1]} nodes: a back-test takes two of each"
        )
    if loss is not None and loss.shape != rtt.shape:
        raise BadInput(f"loss has the shape {loss.shape}, and rtt {rtt.shape}")
    if loss is not None and ((loss < 0) | (loss > 1)).any():
        raise BadInput("loss has shares that are not from 0 to 1")
    if np.nanmin(rtt, initial=np.inf) < 0:
        raise BadInput("rtt has times below 0")


def replay(
    rtt: NDArray[np.floating],
    loss: NDArray[np.floating] | None = None,
    *,
    prices: Prices | None = None,
    margin: Margin | None = None,
    masks: Masks | None = None,
    on_slice: Callable[[Score], None] = lambda score: None,
) -> list[Score]:
    """The score of every slice but the first, oldest first. `rtt` (T, N, N) in ms, NaN where nothing was measured;
    `loss` 0..1. Under `masks` only lawful paths are chosen, and pairs that they block are not scored. Raises BadInput.
    """
    check(rtt, loss)
    prices, margin = prices or Prices(), margin or Margin()
    masks = masks or _open(rtt.shape[1])
    routes: Routes | None = None
    scores = []
    for at in range(1, len(rtt)):
        plan = _decided(rtt[:at], None if loss is None else loss[:at], masks, prices, margin, routes)
        scores.append(_score(at, rtt[at].astype(np.float64), plan, routes, masks, prices))
        routes = _in_force(plan)
        on_slice(scores[-1])
    return scores


def mean(scores: Sequence[Score], name: str) -> float | None:
    """The mean of a share over the slices that have it, None where none has."""
    known = [value for score in scores if (value := getattr(score, name)) is not None]
    return float(np.mean(known)) if known else None


def mean_rtt(scores: Sequence[Score], name: str, figure: int = 0) -> float:
    """The mean over the slices of a figure (0: mean, then PERCENTILES) of `direct`, `chosen` or `oracle`, ms."""
    return float(np.mean([getattr(score, name)[figure] for score in scores]))


def _open(size: int) -> Masks:
    """No law, and every node a relay."""
    everyone = np.ones(size, dtype=bool)
    return Masks(
        everyone,
        everyone.copy(),
        np.zeros(size, np.int32),
        np.zeros((1, 1), np.int32),
        np.ones((1, size), dtype=bool),
        np.zeros((size, size), dtype=bool),
    )


def _decided(
    rtt: NDArray[np.floating],
    loss: NDArray[np.floating] | None,
    masks: Masks,
    prices: Prices,
    margin: Margin,
    routes: Routes | None,
) -> Plan:
    ids = [f"n{number:05}" for number in range(rtt.shape[1])]
    pooled = None
    if loss is not None:
        kept = loss[-ROUNDS_KEPT:]
        looked = (~np.isnan(kept)).sum(axis=0)
        pooled = np.where(looked, np.nansum(kept, axis=0) / np.maximum(looked, 1), np.nan)
    known = from_rounds(ids, rtt[-ROUNDS_KEPT:], pooled)
    costs = edge_costs(known, prices)
    past = Past(known.rounds, costs, masks, np.full(len(ids), prices.hop_ms), margin)
    return made_on(ids, costs, masks, past, routes)


def _in_force(plan: Plan) -> Routes:
    def held(paths: Paths) -> Incumbent:
        return Incumbent(paths.first, paths.second, paths.exists)

    return Routes(held(plan.primary), held(plan.backup), held(plan.last_resort))


def _score(at: int, rtt: Matrix, plan: Plan, before: Routes | None, masks: Masks, prices: Prices) -> Score:
    direct = planner.usable_costs(np.where(np.isnan(rtt), np.inf, rtt), masks)
    pairs = np.isfinite(direct) & ~masks.blocked
    if not pairs.any():
        raise BadInput(f"slice {at} has no measured pair")
    chosen = _met(direct, plan.primary, masks, prices)
    works = pairs & np.isfinite(chosen)
    oracle = planner.best_paths(direct, masks, hop_ms=prices.hop_ms).cost
    backup = _met(direct, plan.backup, masks, prices)
    base, met = direct[works], chosen[works]
    return Score(
        slice=at,
        pairs=int(pairs.sum()),
        pairs_ge10=_share(met <= (1 - GAIN) * base, pairs),
        pairs_worse5=_share(met > (1 + HARM) * base, pairs),
        churn=None if before is None else _share(_moved(plan.primary, before.primary)[pairs], pairs),
        cover=_share((plan.backup.exists & np.isfinite(backup))[pairs], pairs),
        lost=_share(~works[pairs], pairs),
        relayed=_share((plan.primary.first != NOBODY)[pairs], pairs),
        direct=_figures(base),
        chosen=_figures(met),
        oracle=_figures(oracle[works]),
    )


def _met(direct: Matrix, paths: Paths, masks: Masks, prices: Prices) -> Matrix:
    """What these paths took in the slice. What was not routed went straight."""
    hops = np.full(len(direct), prices.hop_ms)
    along = planner.path_costs(direct, masks, hops, paths.first, paths.second)
    return np.where(paths.exists & (paths.first != NOBODY), along, direct)


def _moved(now: Paths, before: Incumbent) -> Mask:
    moved: Mask = (now.first != before.first) | (now.second != before.second)
    return moved


def _share(found: Mask, pairs: Mask) -> float:
    return float(found.sum() / pairs.sum())


def _figures(values: Matrix) -> tuple[float, ...]:
    if not values.size:
        return (float("nan"),) * (1 + len(PERCENTILES))
    return float(values.mean()), *(float(value) for value in np.percentile(values, PERCENTILES))
