"""Drawers of `commcli route ...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import STYLES, grid, ms, styled

Document = Mapping[str, Any]

# A fleet-wide change has thousands of rows: the largest gains say what it is about, --json has the rest.
CHANGES_SHOWN = 30
REMOVED_SHOWN = 12


def _plan(doc: Document) -> RenderableType:
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
            _route(change["after"]),
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
        price = (_signed(zone["mean_ms"]), _signed(zone["worst_ms"]), worst, zone["reason"])
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
    words = [
        ("not measured, so without routes", measured.get("unmeasured_nodes")),
        ("drained", measured.get("drained")),
        ("no transit", measured.get("no_transit")),
        ("planned as away", measured.get("away")),
        ("rollouts that were broken off", [f"table {serial}" for serial in doc["unfinished"]]),
    ]
    return [Text(f"{word}: {', '.join(found)}", style=STYLES["warn"]) for word, found in words if found]


def _applied(doc: Document) -> RenderableType:
    parts: list[RenderableType] = []
    if doc["result"] != "unchanged":
        parts += [_plan(doc["plan"]), _nodes(doc["nodes"], f"table {doc['serial']}")]
    elif doc["nodes"]:
        parts.append(_nodes(doc["nodes"], "not asked for a table"))
    if doc["rollback"]:
        parts.append(_nodes(doc["rollback"]["nodes"], f"rollback, table {doc['rollback']['serial']}"))
    return Group(*parts, _verdict(doc))


def _nodes(nodes: Sequence[Document], title: str) -> Table:
    table = grid(title=title)
    for head in ("node", "state"):
        table.add_column(head, no_wrap=True)
    for head in ("serial", "s"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("reason", ratio=1)
    # What went wrong is read last and so seen first.
    for row in sorted(nodes, key=lambda row: row["state"] != "done"):
        serial = "-" if row["serial"] is None else str(row["serial"])
        table.add_row(row["node"], styled(row["state"]), serial, f"{row['seconds']:.1f}", row["reason"])
    return table


def _verdict(doc: Document) -> Text:
    done = sum(1 for node in doc["nodes"] if node["state"] == "done")
    serial, canary = doc["serial"], doc["canary"]
    if doc["result"] == "unchanged":
        return Text(
            f"{doc['fleet']}: every relay that answers has table {serial}; nothing to do", STYLES["ok"]
        )
    if doc["result"] == "published":
        text = f"table {serial} published: {done} of {len(doc['nodes'])} relays confirm it, canary {canary} first"
        return Text(text, STYLES["ok"])
    if doc["result"] == "partial":
        text = f"table {serial} published to {done} of {len(doc['nodes'])} relays; apply again when the rest is back"
        return Text(text, STYLES["warn"])
    if doc["result"] == "unreached":
        return Text(f"table {serial} not published: no canary could be reached", STYLES["fail"])
    text = f"table {serial} stopped: {doc['stopped']}; {_aftermath(doc['rollback'], serial, done)}"
    return Text(text, STYLES["fail"])


def _aftermath(back: Document | None, serial: int, done: int) -> str:
    if back is not None:
        return f"the former routes are back as table {back['serial']}"
    if done:
        return f"there is no former table to go back to, so {done} relays keep table {serial}"
    return "no relay had taken it, none changed"


def _show(doc: Document) -> RenderableType:
    table = grid(title=f"routes of {doc['fleet']}, table {doc['serial']}")
    for head in ("from", "to", "primary", "backup", "last resort"):
        table.add_column(head, no_wrap=True)
    for row in doc["routes"]:
        spare = [_route(row["backup"]), _route(row["last_resort"])]
        primary = Text("blocked by a zone", STYLES["warn"]) if row["blocked"] else _route(row["primary"])
        table.add_row(row["from"], row["to"], primary, *spare)
    left = Text(f"signed {doc['created']}, expires {doc['expires']}", style="dim")
    if doc["expired"]:
        left = Text(
            f"expired {doc['expires']}: relays keep it, but take no new table of its age", STYLES["fail"]
        )
    return Group(table, *_doors(doc), left)


def _doors(doc: Document) -> list[Text]:
    """Where new clients are taken, and how many client networks are sent there: one line, and what is odd."""
    closed = [door["node"] for door in doc["doors"] if door["turn_port"] is None]
    lines = [Text(f"no new clients are sent to {', '.join(closed)}", "dim")] if closed else []
    if doc["prefixes"]:
        nearest = (
            ", ".join(f"{d['node']} {d['prefixes']}" for d in doc["doors"] if d["prefixes"]) or "none here"
        )
        lines.append(Text(f"client networks: {doc['prefixes']}, nearest to {nearest}", "dim"))
    return lines


def _explain(doc: Document) -> RenderableType:
    head = Text(f"{_end(doc, 'from')} to {_end(doc, 'to')}", style="bold")
    head.append(f"; in force: {' > '.join(doc['in_force'])}" if doc["in_force"] else "; nothing in force")
    table = grid(title=None)
    table.add_column("path", no_wrap=True)
    for name in ("RTT", "jitter", "loss", "hops", "cost ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("age s", justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    shown = _worth_a_line(doc["candidates"])
    for row in shown:
        parts = [ms(row[key]) for key in ("rtt_ms", "jitter_ms", "loss_ms", "hops_ms", "cost_ms", "age_s")]
        table.add_row(_route(row["path"]), *parts, _standing(row))
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
            text += f" costs {_signed(zone['costs_ms'])} ms RTT; without it {' > '.join(zone['without'])}"
        lines.append(Text(text))
    if doc["runner_up"]:
        runner_up = " > ".join(doc["runner_up"])
        lines.append(Text(f"{runner_up} would win if it were {ms(doc['next_ms'], 1)} ms cheaper", "dim"))
    return lines


def _history(doc: Document) -> RenderableType:
    table = grid(title=f"tables of {doc['fleet']}")
    table.add_column("serial", justify="right", no_wrap=True)
    for head in ("signed", "status", "confirmed", "canary"):
        table.add_column(head, no_wrap=True)
    table.add_column("note", ratio=1)
    for row in doc["tables"]:
        confirmed = "-" if row["confirmed"] is None else f"{row['confirmed']} of {row['shards']}"
        status = Text(row["status"], STYLES["ok"] if row["serial"] == doc["in_force"] else "")
        note = "; ".join(filter(None, (_origin(row), row["reason"], row["stopped"])))
        table.add_row(str(row["serial"]), row["recorded"], status, confirmed, row["canary"] or "-", note)
    return table


def _origin(row: Document) -> str:
    if row["rollback_of"]:
        return f"takes back {row['rollback_of']}"
    return f"routes of {row['routes_of']}" if row["routes_of"] else ""


def _route(path: Sequence[str] | None) -> Text:
    """The nodes from edge to edge; a direct path says so, because it is easily overlooked."""
    if path is None:
        return Text("-", "dim")
    return Text("direct", "dim") if len(path) == 2 else Text(" > ".join(path))


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0f}"


DRAW = {
    "plan": _plan,
    "apply": _applied,
    "rollback": _applied,
    "show": _show,
    "explain": _explain,
    "history": _history,
}
