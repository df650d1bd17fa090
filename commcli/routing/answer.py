"""The documents of `commcli route ...`: what `--json` prints and the terminal draws. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from commcli.errors import AnswerBad, gravest
from commcli.remote.outcome import Outcome
from commcli.routing import decision as decisions
from commcli.routing import replay as replays
from commcli.routing import table as tables
from commcli.routing.decision import Decision
from commcli.routing.difference import pairs
from commcli.routing.estimate import unmeasured_as_none
from commcli.routing.explain import Explanation
from commcli.routing.preflight import is_due
from commcli.routing.publish import Rollout
from commcli.routing.replay import Score
from commcli.routing.table import Table

Document = dict[str, Any]

SCHEMA = 1


def plan(decision: Decision, fleet: str, *, unfinished: Sequence[int] = ()) -> Document:
    """`route plan`: what would change and why, what zones cost, what the figures rest on."""
    changes = decisions.changes(decision)
    direct, chosen = decisions.mean_rtt_ms(decision)
    reasons = {zone.id: zone.reason for zone in decision.policy.zones}
    return {
        "schema": SCHEMA,
        "kind": "route.plan",
        "fleet": fleet,
        "created": tables.iso(decision.table.created),
        "in_force": _head(decision.in_force),
        "serial": decision.table.serial,
        "routes_of": None,
        "changed": decision.changed,
        "unfinished": list(unfinished),
        "counts": _counts(decision.table, decision.in_force, len(changes)),
        "deferred": decision.plan.deferred,
        "crowded": [decision.policy.ids[node] for node in np.flatnonzero(decision.plan.crowded)],
        "measured": _measured(decision),
        "mean_rtt_ms": {"direct": direct, "chosen": chosen},
        "changes": [
            {"from": change.pair[0], "to": change.pair[1], **_without(asdict(change), "pair")}
            for change in changes
        ],
        "zones": [
            {**asdict(price), "reason": reasons[price.zone]} for price in decisions.zone_prices(decision)
        ],
    }


def going_back(new: Table, in_force: Table | None, fleet: str, serial: int) -> Document:
    """The plan of `route rollback`: which primaries the routes of table `serial` change again."""
    differing = pairs(in_force, new)
    changes = [
        {
            **{"from": d.pair[0], "to": d.pair[1], "before": d.primary.before, "after": d.primary.after},
            **{"rtt_before_ms": None, "rtt_after_ms": None, "cost_before_ms": None, "cost_after_ms": None},
            "why": f"as in table {serial}",
        }
        for d in differing
        if d.primary is not None
    ]
    return {
        "schema": SCHEMA,
        "kind": "route.plan",
        "fleet": fleet,
        "created": tables.iso(new.created),
        "in_force": _head(in_force),
        "serial": new.serial,
        "routes_of": serial,
        "changed": bool(differing),
        "unfinished": [],
        "counts": _counts(new, in_force, len(changes)),
        "deferred": 0,
        "crowded": [],
        "measured": None,
        "mean_rtt_ms": {"direct": None, "chosen": None},
        "changes": changes,
        "zones": [],
    }


def _head(table: Table | None) -> Document | None:
    if table is None:
        return None
    return {
        "serial": table.serial,
        "created": tables.iso(table.created),
        "expires": tables.iso(table.expires),
    }


def _counts(new: Table, in_force: Table | None, primaries_changed: int) -> dict[str, int]:
    """Pairs: all, routed, by how many relays, blocked by a zone, without a usable path; and how many change."""
    lengths = [len(route.primary) - 2 for route in new.routes.values()]
    total = len(new.nodes) * (len(new.nodes) - 1)
    return {
        "nodes": len(new.nodes),
        "pairs": total,
        "routed": len(lengths),
        "direct": lengths.count(0),
        "one_relay": lengths.count(1),
        "two_relays": lengths.count(2),
        "no_backup": sum(1 for route in new.routes.values() if route.backup is None),
        "blocked": len(new.blocked),
        "without_path": total - len(lengths) - len(new.blocked),
        "primaries_changed": primaries_changed,
        "prefixes": len(new.prefixes),
        "prefixes_changed": len(tables.networks_changed(in_force, new)),
        "differing": len(pairs(in_force, new)),
    }


def _measured(decision: Decision) -> Document:
    """How much of the mesh is known, and how fresh: unmeasured edges carry nothing."""
    known, ids = decision.estimate, decision.policy.ids
    ages = known.age_s[known.measured]
    silent = ~known.measured
    unmeasured = [node for n, node in enumerate(ids) if silent[n].all() and silent[:, n].all()]
    return {
        "edges": len(ids) * (len(ids) - 1),
        "edges_measured": int(known.measured.sum()),
        "oldest_s": unmeasured_as_none(ages.max(), 1) if ages.size else None,
        "median_samples": int(np.median(known.samples[known.measured])) if ages.size else None,
        "unmeasured_nodes": unmeasured,
        "drained": sorted(n for n, state in decision.policy.states.items() if state == "drain"),
        "no_transit": sorted(n for n, state in decision.policy.states.items() if state == "no-transit"),
        "away": sorted(decision.policy.away),
    }


def applied(
    plan_document: Document,
    rollout: Rollout | None,
    absent: Sequence[Outcome[Any]],
    *,
    verb: str = "apply",
    accepted: bool = False,
    because: Sequence[str] = (),
    resumed: bool = False,
) -> Document:
    """`route apply` and `route rollback`: the plan and what became of it. No `rollout`: nothing was to be
    done. `accepted`: that these nodes are absent is no trouble by itself. `because`: why it was published; `resumed`:
    it was signed by an earlier run.
    """
    if rollout is None:
        result, code = "unchanged", 0 if accepted else gravest(outcome.code for outcome in absent)
    else:
        result, code = rollout.state, rollout.exit_code
    return {
        "schema": SCHEMA,
        "kind": f"route.{verb}",
        "fleet": plan_document["fleet"],
        "result": result,
        "exit_code": code,
        "serial": rollout.serial if rollout else (plan_document["in_force"] or {}).get("serial"),
        "because": list(because),
        "resumed": resumed,
        "canary": rollout.canary if rollout else None,
        "watched": rollout.watched if rollout else "",
        "stopped": rollout.stopped if rollout else "",
        "held": [],
        "nodes": [_outcome(outcome) for outcome in (rollout.all if rollout else absent)],
        "rollback": None
        if rollout is None or rollout.back is None
        else {"serial": rollout.back, "nodes": [_outcome(outcome) for outcome in rollout.back_outcomes]},
        "plan": plan_document,
    }


def held(
    plan_document: Document, limits: Sequence[Mapping[str, Any]], absent: Sequence[Outcome[Any]]
) -> Document:
    """`route apply --auto` that publishes nothing: the plan, and the `limits` that it passes."""
    doc = applied(plan_document, None, absent)
    return {**doc, "result": "held", "exit_code": AnswerBad.exit_code, "held": list(limits)}


def _outcome(outcome: Outcome[Any]) -> Document:
    return {
        **outcome.row(),
        "serial": outcome.value if isinstance(outcome.value, int) else None,
    }


def show(table: Table, fleet: str, ingresses: Sequence[str], *, now_unix: float) -> Document:
    """`route show`: the routes in force from these nodes."""
    wanted = set(ingresses)
    rows = [
        {"from": source, "to": target, **route.row(), "blocked": False}
        for (source, target), route in sorted(table.routes.items())
        if source in wanted
    ]
    rows += [
        {"from": a, "to": b, "primary": None, "backup": None, "last_resort": None, "blocked": True}
        for a, b in sorted(table.blocked)
        if a in wanted
    ]
    nearest = Counter(edges[0] for edges in table.prefixes.values())
    return {
        "schema": SCHEMA,
        "kind": "route.show",
        "fleet": fleet,
        **(_head(table) or {}),
        "due": is_due(table, now_unix),
        "expired": now_unix >= table.expires,
        "left_s": int(table.expires - now_unix),
        "routes": rows,
        "zones": [dict(zone) for zone in table.zones],
        "doors": [
            {
                "node": node,
                **{key: row.get(key) for key in ("turn_port", "tls_port", "domain")},
                "prefixes": nearest.get(node, 0),
            }
            for node, row in sorted(table.nodes.items())
            if node in wanted
        ],
        "prefixes": len(table.prefixes),
    }


def explain(found: Explanation, ends: Mapping[str, str | None], decision: Decision) -> Document:
    """`route explain`: `ends` says which market stands behind {"source", "target"}, None for a plain node."""
    return {
        "schema": SCHEMA,
        "kind": "route.explain",
        "from": found.source,
        "to": found.target,
        "from_market": ends["source"],
        "to_market": ends["target"],
        "in_force": found.held,
        "blocked": found.blocked,
        "prices": asdict(decision.prices),
        "candidates": [asdict(candidate) for candidate in found.candidates],
        "zones": [asdict(effect) for effect in found.zones],
        "runner_up": found.runner_up,
        "next_ms": found.next_ms,
        "next_doubt": found.next_doubt,
    }


def history(rows: Sequence[Mapping[str, Any]], fleet: str, in_force: int | None) -> Document:
    """`route history`: every table that the store keeps, the newest first.

    A rollout that is still "publishing" under a newer table can not be: whoever led it was killed.
    """
    newest = rows[0]["serial"] if rows else None
    return {
        "schema": SCHEMA,
        "kind": "route.history",
        "fleet": fleet,
        "in_force": in_force,
        "tables": [
            {
                "serial": row["serial"],
                "recorded": tables.iso(row["unix"]),
                "status": "unfinished" if _killed(row, newest) else row["status"],
                "shards": row["nodes"],
                "canary": row["detail"].get("canary"),
                "stopped": row["detail"].get("stopped") or "",
                "rollback_of": row["detail"].get("rollback_of"),
                "routes_of": row["detail"].get("routes_of"),
                "reason": row["detail"].get("reason"),
                "confirmed": _confirmed(row["detail"]),
            }
            for row in rows
        ],
    }


def _killed(row: Mapping[str, Any], newest: int | None) -> bool:
    return bool(row["status"] == "publishing" and row["serial"] != newest)


def _confirmed(detail: Mapping[str, Any]) -> int | None:
    nodes = detail.get("nodes")
    return None if nodes is None else sum(1 for node in nodes.values() if node["state"] == "done")


def _without(row: Mapping[str, Any], key: str) -> Document:
    return {name: value for name, value in row.items() if name != key}


def replayed(scores: Sequence[Score], source: str, nodes: int, *, blocked: int = 0) -> Document:
    """`route replay`: the means over the slices, and each slice; `blocked` pairs were not scored."""
    sides = ("direct", "chosen", "oracle")
    figures = ("mean", *(f"p{share}" for share in replays.PERCENTILES))
    means = {
        f"{name}_rtt_ms": {side: round(replays.mean_rtt(scores, side, at), 3) for side in sides}
        for at, name in enumerate(figures)
    }
    return {
        "schema": SCHEMA,
        "kind": "route.replay",
        "source": source,
        "nodes": nodes,
        "slices_scored": len(scores),
        "blocked": blocked,
        **{name: replays.mean(scores, name) for name in replays.SHARES},
        **means,
        "slices": [
            {
                "slice": score.slice,
                "pairs": score.pairs,
                **{name: getattr(score, name) for name in replays.SHARES},
            }
            | {"mean_rtt_ms": {side: round(getattr(score, side)[0], 3) for side in sides}}
            for score in scores
        ],
    }
