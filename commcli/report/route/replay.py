"""Draws what `commcli route replay` answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, ms, percent

Document = Mapping[str, Any]

_SHARES = {
    "pairs_ge10": "pairs at least 10 % faster",
    "pairs_worse5": "pairs more than 5 % slower",
    "churn": "pairs that change their path, a slice",
    "relayed": "pairs that go over relays",
    "cover": "pairs whose backup answered",
    "lost": "pairs whose path lost an edge",
}


def replay(doc: Document) -> RenderableType:
    """RTTs side by side, then the shares; the oracle knows what it is scored on."""
    head = f"{doc['source']}: {doc['slices_scored']} slices of {doc['nodes']} nodes, each decided on the ones before it"
    if doc["blocked"]:
        head += f"; {doc['blocked']} pairs are blocked by zones"
    table = grid("RTT ms")
    for column in ("direct", "chosen", "oracle", "cut"):
        table.add_column(column, justify="right")
    for figure in ("mean", "p50", "p95", "p99"):
        row = doc[f"{figure}_rtt_ms"]
        cut = percent(1 - row["chosen"] / row["direct"]) if row["direct"] else "-"
        table.add_row(figure, *(ms(row[side], 1) for side in ("direct", "chosen", "oracle")), cut)
    shares = grid("")
    shares.add_column("", justify="right")
    for name, told in _SHARES.items():
        shares.add_row(told, "-" if doc[name] is None else percent(doc[name]))
    return Group(Text(head, style="bold"), table, shares)
