"""Drawer of `commcli play show`: a playbook's steps and, for chosen nodes, what would run where with which values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid

Document = Mapping[str, Any]
LONGEST_VALUE = 60
MOST_VALUES = 3
MOST_NODES = 8


def shown(doc: Document) -> RenderableType:
    """The table of steps, then that of the variables that the play asks for."""
    parts: list[RenderableType] = [_steps(doc)]
    if doc["bootstrap"]:
        parts.append(Text(f"where there is no python3: {'; '.join(doc['bootstrap'])}"))
    if doc["left_out"]:
        parts.append(Text(f"left out by tags: {', '.join(doc['left_out'])}"))
    if doc["values"] is not None:
        parts.append(_variables(doc))
    return Group(*parts)


def _steps(doc: Document) -> RenderableType:
    table = grid(title=f"{doc['play']}: {doc['about']}" if doc["about"] else doc["play"])
    where = doc["nodes"] is not None
    for head in ("line", "section", "step", "does", "about", "then", *(("nodes",) if where else ())):
        table.add_column(head)
    for step in doc["steps"]:
        row = [
            str(step["line"]),
            Text(step["section"] + (f" > {step['branch']}" if step["branch"] else "")),
            Text(step["name"] + _conditions(step)),
            step["word"],
            Text(step["about"]),
            Text(", ".join(step["notify"])),
        ]
        table.add_row(*row, *((Text(_runs(step, doc["nodes"])),) if where else ()))
    return table


def _conditions(step: Document) -> str:
    told = [
        f"when {step['when']}" if step["when"] else "",
        f"for each of {_short(step['loop'])}" if step["loop"] is not None else "",
        f"until {step['until']}" if step["until"] else "",
        f"{step['retries']} retries" if step["retries"] else "",
        "errors ignored" if step["ignore_errors"] else "",
        f"tags {', '.join(step['tags'])}" if step["tags"] else "",
    ]
    told = [text for text in told if text]
    return f" ({'; '.join(told)})" if told else ""


def _runs(step: Document, nodes: Sequence[str]) -> str:
    """Where it would run, a line for every set of items."""
    lines = []
    for run in step["runs"]:
        where = _names(run["nodes"], nodes)
        lines.append(f"{where}: {', '.join(run['items'])}" if run["items"] else where)
    return "\n".join(lines) or "nowhere: no items"


def _names(some: Sequence[str], all_of: Sequence[str]) -> str:
    if len(some) == len(all_of) > 1:
        return f"all {len(some)}"
    more = f" and {len(some) - MOST_NODES} more" if len(some) > MOST_NODES else ""
    return ", ".join(some[:MOST_NODES]) + more


def _variables(doc: Document) -> RenderableType:
    """A row for each value of each variable that the play asks for; of many values the first."""
    table = grid(title="variables that it asks for")
    for head in ("variable", "value", "from", "nodes"):
        table.add_column(head)
    for variable in doc["values"]:
        if not variable["used"]:
            continue
        rows = variable["values"]
        if len(rows) == len(doc["nodes"]) > MOST_VALUES:
            table.add_row(
                variable["name"], "its own on every node (--json has all)", Text(rows[0]["origin"]), ""
            )
            continue
        for at, row in enumerate(rows[:MOST_VALUES]):
            value, where = _short(row["value"]), _names(row["nodes"], doc["nodes"])
            table.add_row(variable["name"] if at == 0 else "", Text(value), Text(row["origin"]), Text(where))
        if len(rows) > MOST_VALUES:
            table.add_row("", Text(f"and {len(rows) - MOST_VALUES} more values (--json has all)"), "", "")
    return table


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    cut = f"{text[:LONGEST_VALUE]}… ({len(text)} characters)"
    return text if len(text) <= len(cut) else cut
