"""Draws what `commcli route apply` and `rollback` answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.route.plan import plan
from commcli.report.terminal import STYLES, grid, styled

Document = Mapping[str, Any]


def applied(doc: Document) -> RenderableType:
    parts: list[RenderableType] = []
    if doc["result"] == "held":
        parts.append(plan(doc["plan"]))
    elif doc["result"] != "unchanged":
        parts += [plan(doc["plan"]), _nodes(doc["nodes"], f"table {doc['serial']}")]
    elif doc["nodes"]:
        parts.append(_nodes(doc["nodes"], "not asked for a table"))
    if doc["rollback"]:
        parts.append(_nodes(doc["rollback"]["nodes"], f"rollback, table {doc['rollback']['serial']}"))
    if doc["resumed"]:
        parts.append(Text("; ".join(doc["because"]), STYLES["warn"]))
    if doc["watched"] and not doc["stopped"]:
        parts.append(Text(f"canary {doc['canary']}: {doc['watched']}", "dim"))
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
    if doc["result"] == "held":
        passed = "; ".join(limit["reason"] for limit in doc["held"])
        return Text(f"not published, nothing was changed: {passed}", STYLES["fail"])
    if doc["result"] == "unchanged":
        return Text(
            f"{doc['fleet']}: every relay that answers has table {serial}; nothing to do", STYLES["ok"]
        )
    if doc["result"] == "published":
        text = f"table {serial} published: {done} of {len(doc['nodes'])} relays confirm it"
        return Text(text + (f", canary {canary} first" if canary else ""), STYLES["ok"])
    if doc["result"] == "partial":
        text = f"table {serial} published to {done} of {len(doc['nodes'])} relays; apply again when the rest is back"
        return Text(text, STYLES["warn"])
    if doc["result"] == "unreached":
        return Text(f"table {serial} not published: no canary could be reached", STYLES["fail"])
    had_one = doc["plan"]["in_force"] is not None
    text = f"table {serial} stopped: {doc['stopped']}; {_aftermath(doc['rollback'], serial, done, had_one=had_one)}"
    return Text(text, STYLES["fail"])


def _aftermath(back: Document | None, serial: int, done: int, *, had_one: bool) -> str:
    if back is not None:
        return f"the former routes are back as table {back['serial']}"
    if done:
        return f"{done} relays keep table {serial}" + (
            "" if had_one else ": there is no former one to go back to"
        )
    return "no relay had taken it, none changed"
