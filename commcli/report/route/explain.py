"""Draws what `commcli route explain` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.route.paths import route, signed
from commcli.report.terminal import STYLES, grid, ms

Document = Mapping[str, Any]

REMOVED_SHOWN = 12
_FIGURES = ("rtt_ms", "caution_ms", "jitter_ms", "loss_ms", "hops_ms", "cost_ms", "age_s")


def explain(doc: Document) -> RenderableType:
    head = Text(f"{_end(doc, 'from')} to {_end(doc, 'to')}", style="bold")
    head.append(f"; in force: {' > '.join(doc['in_force'])}" if doc["in_force"] else "; nothing in force")
    table = grid(title=None)
    table.add_column("path", no_wrap=True)
    for name in ("RTT", "caution", "jitter", "loss", "hops", "cost ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("age s", justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    shown = _worth_a_line(doc["candidates"])
    for row in shown:
        parts = [ms(row[key]) for key in _FIGURES]
        table.add_row(route(row["path"]), *parts, _standing(row))
    return Group(head, table, *_footnotes(doc, len(doc["candidates"]) - len(shown)))


def _end(doc: Document, side: str) -> str:
    market = doc[f"{side}_market"]
    return f"{doc[side]} (edge of market {market})" if market else str(doc[side])


def _worth_a_line(candidates: Sequence[Document]) -> list[Document]:
    """All that is in the plan, and the cheapest of what is not: one screen."""
    kept = [row for row in candidates if row["role"]]
    usable = [row for row in candidates if not row["role"] and not row["removed"]]
    removed = [row for row in candidates if not row["role"] and row["removed"]]
    return kept + usable[:REMOVED_SHOWN] + removed[:REMOVED_SHOWN]


def _standing(row: Document) -> Text:
    if row["role"]:
        style = STYLES["ok"] if row["role"] == "primary" else ""
        return Text(row["role"].replace("_", " "), style)
    if row["removed"]:
        return Text(f"removed: {row['removed']}", STYLES["warn"])
    return Text("allowed", "dim")


def _footnotes(doc: Document, hidden: int) -> list[Text]:
    lines = [Text(f"{hidden} more candidates in --json", "dim")] if hidden else []
    if doc["blocked"]:
        lines.append(
            Text(f"zone {doc['blocked']} forbids an end of this pair: no path at all", STYLES["fail"])
        )
    for zone in doc["zones"]:
        text = f"zone {zone['zone']} ({zone['reason']})" if zone["reason"] else f"zone {zone['zone']}"
        if zone["costs_ms"] is None:
            text += " concerns this pair"
        elif zone["costs_ms"] == 0:
            text += " costs nothing here"
        else:
            text += f" costs {signed(zone['costs_ms'])} ms RTT; without it {' > '.join(zone['without'])}"
        lines.append(Text(text))
    if doc["runner_up"]:
        runner_up = " > ".join(doc["runner_up"])
        lines.append(Text(f"{runner_up} would win if it were {ms(doc['next_ms'], 1)} ms cheaper", "dim"))
    return lines
