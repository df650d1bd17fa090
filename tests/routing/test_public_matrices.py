"""The planner on public measurements of the real Internet, where they are at hand.

The figures to meet are those that the data's own README states (found by other code): the share of ordered
pairs that gain at least 10 % RTT by one relay or by two, a relay charged 2 ms. RTT only: none of the data
holds loss.
"""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commcli.routing import policy as policies
from commcli.routing.cost import Prices, edge_costs
from commcli.routing.decision import Decision, decide_on
from commcli.routing.estimate import Estimate, Matrix, from_matrices
from commcli.routing.policy import Policy
from tests.routing.fleets import fleet

HERE = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("COMMCLI_LATENCY_DATA") or HERE.parent / "shared/data/latency")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no public latency data: set COMMCLI_LATENCY_DATA to its folder"
)


def square(path: Path) -> tuple[list[str], Matrix]:
    """A CSV of source rows and destination columns, blanks unmeasured. The repeated names of cities get a
    number.
    """
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    ids = [f"n{n:03}" for n in range(len(rows))]
    assert len(head) == len(rows) + 1
    return ids, np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in rows])


def decided(ids: list[str], rtt_ms: Matrix) -> tuple[Policy, Estimate, Decision]:
    rules = policies.of(fleet(dict.fromkeys(ids, "xx")))
    # Nobody knows which of them may fail together.
    rules = replace(rules, places={node: replace(rules.places[node], region="") for node in ids})
    known = from_matrices(ids, np.where(rtt_ms > 0, rtt_ms, np.nan))
    made = decide_on("test", rules, known, in_force=None, serial=1, now_unix=0)
    return rules, known, made


def gaining(known: Estimate, made: Decision, *, relays: int) -> float:
    """The share of ordered pairs whose best path with at most this many relays is at least 10 % under direct."""
    direct = edge_costs(known, Prices()).total
    if relays == 2:
        cost = made.plan.best.cost
    else:
        # The plain min-plus product, once more by hand.
        cost = direct.copy()
        for k in range(len(direct)):
            np.minimum(cost, direct[:, k, None] + direct[None, k, :] + Prices().hop_ms, out=cost)
    pairs = np.isfinite(direct)
    return float((cost[pairs] <= 0.9 * direct[pairs]).mean())


def test_aws_regions_gain_little() -> None:
    known, made = decided(*square(FOLDER / "aws-cloudping-2025/rtt_p50_ms.csv"))[1:]
    assert gaining(known, made, relays=1) == pytest.approx(0.038, abs=0.001)
    assert gaining(known, made, relays=2) == pytest.approx(0.043, abs=0.001)


def test_the_public_internet_gains_much_and_most_pairs_have_a_near_backup() -> None:
    known, made = decided(*square(FOLDER / "wondernetwork-2018/rtt_min_ms.csv"))[1:]
    assert gaining(known, made, relays=1) == pytest.approx(0.277, abs=0.002)
    assert gaining(known, made, relays=2) == pytest.approx(0.301, abs=0.002)
    primary, backup = made.plan.primary, made.plan.backup
    near = backup.cost[primary.exists] <= 1.10 * primary.cost[primary.exists]
    assert 0.80 < near.mean() < 0.95
    used = primary.exists & backup.exists
    for mine in (primary.first, primary.second):
        for theirs in (backup.first, backup.second):
            assert not (used & (mine >= 0) & (mine == theirs)).any()
