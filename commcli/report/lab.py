"""How the lab's documents look on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import grid, ms, percent, styled

Document = Mapping[str, Any]


def draw_up(doc: Document) -> RenderableType:
    word = "lab up" if doc["changed"] else "lab was up already: nothing to do"
    table = grid("node", "city", "SSH", title=f"{word}: {len(doc['nodes'])} nodes in {doc['folder']}")
    for row in doc["nodes"]:
        table.add_row(row["node"], row["city"], f"{row['address']}:{doc['ssh_port']}")
    note = Text("Delays are measured ones (public figures); loss and jitter are synthetic.", style="dim")
    return Group(table, note)


def draw_down(doc: Document) -> RenderableType:
    if doc["clean"]:
        return Text(
            f"lab down: {doc['ended']} processes ended; no process, port or file is left", style="green"
        )
    left = doc["left"]
    lines = [f"process {found['pid']}: {found['command']}" for found in left["processes"]]
    lines += [f"port {port}" for port in left["ports"]]
    lines += [f"file {doc['folder']}/{name} (not the lab's)" for name in left["files"]]
    return Text("\n".join(["lab down: these are left:", *lines]), style="bold red")


def draw_status(doc: Document) -> RenderableType:
    table = grid("node", "city", "address", "SSH", "relay", "processes", title=f"lab in {doc['folder']}")
    for row in doc["nodes"]:
        table.add_row(
            row["node"], row["city"], row["address"], styled("ok" if row["ssh"] else "fail"),
            "runs" if row["relay"] else "-", str(row["processes"]),
        )  # fmt: skip
    parts: list[RenderableType] = [table]
    for title in ("degraded", "links"):
        if rows := doc.get(title):
            parts.append(_links(title, rows))
    if miles := doc.get("last_miles"):
        parts.append(_last_miles(miles))
    if doc["hosts"] is None:
        parts.append(
            Text("The hosts process does not answer: commcli lab up starts it again.", style="bold red")
        )
    return Group(*parts)


def _links(title: str, rows: list[Mapping[str, Any]]) -> Table:
    table = grid(title=f"{title} (loss and jitter synthetic)")
    for column in ("link", "RTT ms", "jitter ms", "loss", "burst", "kbit/s"):
        table.add_column(column, justify="left" if column == "link" else "right")
    for row in rows:
        table.add_row(" - ".join(row["pair"]), *_figures(row))
    return table


def _last_miles(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = grid(title="last miles of clients, each way (all synthetic)")
    for column in ("edge", "kbit/s", "delay ms", "jitter ms", "loss", "burst", "queue ms"):
        table.add_column(column, justify="left" if column == "edge" else "right")
    for row in rows:
        rate = "-" if row["rate_kbit"] is None else f"{row['rate_kbit']:g}"
        times = ms(row["delay_ms"]), ms(row["jitter_ms"], 1)
        table.add_row(
            row["node"], rate, *times, percent(row["loss"]), f"{row['burst']:g}", ms(row["queue_ms"])
        )
    return table


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    rate = row["rate_kbit"]
    return (
        ms(row["rtt_ms"]), ms(row["jitter_ms"], 1), percent(row["loss"]), f"{row['burst']:g}",
        "-" if rate is None else f"{rate:g}",
    )  # fmt: skip


def draw_degrade(doc: Document) -> RenderableType:
    a, b = doc["pair"]
    table = grid(title=f"{a} - {b} (synthetic)")
    for column in ("", "RTT ms", "jitter ms", "loss", "burst", "kbit/s"):
        table.add_column(column, justify="left" if not column else "right")
    for word in ("before", "after"):
        table.add_row(word, *_figures(doc[word]))
    return table


def draw_lastmile(doc: Document) -> RenderableType:
    note = f"The same each way, for every client by itself. commcli lab restore {doc['node']} takes it back."
    return Group(_last_miles([{"node": doc["node"], **doc["last_mile"]}]), Text(note, style="dim"))


def draw_restore(doc: Document) -> RenderableType:
    restored = [" - ".join(pair) for pair in doc["restored"]]
    restored += [f"last mile of {node}" for node in doc["last_miles"]]
    return Text("restored: " + ", ".join(restored) if restored else "nothing was degraded")


def draw_kill(doc: Document) -> RenderableType:
    return Text(f"{doc['node']} has no power: {doc['killed']} processes killed")


def draw_start(doc: Document) -> RenderableType:
    return Text(f"{doc['node']} is up again: {doc['did']}")


def draw_demo(doc: Document) -> RenderableType:
    table = grid(title=f"the story, told in {doc['seconds']:.0f} s")
    for column in ("", "step", "s", "", "what was found"):
        table.add_column(column, justify="right" if column in ("", "s") else "left")
    for row in doc["steps"]:
        found = row["reason"] or ", ".join(f"{key} {_fact(value)}" for key, value in row["facts"].items())
        word = styled("ok" if row["true"] else "fail")
        table.add_row(str(row["step"]), row["title"], f"{row['seconds']:.1f}", word, found)
    if doc["true"]:
        return Group(table, Text("Every step is true, and nothing is left behind.", style="green"))
    return Group(table, Text("The story is not true; the lab is down.", style="bold red"))


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return " → ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


DRAW: Mapping[str, Callable[[Document], RenderableType]] = {
    "up": draw_up, "down": draw_down, "status": draw_status, "degrade": draw_degrade,
    "lastmile": draw_lastmile, "restore": draw_restore, "kill": draw_kill, "start": draw_start, "demo": draw_demo,
}  # fmt: skip
