"""Draws what `commcli route explain` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from commcli.report.route.paths import route, signed
from commcli.report.terminal import STYLES, capped, grid, ms

Document = Mapping[str, Any]

# One screen: what is in the plan, then so many of the cheapest others, and of those that something removed.
USABLE_SHOWN = 6
REMOVED_SHOWN = 5
ZONES_SHOWN = 4
# Narrower than this the parts of the cost beside RTT stand together.
WIDE = 110


class _Screen:
    """Columns by the width there is."""

    def __init__(self, doc: Document) -> None:
        self.doc = doc

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        doc, wide = self.doc, options.max_width >= WIDE
        head = Text(f"{_end(doc, 'from')} to {_end(doc, 'to')}", style="bold")
        head.append(f"; in force: {' > '.join(doc['in_force'])}" if doc["in_force"] else "; nothing in force")
        yield head
        shown = _worth_a_line(doc["candidates"])
        yield _candidates(shown, wide)
        told = sum(1 + row.get("alike", 0) for row in shown)
        yield from _footnotes(doc, len(doc["candidates"]) - told)


def explain(doc: Document) -> RenderableType:
    return _Screen(doc)


def _candidates(rows: Sequence[Document], wide: bool) -> Table:
    table = grid()
    table.add_column("path", no_wrap=wide)
    parts = ("caution", "jitter", "loss", "hops") if wide else ("other",)
    for name in ("RTT", *parts, "cost", "age s", "packets"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("skill", justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    for row in rows:
        figures = [row[f"{part}_ms"] for part in ("caution", "jitter", "loss", "hops")]
        others = figures if wide else [None if None in figures else sum(figures)]
        skill = [] if not wide else ["-" if row["skill"] is None else f"{row['skill']:.2f}"]
        costs = [ms(row["rtt_ms"]), *(ms(part) for part in others), ms(row["cost_ms"])]
        table.add_row(
            route(row["path"]), *costs, ms(row["age_s"]), _count(row["samples"]), *skill, _standing(row)
        )
    return table


def _count(packets: int) -> str:
    """250, 12k, 50M: how many, not exactly how many."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if packets >= 10 * size:
            return f"{packets // size}{unit}"
    return str(packets)


def _end(doc: Document, side: str) -> str:
    market = doc[f"{side}_market"]
    return f"{doc[side]} (edge of market {market})" if market else str(doc[side])


def _worth_a_line(candidates: Sequence[Document]) -> list[Document]:
    """All that is in the plan, the cheapest of what is not, and the cheapest that each cause removed: one screen.
    "alike" are the others that it removed.
    """
    kept = [row for row in candidates if row["role"]]
    usable = [row for row in candidates if not row["role"] and not row["removed"]]
    removed: dict[str, Document] = {}
    for row in candidates:
        if row["removed"] and not row["role"]:
            cause = _cause(row["removed"])
            first = removed.get(cause)
            removed[cause] = {**row, "alike": 0} if first is None else {**first, "alike": first["alike"] + 1}
    return kept + usable[:USABLE_SHOWN] + list(removed.values())[:REMOVED_SHOWN]


def _cause(text: str) -> str:
    """The zone, the state or the fault, whichever node or edge has it."""
    zone, forbids, _ = text.partition(" forbids ")
    return zone if forbids else text.partition(" is ")[2] or text


def _standing(row: Document) -> Text:
    if row["removed"]:
        more = f", and {row['alike']} more" if row.get("alike") else ""
        return Text(f"removed: {row['removed']}{more}", STYLES["warn"])
    if row["role"]:
        role = row["role"].replace("_", " ")
        style = STYLES["ok"] if row["role"] == "primary" else ""
        return Text(f"{role}: {row['verdict']}" if row["verdict"] else role, style)
    return Text(row["verdict"] or "allowed", "dim")


def _footnotes(doc: Document, hidden: int) -> list[Text]:
    lines = [Text(f"{hidden} more candidates in --json", "dim")] if hidden else []
    if doc["blocked"]:
        lines.append(
            Text(f"zone {doc['blocked']} forbids an end of this pair: no path at all", STYLES["fail"])
        )
    lines += _zones(doc["zones"])
    return lines if not doc["runner_up"] else [*lines, _what_would_change(doc)]


def _zones(zones: Sequence[Document]) -> list[Text]:
    """Those that cost something with their reason; the others in one line."""
    dear = sorted(
        (zone for zone in zones if zone["costs_ms"] != 0), key=lambda zone: -(zone["costs_ms"] or 0)
    )
    shown, more = capped(dear, ZONES_SHOWN)
    lines = []
    for zone in shown:
        text = f"zone {zone['zone']} ({zone['reason']})" if zone["reason"] else f"zone {zone['zone']}"
        if zone["costs_ms"] is None:
            text += " concerns this pair"
        else:
            text += f" costs {signed(zone['costs_ms'])} ms RTT; without it {' > '.join(zone['without'])}"
        lines.append(Text(text))
    free = ", ".join(zone["zone"] for zone in zones if zone["costs_ms"] == 0)
    return [
        *lines,
        *([Text(more, "dim")] if more else []),
        *([Text(f"zones that cost nothing here: {free}", "dim")] if free else []),
    ]


def _what_would_change(doc: Document) -> Text:
    runner_up, doubt = " > ".join(doc["runner_up"]), doc["next_doubt"]
    if not doc["next_ms"]:
        return Text(f"{runner_up} is cheap enough, and kept out: {doubt or 'its past'}", "dim")
    text = f"{runner_up} would win if it were {ms(doc['next_ms'], 1)} ms cheaper"
    return Text(f"{text}; as it is {doubt}" if doubt else text, "dim")
