"""Draws what `commcli route whatif` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.route.paths import route
from commcli.report.terminal import STYLES, capped, grid, ms

Document = Mapping[str, Any]

LOADS_SHOWN = 10
PAIRS_SHOWN = 10


def whatif(doc: Document) -> RenderableType:
    parts: list[RenderableType] = [_head(doc), *_warnings(doc)]
    moved = [row for row in doc["loads"] if _shift(row)]
    if moved:
        parts.append(_loads(moved))
    if doc["worse"]:
        parts.append(_pairs(doc["worse"], "pairs that get slower"))
    if doc["better"]:
        parts.append(_pairs(doc["better"], "pairs that get faster"))
    return Group(*parts, *_lost(doc["lost"]), *_markets(doc["markets"]), _verdict(doc))


def _head(doc: Document) -> Text:
    words = [f"{node} down" for node in doc["down"]]
    words += [f"the zones of {doc['zones']}"] if doc["zones"] else []
    words += [f"{a['node']} like {a['like']}" if a["like"] else f"{a['node']} active" for a in doc["added"]]
    counts = doc["counts"]
    text = Text(f"{doc['fleet']} with {', '.join(words)}: ", style="bold")
    text.append(
        f"{counts['pairs_after']} pairs routed (now {counts['pairs_before']}), {counts['moved']} of them by another "
        f"path: {counts['worse']} slower, {counts['better']} faster"
    )
    return text.append(f"; {counts['bare']} lose their backup" if counts["bare"] else "")


def _warnings(doc: Document) -> list[Text]:
    lines = []
    if doc["assumed_ms"] is not None:
        lines.append(
            f"assumed, not measured: a new node's edges are those of the node that it is like, "
            f"{ms(doc['assumed_ms'])} ms between the two"
        )
    if doc["unmeasured"]:
        lines.append(f"not measured, so without routes: {', '.join(doc['unmeasured'])}")
    if doc["plan_changes"]:
        lines.append(
            f"beside today's plan, which itself moves {doc['plan_changes']} pairs of table {doc['in_force']}: "
            "commcli route plan"
        )
    return [Text(line, STYLES["warn"]) for line in lines]


def _shift(row: Document) -> int:
    """By how many pairs a node's load changes."""
    sides = (("transit_before", "transit_after"), ("edge_before", "edge_after"))
    return sum(abs((row[after] or 0) - (row[before] or 0)) for before, after in sides)


def _loads(rows: Sequence[Document]) -> RenderableType:
    shown, more = capped(sorted(rows, key=lambda row: (-_shift(row), row["node"])), LOADS_SHOWN)
    table = grid()
    table.add_column("node", no_wrap=True)
    for head in ("transit now", "then", "edge now", "then"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in shown:
        keys = ("transit_before", "transit_after", "edge_before", "edge_after")
        table.add_row(row["node"], *("-" if row[key] is None else str(row[key]) for key in keys))
    title = Text("load, in pairs by their primary paths (the store holds no sessions)", "bold")
    return Group(title, table, *([Text(more, "dim")] if more else []))


def _pairs(rows: Sequence[Document], title: str) -> RenderableType:
    shown, more = capped(rows, PAIRS_SHOWN)
    table = grid()
    for head in ("from", "to"):
        table.add_column(head, no_wrap=True)
    for head in ("now", "then"):
        table.add_column(head)
    for head in ("RTT ms", "then", "by"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in shown:
        before, after = row["rtt_before_ms"], row["rtt_after_ms"]
        table.add_row(
            *(row["from"], row["to"], route(row["before"]), route(row["after"])),
            *(ms(before), ms(after), f"{after - before:+.0f}"),
        )
    return Group(Text(title, "bold"), table, *([Text(more, "dim")] if more else []))


def _lost(rows: Sequence[Document]) -> list[Text]:
    """Grouped by why: a zone takes many pairs at once."""
    causes: dict[str, list[str]] = {}
    for row in rows:
        causes.setdefault(row["why"], []).append(f"{row['from']} > {row['to']}")
    shown, more = capped(list(causes.items()), PAIRS_SHOWN)
    lines = [
        f"no path any more: {', '.join(pairs[:6])}{f' and {len(pairs) - 6} more' if len(pairs) > 6 else ''}: {why}"
        for why, pairs in shown
    ]
    return [Text(line, STYLES["fail"]) for line in [*lines, *([more] if more else [])]]


def _markets(rows: Sequence[Document]) -> list[Text]:
    lines = []
    for row in rows:
        if row["after"] is None:
            lines.append(Text(f"market {row['market']} has no edge left", STYLES["fail"]))
        else:
            lines.append(Text(f"new clients of market {row['market']}: {row['before']}, then {row['after']}"))
    return lines


def _verdict(doc: Document) -> Text:
    counts, mean = doc["counts"], doc["mean_rtt_ms"]
    text = Text(
        f"mean RTT of the pairs that stay {ms(mean['before'], 1)} ms now, {ms(mean['after'], 1)} ms then",
        "dim",
    )
    if counts["ended"]:
        text.append(f"; {counts['ended']} pairs end at a node that is down")
    if counts["new"]:
        text.append(f"; {counts['new']} pairs are new")
    if doc["harmless"]:
        return text.append("; nobody else loses a path", STYLES["ok"])
    bare = sum(1 for row in doc["markets"] if row["after"] is None)
    return text.append(
        f"; {counts['lost']} pairs lose their path, {bare} markets their last edge", STYLES["fail"]
    )
