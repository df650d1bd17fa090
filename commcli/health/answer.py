"""The answer of `health check`: one document for the screen, for scripts and for monitoring. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from commcli.errors import AnswerBad, gravest
from commcli.fleet.model import Fleet, Node
from commcli.health.facts import Facts
from commcli.health.judge import Finding, Limits, judge, overview, worst

Document = Mapping[str, Any]

# What to type next, by the check that failed; the node is one of those concerned.
NEXT: Mapping[str, str] = {
    "reach": "commcli ssh {node} -v -- true",
    "look": "commcli ssh {node} -- python3 -V",
    "relay": "commcli play run playbooks/relay.yml {node}",
    "table": "commcli route apply",
    "reload": "commcli relay reload {node}",
    "peers": "commcli probe mesh",
    "paths": "commcli relay status {node}",
    "loss": "commcli relay status {node}",
    "keys": "commcli play run playbooks/relay.yml",
    "sessions": "commcli relay status {node}",
    "lag": "commcli relay status {node}",
    "disk": "commcli ssh {node} -- df -h -i {base}",
    "clock": "commcli ssh {node} -- timedatectl",
    "load": "commcli ssh {node} -- top -bn1",
    "python": "commcli fleet show {node}",
}


def document(
    fleet: Fleet, nodes: Sequence[Node], known: Sequence[Facts], limits: Limits, version: str
) -> dict[str, Any]:
    """The `health.check` document. `known` holds one Facts for each of `nodes`, in their order.

    Nodes keep the inventory's order, but the failed ones come last, next to the causes that end the page.
    """
    fleet_side = overview(known, version)
    judged = [
        (node, facts, judge(facts, fleet_side, limits)) for node, facts in zip(nodes, known, strict=True)
    ]
    rows = [_row(node, facts, findings) for node, facts, findings in judged]
    return {
        "schema": 1,
        "kind": "health.check",
        "fleet": fleet.name,
        "verdict": worst(finding for _, _, findings in judged for finding in findings),
        "exit_code": gravest(_code(facts, findings) for _, facts, findings in judged),
        "counts": _counts(rows),
        "limits": asdict(limits),
        "nodes": sorted(rows, key=lambda row: ("ok", "warn", "fail").index(row["verdict"])),
        "causes": _causes(judged),
    }


def _code(facts: Facts, findings: Sequence[Finding]) -> int:
    if facts.state != "done":
        return facts.code
    return AnswerBad.exit_code if worst(findings) == "fail" else 0


def _row(node: Node, facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "node": node.id,
        "region": node.region,
        "verdict": worst(findings),
        "state": facts.state,
        "seconds": round(facts.seconds, 3),
        "findings": [asdict(finding) for finding in findings],
        "facts": asdict(facts) if facts.state == "done" else None,
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many nodes are ok, warn, fail (and answered), and out of reach; each node counts once."""
    counts = {"ok": 0, "warn": 0, "fail": 0, "unreachable": 0}
    for row in rows:
        counts[row["verdict"] if row["state"] == "done" else "unreachable"] += 1
    return counts


def _causes(judged: Sequence[tuple[Node, Facts, Sequence[Finding]]]) -> list[dict[str, Any]]:
    """Nodes with the same trouble together, the gravest trouble first, each with the next command to type."""
    groups: dict[tuple[str, str, str], list[Node]] = {}
    for node, _, findings in judged:
        for finding in findings:
            if finding.verdict != "ok":
                groups.setdefault((finding.verdict, finding.check, finding.cause), []).append(node)
    return [
        {
            "verdict": verdict,
            "check": check,
            "cause": cause,
            "nodes": [node.id for node in concerned],
            "next": _next(check, concerned[0]),
        }
        for (verdict, check, cause), concerned in sorted(groups.items(), key=lambda group: group[0][0])
    ]


def _next(check: str, node: Node) -> str | None:
    template = NEXT.get(check)
    if template is None:
        return None
    return template.format(node=node.id, base=node.base)
