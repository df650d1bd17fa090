"""Drawers of `commcli relay ...`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import grid, ms, styled

Document = Mapping[str, Any]


def _status(doc: Document) -> RenderableType:
    table = grid(title=f"relays of {doc['fleet']}")
    for column in ("node", "state", "version", "up s", "allocations", "drain", "table", "lag p99 ms"):
        table.add_column(column, no_wrap=True)
    reasons = []
    for row in doc["nodes"]:
        answer = row["answer"]
        if answer is None:
            table.add_row(row["node"], styled(row["state"]))
            reasons.append(Text(f"{row['node']}: {row['reason']}"))
            continue
        serial = answer["table"]["serial"]
        table.add_row(
            row["node"],
            styled("ok"),
            answer["version"],
            f"{answer['uptime_s']:.0f}",
            str(answer["allocations"]),
            "yes" if answer["drain"] else "",
            "none" if serial is None else str(serial),
            ms(answer["loop_lag_ms"]["p99"], 1),
        )
        if answer["table"]["refused"]:
            reasons.append(Text(f"{row['node']}: table refused: {answer['table']['refused']}"))
    return Group(table, *reasons)


def _steered(doc: Document) -> RenderableType:
    table = grid("node", "state", "allocations left", "reason", title=doc["kind"].replace(".", " "))
    for row in doc["nodes"]:
        left = "" if row["answer"] is None else str(row["answer"]["allocations"])
        table.add_row(row["node"], styled(row["state"]), left, row["reason"])
    return table


DRAW = {"status": _status, "drain": _steered, "undrain": _steered}
