"""What may be published without a person: how much a plan may change, and how well it must be founded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from commcli.routing.decision import Decision, vanished
from commcli.routing.freed import freed
from commcli.routing.preflight import Preflight
from commcli.routing.table import networks_changed

# With more of the mesh silent than this, it is the measuring that broke, not the fleet: for a person, too.
VANISHED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Limits:
    """`changed`: share of the routed pairs whose primary path, and of the client networks whose edges, may be others;
    `lost`: pairs that may lose their path though both their nodes answer; `absent`: share of the nodes that may be
    away; `age_s`: what half of the figures may be older than; `vanished`: share of the edges, or pairs, in force that
    may have fallen silent; `countries`: how many that paths may pass though no node of the table in force stands there.
    """

    changed: float = 0.2
    lost: int = 0
    absent: float = 0.2
    age_s: float = 600.0
    vanished: float = VANISHED_SHARE
    countries: int = 0


@dataclass(frozen=True, slots=True)
class Passed:
    """A limit that was passed: `value` is above `most`; `reason` has both, and what they count."""

    limit: str
    value: float
    most: float
    reason: str

    def row(self) -> dict[str, Any]:
        return asdict(self)


def passed(decision: Decision, found: Preflight, limits: Limits) -> list[Passed]:
    """The limits that this decision passes; empty: it may be published without asking.

    Without a table in force nothing may: there is nothing to hold the plan against, or the record is lost.
    """
    if decision.in_force is None:
        return [Passed("first", 1, 0, "no table is in force by this record: the first one is for a person")]
    judged = (
        _changed(decision, limits),
        _networks(decision, limits),
        _lost(decision, found, limits),
        too_many_absent(found, limits),
        _age(decision, limits),
        too_much_vanished(decision, limits.vanished),
        _countries(decision, limits),
        _freed(decision),
    )
    return [one for one in judged if one is not None]


def after_a_stop(stopped: Mapping[str, Any]) -> Passed:
    """Nothing new is published by itself after a rollout that was `stopped` (its row of the record): what stopped it
    would stop it again.
    """
    why = stopped["detail"].get("stopped") or "no word on why"
    words = f"the rollout of table {stopped['serial']} was stopped ({why}): the next one is for a person"
    return Passed("stopped", 1, 0, words)


def after_a_rollback(back: Mapping[str, Any]) -> Passed:
    """Nothing new is published by itself after a person went `back` (its row of the record): the figures that led to
    what he left are the same ones still.
    """
    detail = back["detail"]
    why = f" ({detail['reason']})" if detail.get("reason") else ""
    words = f"table {back['serial']} went back to the routes of table {detail['routes_of']}{why}"
    return Passed("rollback", 1, 0, f"{words}: the next one is for a person")


def too_many_absent(found: Preflight, limits: Limits) -> Passed | None:
    """Whether more nodes are away than may be."""
    away, nodes = len(found.absent), len(found.absent) + len(found.serials)
    return _share("absent", away, nodes, limits.absent, f"{away} of {nodes} nodes are away")


def too_much_vanished(decision: Decision, most: float = VANISHED_SHARE) -> Passed | None:
    """Whether more of the mesh fell silent at once than may: nodes that are away count, since what this machine can not
    reach it can not read the mesh of either.
    """
    share = vanished(decision)
    if share <= most:
        return None
    words = f"{share:.1%} of the edges or pairs in force are no longer measured, where {most:.1%} may"
    return Passed("vanished", round(share, 4), most, words)


def _changed(decision: Decision, limits: Limits) -> Passed | None:
    assert decision.in_force is not None
    old, new = decision.in_force.routes, decision.table.routes
    other = sum(1 for pair in old if pair in new and new[pair].primary != old[pair].primary)
    words = f"{other} of {len(old)} pairs change their primary path"
    return _share("changed", other, len(old), limits.changed, words)


def _networks(decision: Decision, limits: Limits) -> Passed | None:
    assert decision.in_force is not None
    old, new = decision.in_force.prefixes, decision.table.prefixes
    every, other = len({*old, *new}), len(networks_changed(decision.in_force, decision.table))
    words = f"{other} of {every} client networks get other edges"
    return _share("changed", other, every, limits.changed, words)


def _lost(decision: Decision, found: Preflight, limits: Limits) -> Passed | None:
    """A node that is away takes its pairs with it, and is counted as absent."""
    assert decision.in_force is not None
    answering = found.serials.keys()
    lost = [
        pair
        for pair in decision.in_force.routes
        if pair not in decision.table.routes and set(pair) <= answering
    ]
    if len(lost) <= limits.lost:
        return None
    named = ", ".join(" > ".join(pair) for pair in sorted(lost)[:3]) + (" ..." if len(lost) > 3 else "")
    words = f"{len(lost)} pairs lose their path ({named}), where {limits.lost} may"
    return Passed("lost", len(lost), limits.lost, words)


def _countries(decision: Decision, limits: Limits) -> Passed | None:
    assert decision.in_force is not None
    known = {row["country"] for row in decision.in_force.nodes.values()}
    strange = {
        node: row["country"] for node, row in decision.table.nodes.items() if row["country"] not in known
    }
    routes = decision.table.routes.values() if strange else ()
    new = {strange[node] for route in routes for _, path in route.paths() for node in path if node in strange}
    if len(new) <= limits.countries:
        return None
    words = f"paths would pass countries where no node of the table in force stands: {', '.join(sorted(new))}"
    return Passed("countries", len(new), limits.countries, f"{words}, where {limits.countries} may be new")


def _freed(decision: Decision) -> Passed | None:
    """Be it used or not: once such a table is in force, there is nothing left to hold the next plan against."""
    assert decision.in_force is not None
    found = freed(decision.in_force, decision.policy)
    if not found:
        return None
    zone, path = min(found.items())
    words = (
        f"zone {zone} of the table in force forbids {' > '.join(path)}, and nothing does today: for a person"
    )
    return Passed("zones", len(found), 0, words)


def _age(decision: Decision, limits: Limits) -> Passed | None:
    """The median: a node that is away has old figures, and is counted as absent."""
    known = decision.estimate
    age_s = float(np.median(known.age_s[known.measured]))
    if age_s <= limits.age_s:
        return None
    words = f"half of the figures are older than {age_s:.0f} s, where {limits.age_s:.0f} s may be"
    return Passed("age_s", round(age_s, 1), limits.age_s, words)


def _share(limit: str, part: int, whole: int, most: float, words: str) -> Passed | None:
    share = part / whole if whole else 0.0
    if share <= most:
        return None
    return Passed(limit, round(share, 4), most, f"{words} ({share:.1%}), where {most:.1%} may")
