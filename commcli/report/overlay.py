"""Drawers of what relays say of the overlay between them: segments, paths, buffers (`Overlay.status`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from commcli.report.terminal import grid, ms, percent, styled

Document = Mapping[str, Any]

# Of so many nodes everything is shown, of more what an operator should look at.
NODES_IN_FULL = 2
REMARKABLE_LOSS = 0.001
REMARKABLE_FILL = 0.5
LATEST_SWITCH_S = 3600.0


def overlays(rows: Iterable[Document]) -> list[RenderableType]:
    """The tables of the nodes' answers, [] where none is a member of a fleet."""
    told = [row for row in rows if (row["answer"] or {}).get("overlay")]
    in_full = len(told) <= NODES_IN_FULL
    parts: list[RenderableType] = []
    for draw in (_segments, _arrivals, _further, _paths, _buffers):
        table, hidden = draw(told, in_full)
        if table.row_count:
            parts += [Text(), table]
        if hidden:
            parts.append(Text(hidden, style="dim"))
    return parts


def _segments(told: list[Document], in_full: bool) -> tuple[Any, str]:
    table = grid(title="segments to neighbours, as the neighbours report them")
    for column in ("segment", "hello", "loss", "burst", "jitter ms", "queue ms", "rtt ms", "mtu", "extra"):
        table.add_column(column, no_wrap=True)
    table.add_column("protection, and why")
    hidden = 0
    for node, peer, _, segment in _each_segment(told):
        out, hello = segment.get("out") or {}, segment.get("hello") or {}
        if not in_full and not _is_remarkable(out, hello):
            hidden += 1
            continue
        table.add_row(
            f"{node} > {peer}",
            _hello(hello),
            percent(out.get("loss")),
            ms(out.get("burst"), 1),
            ms(out.get("jitter_ms"), 1),
            ms(out.get("queue_ms"), 1),
            ms(hello.get("rtt_ms") if out.get("rtt_ms") is None else out["rtt_ms"], 1),
            _count((out.get("mtu") or {}).get("mtu")),
            percent(_extra(out), 0),
            protection(out.get("plan") or {}),
        )
    return table, f"{hidden} more segments without loss or protection" if hidden else ""


def _hello(hello: Document) -> Text:
    """What their hellos say of a neighbour: alive, silent, or deaf (it does not hear us)."""
    state = hello.get("state") or "-"
    return styled(state if hello.get("hears_us") is not False else "deaf")


def _extra(out: Document) -> float | None:
    """What protection added since the start, as a share of the media."""
    classes = (out.get("classes") or {}).values()
    media = sum(traffic["bytes"] for traffic in classes)
    return sum(traffic["extra_bytes"] for traffic in classes) / media if media else None


def _each_segment(told: Iterable[Document]) -> Iterator[tuple[str, str, Document, Document]]:
    for row in told:
        overlay = row["answer"]["overlay"]
        for peer, segment in sorted((overlay.get("segments") or {}).items()):
            yield row["node"], peer, overlay, segment


def _is_remarkable(out: Document, hello: Document) -> bool:
    # To resend what is asked for costs nothing until something is lost: it is on wherever little is known.
    means = (_means(plan) for plan in (out.get("plan") or {}).values())
    return (
        (out.get("loss") or 0.0) >= REMARKABLE_LOSS
        or hello.get("state") == "silent"
        or hello.get("hears_us") is False
        or any(text not in ("", "resend") for text in means)
    )


def protection(plans: Mapping[str, Document]) -> str:
    """What is on for each class of traffic, classes alike together: "audio video: resend, parity 8+2 (loss 3.1 %)"."""
    words: dict[tuple[str, str], list[str]] = {}
    for name, plan in plans.items():
        words.setdefault((_means(plan), str(plan.get("reason") or "")), []).append(name)
    return "; ".join(
        f"{' '.join(names)}: {means or 'none'}" + (f" ({why})" if why else "")
        for (means, why), names in words.items()
    )


def _means(plan: Document) -> str:
    copies, parity = plan.get("copies"), plan.get("parity")
    on = [
        "resend" if plan.get("resend") else "",
        f"copies after {copies} packets" if copies else "",
        f"parity {parity[0]}+{parity[1]}" + _depth(parity) if parity else "",
        "copy on the backup" if plan.get("backup") else "",
        "asks for another route" if plan.get("leave") else "",
    ]
    return ", ".join(word for word in on if word)


