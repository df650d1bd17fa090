"""Drawers of `commcli relay ...`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.overlay import overlays
from commcli.report.terminal import grid, ms, styled

Document = Mapping[str, Any]


def _status(doc: Document) -> RenderableType:
    rows = [row for row in doc["nodes"] if row["answer"] is not None]
    parts: list[RenderableType] = [_serving(doc)]
    if rows:
        parts += [Text(), _figures(rows), *overlays(rows)]
    return Group(*parts, *(Text(f"{row['node']}: {text}") for row in doc["nodes"] for text in _remarks(row)))


def _serving(doc: Document) -> RenderableType:
    table = grid(title=f"relays of {doc['fleet']}")
    for column in ("node", "state", "version", "up s", "allocations", "drain", "table", "lag p99 ms"):
        table.add_column(column, no_wrap=True)
    for row in doc["nodes"]:
        answer = row["answer"]
        if answer is None:
            table.add_row(row["node"], styled(row["state"]))
            continue
        serial = answer["table"]["serial"]
        table.add_row(
            row["node"],
            styled("ok"),
            answer["version"],
            f"{answer['uptime_s']:.0f}",
            _allocations(answer),
            _drain(answer),
            "none" if serial is None else str(serial),
            ms(answer["loop_lag_ms"]["p99"], 1),
        )
    return table


def _figures(rows: list[Document]) -> RenderableType:
    """What went through and what did not, since each relay's start."""
    table = grid()
    for column in (
        "node", "MB in", "MB out", "auth failed", "quota refused", "drops", "kernel drops", "streams", "half-open",
        "certificate",
    ):  # fmt: skip
        table.add_column(column, no_wrap=True)
    for row in rows:
        answer = row["answer"]
        turn, streams = answer.get("turn") or {}, answer.get("streams") or {}
        table.add_row(
            row["node"],
            _megabytes(answer, "from_client"),
            _megabytes(answer, "to_client"),
            _count(turn.get("auth_failed")),
            _count(_added(turn.get("quota_user"), turn.get("quota_total"))),
            _count(sum((answer.get("drops") or {}).values())),
            _count(answer.get("kernel_drops")),
            _count(streams.get("open")),
            _count(streams.get("half_open")),
            _certificate(answer),
        )
    return table


def _allocations(answer: Document) -> str:
    """The live ones, and by which transport where it is not UDP alone."""
    by = {name: count for name, count in (answer.get("allocations_by") or {}).items() if count}
    shown = ", ".join(f"{count} {name}" for name, count in sorted(by.items()))
    return f"{answer['allocations']} ({shown})" if set(by) - {"udp"} else str(answer["allocations"])


def _drain(answer: Document) -> str:
    if not answer["drain"]:
        return ""
    if answer.get("drained"):
        return "drained"
    return f"to {answer['draining']['sessions']}" if answer.get("draining") else "yes"


def _megabytes(answer: Document, direction: str) -> str:
    moved = ((answer.get("traffic") or {}).get("bytes") or {}).get(direction)
    return "-" if moved is None else f"{sum(moved.values()) / 1e6:.1f}"


def _added(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _certificate(answer: Document) -> str:
    ends = (answer.get("tls") or {}).get("not_after_unix")
    return "-" if ends is None else f"{(ends - answer['unix']) / 86400:.0f} days"


def _remarks(row: Document) -> list[str]:
    answer = row["answer"]
    if answer is None:
        return [row["reason"]]
    reload, table, tls = answer.get("reload") or {}, answer["table"], answer.get("tls") or {}
    remarks = [f"table refused: {table['refused']}"] if table["refused"] else []
    if reload.get("last_ok") is False:
        remarks.append(f"reload refused, the old configuration is in force: {reload['error']}")
    if failed := (answer.get("upgrade") or {}).get("last_failed"):
        remarks.append(f"upgrade failed, the old program goes on: {failed['reason']}")
    if reload.get("restart"):
        remarks.append(f"changed, and wait for a restart: {', '.join(reload['restart'])}")
    if tls.get("refused"):
        remarks.append(f"TLS: {tls['refused']}")
    return remarks


def _steered(doc: Document) -> RenderableType:
    table = grid("node", "state", "allocations left", "drain", "reason", title=doc["kind"].replace(".", " "))
    for row in doc["nodes"]:
        answer = row["answer"]
        left = "" if answer is None else str(answer["allocations"])
        table.add_row(row["node"], styled(row["state"]), left, _steered_to(answer), _reason(row))
    return table


def _steered_to(answer: Document | None) -> str:
    if answer is None:
        return ""
    return "stopped" if answer.get("stopped") else _drain(answer)


def _reason(row: Document) -> str:
    forgotten = (row["answer"] or {}).get("not_kept")
    return f"ends with a restart: {forgotten}" if forgotten else str(row["reason"])


def _reload(doc: Document) -> RenderableType:
    table = grid("node", "state", "changed", "waits for a restart", "reason", title="relay reload")
    for row in doc["nodes"]:
        answer = row["answer"] or {}
        changed, waits = (", ".join(answer.get(key) or []) for key in ("changed", "restart"))
        table.add_row(row["node"], styled(row["state"]), changed, waits, row["reason"])
    return table


def _upgrade(doc: Document) -> RenderableType:
    title = "relay upgrade"
    table = grid("node", "state", "from", "to", "calls that went on", "cut", "gap ms", "reason", title=title)
    for row in doc["nodes"]:
        answer = row["answer"] or {}
        shown = ("from", "version", "allocations", "cut", "gap_ms")
        cells = ["" if answer.get(key) is None else str(answer[key]) for key in shown]
        table.add_row(row["node"], styled(row["state"]), *cells, row["reason"])
    if not doc.get("stopped"):
        return table
    rest = ", ".join(doc["not_tried"]) or "none"
    return Group(table, Text(f"stopped at {doc['stopped']}"), Text(f"not tried, as they were: {rest}"))


DRAW = {
    "status": _status,
    "drain": _steered,
    "undrain": _steered,
    "reload": _reload,
    "upgrade": _upgrade,
}
