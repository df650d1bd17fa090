"""What a play would run where, and what its variables are there and why. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from commcli.fleet.model import Node
from commcli.fleet.secrets import MASK
from commcli.remote.compile import Plan, known_to
from commcli.remote.play import Play

Document = dict[str, Any]


def runs(nodes: Sequence[Node], plans: Mapping[str, Plan]) -> dict[tuple[str, str], list[Document]]:
    """(section, step) -> where it would run: nodes with the same items of its loop together."""
    found: dict[tuple[str, str], dict[tuple[str, ...], list[str]]] = {}
    for node in nodes:
        items: dict[tuple[str, str], list[str]] = {}
        for step in plans[node.id].body["steps"]:
            if "nothing" not in step:
                label = step.get("loop", {}).get("label")
                items.setdefault((step["section"], step["name"]), []).extend([] if label is None else [label])
        for key, labels in items.items():
            found.setdefault(key, {}).setdefault(tuple(labels), []).append(node.id)
    return {
        key: [{"nodes": ids, "items": list(labels)} for labels, ids in by_items.items()]
        for key, by_items in found.items()
    }


def variables(
    play: Play, nodes: Sequence[Node], of_uses: Mapping[str, Mapping[str, object]]
) -> list[Document]:
    """Every variable with its values, each with the nodes that have it and where it comes from. `of_uses`: what the
    sets that the play `uses` give each node.
    """
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for node in nodes:
        given = of_uses[node.id]
        for name, value in known_to(play, node, given).items():
            key = (json.dumps(value, default=_shown, sort_keys=True), origin(play, node, given, name))
            found.setdefault(name, {}).setdefault(key, []).append(node.id)
    return [
        {
            "name": name,
            "used": name in play.used,
            "values": [
                {"value": json.loads(value), "origin": where, "nodes": ids}
                for (value, where), ids in rows.items()
            ],
        }
        for name, rows in sorted(found.items())
    ]


def origin(play: Play, node: Node, given: Mapping[str, object], name: str) -> str:
    """Where the value that a node has comes from, and what it took the place of."""
    default = f"{play.file}:{play.variable_lines[name]}" if name in play.variable_lines else ""
    if name in ("base", "node_id"):
        return "inventory"
    if name in given:
        return f"uses {', '.join(play.uses)}"
    if name in node.variables:
        return f"variables of the node, over {default}" if default else "variables of the node"
    return default or "play"


def _shown(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else MASK
