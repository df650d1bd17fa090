"""Draws the documents of `commcli runs`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]


def _list(doc: Document) -> RenderableType:
    if not doc["rows"]:
        return Text("nothing has been run yet", style="dim")
    table = grid()
    for column in ("run", "when (UTC)", "command", "who", "nodes", "changed", "result"):
        table.add_column(column, no_wrap=column in ("run", "when (UTC)", "result"))
    for row in doc["rows"]:
        table.add_row(
            row["run"],
            _time(row["started"]),
            Text(row["command"]),
            Text(row["who"] or "-"),
            "-" if row["nodes"] is None else str(row["nodes"]),
            "-" if row["changed"] is None else str(row["changed"]),
            styled(row["result"]) if row["ended"] is not None else Text("unfinished", style="magenta"),
        )
    return table


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _show(doc: Document) -> RenderableType:
    took = "" if doc["ended"] is None else f", took {doc['ended'] - doc['started']:.1f} s"
    result = "not ended, or killed" if doc["ended"] is None else doc["result"]
    lines = [
        f"run {doc['run']}: {doc['command']}, {_time(doc['started'])} UTC by {doc['who'] or '?'}{took}: {result}",
        *([f"log {doc['log']}"] if doc["log"] else []),
        *([_drained(doc["drained"])] if doc["document"] is None and doc["drained"] else []),
    ]
    head = Text("\n".join(lines))
    if doc["document"] is None:
        return Group(head, *_heard(doc))
    noun, verb = doc["document"]["kind"].split(".", 1)
    return Group(head, importlib.import_module(f"commcli.report.{noun}").DRAW[verb](doc["document"]))


def _heard(doc: Document) -> Iterator[RenderableType]:
    """How far a run came that has told no end."""
    if doc["heard"]:
        table = grid("node", "at (UTC)", "last heard", "state", title="as far as its log goes")
        for row in doc["heard"]:
            step = Text(f"{row['step'] or 'end'}: {row['text']}" if row["text"] else row["step"] or "end")
            table.add_row(row["node"], row["at"][11:19], step, styled(row["state"]))
        yield table
    silent = [node for node in doc["nodes"] if node not in {row["node"] for row in doc["heard"]}]
    if silent:
        yield Text(f"nothing was heard of: {', '.join(silent)}")


def _drained(nodes: Sequence[str]) -> str:
    """Of a run that was killed: whom it has drained, and may not have undrained."""
    return f"drained by it: {', '.join(nodes)}; next: commcli relay undrain {','.join(nodes)}"


DRAW = {"list": _list, "show": _show}
