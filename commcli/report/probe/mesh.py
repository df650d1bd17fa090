"""Draws the mesh: heatmaps of markets and nodes, and who is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]

# Round-trip colours of the heatmap: up to these, and beyond.
_HEAT = ((100, "black on green"), (200, "black on bright_yellow"), (320, "black on dark_orange"))
_HOTTEST = "white on red"


def mesh(doc: Document) -> RenderableType:
    """Heatmaps of RTT by market and by node, loss where there is any, and who is away."""
    parts: list[RenderableType] = []
    edges = _markets_by_edge(doc)
    if edges:
        labels = {edge: f"{' '.join(markets)} ({edge})" for edge, markets in edges.items()}
        heads = {edge: "\n".join(_wrapped(markets)) for edge, markets in edges.items()}
        title = "RTT between markets, ms (each by its first active edge)"
        parts.append(_heatmap(title, labels, heads, doc["pairs"]))
    if set(doc["nodes"]) != set(edges):
        names = {node: node for node in doc["nodes"]}
        parts.append(_heatmap("RTT between nodes, ms", names, names, doc["pairs"]))
    parts.append(Text(_summary(doc), style="dim"))
    if doc["markets_without_edge"]:
        parts.append(Text(f"no active edge: {' '.join(doc['markets_without_edge'])}", style="yellow"))
    parts += [_away(row) for row in doc["away"]]
    return Group(*parts)


def _markets_by_edge(doc: Document) -> dict[str, list[str]]:
    """Markets that share an edge share its figures, so they share a row."""
    edges: dict[str, list[str]] = {}
    for row in doc["markets"]:
        edges.setdefault(row["edge"], []).append(row["market"])
    return edges


def _wrapped(words: Sequence[str], per_line: int = 3) -> list[str]:
    return [" ".join(words[at : at + per_line]) for at in range(0, len(words), per_line)]


def _away(row: Mapping[str, Any]) -> Text:
    last = row["last_unix"]
    since = "no windows for 15 minutes" if last is None else f"last window {_time(last)}"
    return Text.assemble("away: ", row["node"], " ", styled(row["state"]), f" {row['reason']} ({since})")


def _heatmap(
    title: str, labels: Mapping[str, str], heads: Mapping[str, str], pairs: Sequence[Mapping[str, Any]]
) -> Table:
    """Rows are senders, columns receivers. A cell is the RTT and, if there is any, the loss of that direction."""
    known = {(pair["from"], pair["to"]): pair for pair in pairs}
    table = grid(title=title)
    table.add_column("from \\ to", no_wrap=True)
    for head in heads.values():
        table.add_column(head, justify="center")
    for a, label in labels.items():
        table.add_row(label, *(_cell(known.get((a, b))) for b in labels))
    return table


def _cell(pair: Mapping[str, Any] | None) -> Text:
    if pair is None or pair["rtt_ms"] is None:
        return Text(" - ")
    style = next((style for limit, style in _HEAT if pair["rtt_ms"] <= limit), _HOTTEST)
    text = Text(f" {pair['rtt_ms']:.0f} ", style=style)
    if pair["loss"]:
        text.append(f"{100 * pair['loss']:.1f}% ", style=style)
    return text


def _summary(doc: Document) -> str:
    if not doc["pairs"]:
        return "nothing measured in the last 15 minutes"
    samples = sum(pair["samples"] for pair in doc["pairs"])
    ages = [pair["age_s"] for pair in doc["pairs"]]
    return (
        f"{len(doc['pairs'])} directions, {samples} packets, newest {min(ages):.0f} s and oldest {max(ages):.0f} s old;"
        f" {doc['new_windows']} new windows kept. % is loss from row to column."
    )


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%H:%M:%SZ")
