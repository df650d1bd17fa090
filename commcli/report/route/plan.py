"""Draws what `commcli route plan` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.route.paths import route, signed
from commcli.report.terminal import STYLES, grid, ms

Document = Mapping[str, Any]

# A fleet-wide change has thousands of rows: the largest gains say what it is about, --json has the rest.
CHANGES_SHOWN = 30


def plan(doc: Document) -> RenderableType:
    parts: list[RenderableType] = [_plan_head(doc)]
    # Before the first table packets go straight anyway: a route that says the same is no news.
    news = [row for row in doc["changes"] if row["before"] is not None or len(row["after"] or ()) != 2]
    if news:
        parts.append(_changes(news))
    if len(news) < len(doc["changes"]):
        parts.append(
            Text(f"{len(doc['changes']) - len(news)} pairs get their first route: direct", style="dim")
        )
    if doc["zones"]:
        parts.append(_zones(doc["zones"]))
    parts += [_coverage(doc), *_warnings(doc)]
    return Group(*parts)


def _plan_head(doc: Document) -> Text:
    now, counts = doc["in_force"], doc["counts"]
    text = Text(f"{doc['fleet']}: ", style="bold")
    text.append(f"table {now['serial']} of {now['created']} in force" if now else "no table in force")
    if not doc["changed"]:
        return text.append("; nothing to change", style=STYLES["ok"])
    text.append(
        f"; table {doc['serial']} would change {counts['primaries_changed']} of {counts['pairs']} pairs"
    )
    other = counts["differing"] - counts["primaries_changed"]
    text.append(f" and the spare paths of {other} more" if other > 0 else "")
    networks = counts["prefixes_changed"]
    return text.append(f"; {networks} client networks get other edges" if networks else "")


def _changes(changes: Sequence[Document]) -> Table:
    shown = sorted(changes, key=lambda change: (-_gain(change), change["from"], change["to"]))[:CHANGES_SHOWN]
    title = "changes" if len(shown) == len(changes) else f"changes ({len(shown)} of {len(changes)})"
    table = grid(title=title)
    for head in ("from", "to", "path"):
        table.add_column(head, no_wrap=True)
    for head in ("RTT ms", "then", "gain"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    for change in shown:
        before, after = change["rtt_before_ms"], change["rtt_after_ms"]
        gain = None if before is None or after is None else before - after
        table.add_row(
            change["from"],
            change["to"],
            route(change["after"]),
            ms(before),
            ms(after),
            ms(gain),
            change["why"],
        )
    return table


def _gain(change: Document) -> float:
    before, after = change["cost_before_ms"], change["cost_after_ms"]
    # Pairs that lose or get a path come first.
    return float("inf") if before is None or after is None else float(before - after)


def _zones(zones: Sequence[Document]) -> RenderableType:
    """Those that cost something in rows with their reason; the others in one line."""
    free = ", ".join(zone["zone"] for zone in zones if not zone["paying"] and not zone["blocked"])
    note = Text(f"zones that cost nothing here: {free}", style="dim")
    dear = [zone for zone in zones if zone["paying"] or zone["blocked"]]
    return Group(*([_dear_zones(dear)] if dear else []), *([note] if free else []))


def _dear_zones(zones: Sequence[Document]) -> Table:
    table = grid(title="what the zones cost")
    table.add_column("zone", no_wrap=True)
    for head in ("pairs", "pay", "blocked", "mean ms", "worst ms"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("worst pair", no_wrap=True)
    table.add_column("reason", ratio=1)
    for zone in zones:
        figures = (str(zone["pairs"]), str(zone["paying"]), str(zone["blocked"]))
        worst = " > ".join(zone["worst"]) if zone["worst"] else "-"
        price = (signed(zone["mean_ms"]), signed(zone["worst_ms"]), worst, zone["reason"])
        table.add_row(zone["zone"], *figures, *price)
    return table


def _coverage(doc: Document) -> Text:
    counts, measured, mean = doc["counts"], doc["measured"], doc["mean_rtt_ms"]
    text = Text(
        f"{counts['routed']} of {counts['pairs']} pairs routed: {counts['direct']} direct, "
        f"{counts['one_relay']} by one relay, {counts['two_relays']} by two; "
        f"{counts['no_backup']} without a backup, {counts['blocked']} blocked by zones, "
        f"{counts['without_path']} without a path"
    )
    if mean["direct"] is not None:
        text.append(f"\nmean RTT {ms(mean['direct'])} ms direct, {ms(mean['chosen'])} ms as planned")
    if measured is not None:
        text.append(
            f"\n{measured['edges_measured']} of {measured['edges']} edges measured, oldest figure "
            f"{ms(measured['oldest_s'])} s, median {ms(measured['median_samples'])} samples an edge",
            style="dim",
        )
    return text


def _warnings(doc: Document) -> list[Text]:
    measured = doc["measured"] or {}
    waiting = [f"{doc['deferred']} pairs"] if doc["deferred"] else []
    words = [
        ("too many to move at once, so left for the next table", waiting),
        ("above its cap, and some of its pairs have no other way", doc["crowded"]),
        ("not measured, so without routes", measured.get("unmeasured_nodes")),
        ("drained", measured.get("drained")),
        ("no transit", measured.get("no_transit")),
        ("planned as away", measured.get("away")),
        ("rollouts that were broken off", [f"table {serial}" for serial in doc["unfinished"]]),
    ]
    return [Text(f"{word}: {', '.join(found)}", style=STYLES["warn"]) for word, found in words if found]
