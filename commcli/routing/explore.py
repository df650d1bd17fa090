"""Which edges a node should look at more closely: those that could change a decision. Pure numpy."""

from __future__ import annotations

import numpy as np

from commcli.errors import BadInput
from commcli.fleet.model import Fleet
from commcli.relay.mesh.mesh import MOST_EXPLORED
from commcli.routing import estimate, history
from commcli.routing.cost import CLASSES
from commcli.routing.decision import Decision, decide
from commcli.routing.estimate import Matrix
from commcli.routing.planner import Margin, Paths
from commcli.routing.policy import Mask
from commcli.routing.search import NOBODY
from commcli.store.sqlite import Store


def wanted(fleet: Fleet, store: Store, now_unix: float) -> dict[str, list[str]]:
    """What each relay is to look at more closely, by what the store holds."""
    try:
        in_force = history.situation(store).in_force
    except BadInput:
        in_force = None  # a damaged table is told by every verb of routes; the mesh goes on
    windows = store.mesh(since=now_unix - 2 * estimate.MAX_AGE_S)
    made = decide(fleet, windows, in_force=in_force, serial=1, now_unix=now_unix, prices=CLASSES[fleet.media])
    return edges(made)


def edges(decision: Decision, margin: Margin | None = None) -> dict[str, list[str]]:
    """{node: peers}, at most MOST_EXPLORED each, those first that most contests depend on and least is known of.

    A pair is a contest where its cheapest path is not the one it takes, or its backup is within the margin of its
    primary: a little more or less on one of their edges, and it would move.
    """
    made, margin = decision.plan, margin or Margin()
    primary, backup = made.primary, made.backup
    near = primary.exists & backup.exists
    near[near] = backup.cost[near] <= primary.cost[near] + margin.of(primary.cost[near])
    other = (made.best.first != primary.first) | (made.best.second != primary.second)
    contest = primary.exists & (near | (made.best.exists & other))
    asked = np.zeros(primary.cost.shape)
    for paths in (primary, backup, made.best):
        _count(asked, paths, contest & paths.exists)
    known = decision.estimate.samples
    score = asked / np.sqrt(1.0 + known)
    ids = decision.policy.ids
    order = np.argsort(-score, axis=1, kind="stable")[:, :MOST_EXPLORED]
    return {
        node: [ids[peer] for peer in order[place] if score[place, peer] > 0] for place, node in enumerate(ids)
    }


def _count(asked: Matrix, paths: Paths, where: Mask) -> None:
    """Count the edges of these paths."""
    source, target = np.nonzero(where)
    first, second = paths.first[source, target], paths.second[source, target]
    entry = np.where(first == NOBODY, target, first)
    np.add.at(asked, (source, entry), 1.0)
    one, two = (first != NOBODY) & (second == NOBODY), second != NOBODY
    np.add.at(asked, (first[one], target[one]), 1.0)
    np.add.at(asked, (first[two], second[two]), 1.0)
    np.add.at(asked, (second[two], target[two]), 1.0)