def _depth(parity: list[int]) -> str:
    return f" in {parity[2]} blocks in turn" if len(parity) > 2 and parity[2] > 1 else ""


def _arrivals(told: list[Document], in_full: bool) -> tuple[Any, str]:
    table = grid(title="segments from neighbours, counted here since the start")
    columns = ("segment", "sent", "lost", "loss", "repaired", "reordered", "bursts", "mean burst", "twice")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for node, peer, _, segment in _each_segment(told):
        came = segment.get("in") or {}
        if not in_full or not came:
            continue
        table.add_row(
            f"{node} < {peer}",
            _count(came.get("expected")),
            _count(came.get("lost")),
            percent(_share(came.get("lost"), came.get("expected")), 2),
            _count(came.get("repaired")),
            _count(came.get("reordered")),
            _count(came.get("runs")),
            ms(_share(came.get("lost"), came.get("runs")), 1),
            _count(came.get("duplicates")),
        )
    return table, ""


def _further(told: list[Document], in_full: bool) -> tuple[Any, str]:
    table = grid(title="segments further down, as they are reported")
    for column in ("node", "segment", "loss", "burst", "jitter ms", "queue ms", "age s"):
        table.add_column(column, no_wrap=True)
    for row in told if in_full else ():
        for segment in row["answer"]["overlay"].get("further") or ():
            table.add_row(
                row["node"],
                f"{segment['from']} > {segment['to']}",
                percent(segment["loss"]),
                ms(segment["burst"], 1),
                ms(segment["jitter_ms"], 1),
                ms(segment["queue_ms"], 1),
                ms(segment["age_s"], 1),
            )
    return table, ""


def _paths(told: list[Document], in_full: bool) -> tuple[Any, str]:
    table = grid(title="paths")
    for column in ("from", "to", "in use", "state", "rtt ms"):
        table.add_column(column, no_wrap=True)
    for column in ("path", "others", "last switch"):
        table.add_column(column)
    hidden = 0
    for row in told:
        for egress, way in sorted((row["answer"]["overlay"].get("paths") or {}).items()):
            if not in_full and _is_usual(way, row["answer"].get("unix")):
                hidden += 1
                continue
            table.add_row(
                row["node"],
                egress,
                "straight" if way["straight"] else way["active"],
                styled(way["state"]),
                ms(way["rtt_ms"], 1),
                " ".join(way["path"]),
                ", ".join(
                    f"{label} {other['state']}"
                    for label, other in way["candidates"].items()
                    if label != way["active"]
                ),
                _switch(way),
            )
    return table, f"{hidden} more ways over a primary path that is up" if hidden else ""


def _is_usual(way: Document, unix: float | None) -> bool:
    if way["straight"] or way["active"] != "primary" or way["state"] != "up":
        return False
    return not any(
        unix is None or unix - switch["unix"] < LATEST_SWITCH_S for switch in way.get("switches", ())
    )


def _switch(way: Document) -> str:
    switches = way.get("switches") or []
    if not switches:
        return ""
    last = switches[-1]
    at = datetime.fromtimestamp(last["unix"], UTC)
    before = f" ({len(switches)} in all)" if len(switches) > 1 else ""
    return f"{at:%m-%d %H:%M:%SZ} {last['from']} > {last['to']}: {last['reason']}{before}"


def _buffers(told: list[Document], in_full: bool) -> tuple[Any, str]:
    table = grid(title="buffers of the overlay")
    for column in ("node", "buffer", "holds", "at most", "full"):
        table.add_column(column, no_wrap=True)
    for row in told:
        for name, buffer in sorted((row["answer"]["overlay"].get("buffers") or {}).items()):
            for unit in (unit for unit in buffer if f"most_{unit}" in buffer):
                held, most = buffer[unit], buffer[f"most_{unit}"]
                if in_full or (most and held / most >= REMARKABLE_FILL):
                    share = percent(held / most, 0) if most else "-"
                    table.add_row(row["node"], name, _amount(held, unit), _amount(most, unit), share)
    return table, ""


def _amount(count: int, unit: str) -> str:
    if unit != "bytes":
        return f"{count} {unit}"
    for size, word in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return f"{count} B"


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
