"""Draws `commcli sla`: what was promised and what became of it, the gravest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import capped, grid, ms, percent

Document = Mapping[str, Any]

MOST_PAIRS, MOST_REASONS, FEW = 40, 10, 3
STYLE = {"missed": "bold red", "met": "green", "unmeasured": "dim"}


def _report(doc: Document) -> RenderableType:
    parts: list[RenderableType] = []
    rows = [row for row in doc["pairs"] if row["verdict"] != "unmeasured"]
    shown, hidden = capped(rows, MOST_PAIRS)
    if shown:
        parts.append(_table(doc, shown))
    if hidden:
        parts.append(Text(hidden, style="dim"))
    parts += _missed([row for row in rows if row["verdict"] == "missed"])
    if doc["worst"]:
        parts += [Text(), _worst(doc["worst"])]
    return Group(*parts, Text(), *_remarks(doc))


def _table(doc: Document, rows: Sequence[Document]) -> RenderableType:
    title = f"{doc['fleet']}: {_time(doc['since'])} to {_time(doc['until'])} UTC"
    table = grid("pair", title=title)
    for column in ("available", "budget left", "burn 1h 6h 24h", "measured", "calls"):
        table.add_column(column, justify="right")
    for column in ("RTT p50 p95 p99", "loss % p50 p95 p99", "MOS p50 p95 p99"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        figures = row["figures"]
        table.add_row(
            f"{row['from']} → {row['to']}",
            percent(row["availability"], 3),
            percent(row["budget"]["left"], 0),
            " ".join(_burn(row["budget"]["burn"][span]) for span in ("1h", "6h", "24h")),
            _measured(row),
            _calls(row),
            _spread(figures["rtt_ms"], lambda value: ms(value)),
            _spread(figures["loss"], lambda value: f"{100 * value:.1f}"),
            _spread(figures["mos"], lambda value: f"{value:.1f}"),
            Text(row["verdict"], style=STYLE[row["verdict"]]),
        )
    return table


def _burn(value: float | None) -> str:
    return "-" if value is None else "0" if not value else f"{value:.1f}"


def _measured(row: Document) -> str:
    """The share of all time, with an m where some of it only by the mesh."""
    return percent(row["coverage"], 0) + (" m" if row["measured_by_mesh_s"] else "")


def _calls(row: Document) -> str:
    return f"{row['calls']}" + (f" ({row['calls_down']} down)" if row["calls_down"] else "")


def _spread(found: Document | None, show: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    mark = " m" if found["source"] == "mesh" else ""
    return " ".join(show(found[rank]) for rank in ("p50", "p95", "p99")) + mark


def _missed(rows: Sequence[Document]) -> list[Text]:
    """What was not kept, each once with all the pairs that have it in common."""
    found: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        broken = [
            f"{each['name']} {_value(each['name'], each['value'])}, promised {_value(each['name'], each['objective'])}"
            for each in row["objectives"]
            if each["met"] is False
        ]
        found.setdefault("; ".join(broken), []).append((row["from"], row["to"]))
    lines, hidden = capped([*found.items()], MOST_REASONS)
    texts = [Text.assemble(("missed", STYLE["missed"]), f" {_pairs(pairs)}: {text}") for text, pairs in lines]
    return [*texts, *([Text(hidden, style="dim")] if hidden else [])]


def _pairs(pairs: Sequence[Sequence[str]]) -> str:
    """Their names; of many, what they have in common."""
    if len(pairs) <= FEW:
        return ", ".join(f"{a} → {b}" for a, b in pairs)
    senders, receivers = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(receivers) == 1:
        return f"{len(pairs)} pairs to {pairs[0][1]}"
    if len(senders) == 1:
        return f"{len(pairs)} pairs from {pairs[0][0]}"
    if common := set(pairs[0]).intersection(*pairs[1:]):
        return f"{len(pairs)} pairs with {common.pop()}"
    return f"{_pairs(pairs[:FEW])} and {len(pairs) - FEW} more"


def _value(name: str, value: float) -> str:
    if name in ("availability", "coverage") or name.endswith("loss"):
        return f"{100 * value:.5g} %"
    return f"{value:.0f} ms" if name.endswith("_ms") else f"{value:.2f}"


def _worst(windows: Sequence[Document]) -> RenderableType:
    table = grid("worst windows", "pairs", "lasted", "down", "calls down", "RTT ms", "loss", "MOS", "seen by")
    for window in windows:
        table.add_row(
            _time(window["start"]),
            _pairs(window["pairs"]),
            _length(window["seconds"]),
            _length(window["down_s"]),
            f"{len(window['calls_down'])} of {window['calls']}" if window["calls"] else "-",
            ms(window["rtt_ms"]),
            percent(window["loss"]),
            "-" if window["mos"] is None else f"{window['mos']:.2f}",
            " ".join(window["sources"]),
        )
    return table


def _remarks(doc: Document) -> list[Text]:
    calls = doc["calls"]
    left_out = ", ".join(f"{count} {why}" for why, count in sorted(calls["left_out"].items()))
    counts = ", ".join(f"{count} {word}" for word, count in doc["counts"].items()) or "none"
    lines = [
        f"pairs: {counts}; of the time of these {percent(doc['coverage'], 0)} was measured,"
        f" {percent(doc['availability'], 3)} of that was up",
        f"{calls['counted']} calls count" + (f"; left out: {left_out}" if left_out else ""),
    ]
    if silent := [f"{row['from']} → {row['to']}" for row in doc["pairs"] if row["verdict"] == "unmeasured"]:
        named, hidden = capped(silent, 6)
        lines.append(f"scheduled and never measured: {', '.join(named)} {hidden}".rstrip())
    if doc["unwatched"]:
        lines.append(f"{doc['unwatched']} pairs are neither scheduled nor measured")
    lines.append(
        "p95: 95 of 100 were not worse. m: by the mesh between the edges, in hours without a call. Time that nobody"
        " measured is neither up nor down."
    )
    return [Text(line, style="dim") for line in lines]


def _length(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%m-%d %H:%M")


DRAW: dict[str, Callable[[Document], RenderableType]] = {"report": _report}
