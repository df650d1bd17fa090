"""Drawers of what relays say of the overlay between them: segments, paths, buffers (`Overlay.status`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from commcli.report.culprits import by_culprit, named
from commcli.report.terminal import capped, grid, ms, percent, styled
from commcli.report.ways import ways

Document = Mapping[str, Any]
# A table, and lines about what it leaves out.
Drawn = tuple[Any, list[str]]

# Of so many nodes everything is shown, of more what an operator should look at.
NODES_IN_FULL = 2
REMARKABLE_LOSS = 0.001
REMARKABLE_FILL = 0.5
# Of each table of a big fleet, on a bad day, the worst so many rows.
MOST_ROWS = 15
NODES_NAMED = 3
# They say that repair or the backup is at work, and nothing of an attacker or a mistake.
USUAL_DROPS = ("repeated", "second_copy")


def overlays(rows: Iterable[Document]) -> list[RenderableType]:
    """The tables of the nodes' answers, [] where none is a member of a fleet."""
    told = [row for row in rows if (row["answer"] or {}).get("overlay")]
    in_full = len(told) <= NODES_IN_FULL
    parts: list[RenderableType] = []
    for draw in (_silences, _segments, _arrivals, _further, ways, _buffers, _drops):
        table, hidden = draw(told, in_full)
        if table.row_count:
            parts += [Text(), table]
        parts += [Text(line, style="dim") for line in hidden if line]
    return parts


def _silences(told: list[Document], in_full: bool) -> Drawn:
    """Which neighbours do not hear each other, by the node that this is about; in full each segment says it."""
    table = grid(title="silent or deaf neighbours")
    table.add_column("node", no_wrap=True)
    table.add_column("what")
    if in_full:
        return table, []
    words = {
        (node, peer): word for node, peer, segment in _each_segment(told) if (word := _muteness(segment))
    }
    asked = Counter(name for node, peer, _ in _each_segment(told) for name in ((peer, "of"), (node, "by")))
    lines = []
    for culprit, pairs in by_culprit({pair: (pair[1], pair[0]) for pair in words}, 1):
        found: dict[tuple[str, str], list[str]] = {}
        for node, peer in pairs:
            side, other = ("of", node) if peer == culprit else ("by", peer)
            found.setdefault((side, words[node, peer]), []).append(other)
        said = [
            f"{_SILENT[key]} {len(others)} of {asked[str(culprit), key[0]]} neighbours{named(others)}"
            for key, others in found.items()
        ]
        lines.append((str(culprit), ", ".join(said)))
    shown, more = capped(lines, MOST_ROWS)
    for line in shown:
        table.add_row(*line)
    return table, [more]


# By whom it is told: of the node by its neighbours, or by the node of them.
_SILENT = {
    ("of", "silent"): "silent for",
    ("of", "deaf"): "deaf to",
    ("by", "silent"): "hears nothing of",
    ("by", "deaf"): "not heard by",
}


def _muteness(segment: Document) -> str:
    """What is wrong between two neighbours: "silent", "deaf" or ""."""
    hello = segment.get("hello") or {}
    if hello.get("state") == "silent":
        return "silent"
    return "deaf" if hello.get("hears_us") is False else ""


def _segments(told: list[Document], in_full: bool) -> Drawn:
    table = grid(title="segments to neighbours, as the neighbours report them")
    for column in ("segment", "hello", "loss", "burst", "jitter ms", "queue ms", "rtt ms", "mtu", "extra"):
        table.add_column(column, no_wrap=True)
    table.add_column("protection, and why")
    rows = [row for row in _each_segment(told) if in_full or not _muteness(row[2])]
    remarkable = rows if in_full else [row for row in rows if _is_remarkable(row[2].get("out") or {})]
    worst_first = remarkable if in_full else sorted(remarkable, key=_loss, reverse=True)
    shown, more = capped(worst_first, len(rows) if in_full else MOST_ROWS)
    for node, peer, segment in shown:
        out, hello = segment.get("out") or {}, segment.get("hello") or {}
        table.add_row(
            f"{node} > {peer}",
            _hello(segment),
            percent(out.get("loss")),
            ms(out.get("burst"), 1),
            ms(out.get("jitter_ms"), 1),
            ms(out.get("queue_ms"), 1),
            ms(hello.get("rtt_ms") if out.get("rtt_ms") is None else out["rtt_ms"], 1),
            _count((out.get("mtu") or {}).get("mtu")),
            percent(_extra(out), 0),
            protection(out.get("plan") or {}),
        )
    calm = len(rows) - len(remarkable)
    return table, [more, f"{calm} more segments without loss or protection" if calm else ""]


def _loss(row: tuple[str, str, Document]) -> float:
    return (row[2].get("out") or {}).get("loss") or 0.0


def _hello(segment: Document) -> Text:
    """What their hellos say of a neighbour: alive, silent, or deaf (it does not hear us)."""
    return styled(_muteness(segment) or (segment.get("hello") or {}).get("state") or "-")


def _extra(out: Document) -> float | None:
    """What protection added since the start, as a share of the media."""
    classes = (out.get("classes") or {}).values()
    media = sum(traffic["bytes"] for traffic in classes)
    return sum(traffic["extra_bytes"] for traffic in classes) / media if media else None


def _each_segment(told: Iterable[Document]) -> Iterator[tuple[str, str, Document]]:
    """(node, neighbour, what the node says of the segment)."""
    for row in told:
        for peer, segment in sorted((row["answer"]["overlay"].get("segments") or {}).items()):
            yield row["node"], peer, segment


def _is_remarkable(out: Document) -> bool:
    # To resend what is asked for costs nothing until something is lost: it is on wherever little is known.
    means = (_means(plan) for plan in (out.get("plan") or {}).values())
    return (out.get("loss") or 0.0) >= REMARKABLE_LOSS or any(text not in ("", "resend") for text in means)


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


def _arrivals(told: list[Document], in_full: bool) -> Drawn:
    table = grid(title="segments from neighbours, counted here since the start")
    columns = ("segment", "sent", "lost", "loss", "repaired", "reordered", "bursts", "mean burst", "twice")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for node, peer, segment in _each_segment(told):
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
    return table, []


def _further(told: list[Document], in_full: bool) -> Drawn:
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
    return table, []


def _buffers(told: list[Document], in_full: bool) -> Drawn:
    table = grid(title="buffers of the overlay")
    for column in ("node", "buffer", "holds", "at most", "full"):
        table.add_column(column, no_wrap=True)
    rows: Sequence[tuple[float, str, str, str, int, int]] = [
        (held / most if most else 0.0, row["node"], name, unit, held, most)
        for row in told
        for name, buffer in sorted((row["answer"]["overlay"].get("buffers") or {}).items())
        for unit in buffer
        if (most := buffer.get(f"most_{unit}")) is not None and (held := buffer[unit]) is not None
    ]
    more = ""
    if not in_full:
        rows = sorted(
            (row for row in rows if row[0] >= REMARKABLE_FILL), key=lambda row: row[0], reverse=True
        )
        rows, more = capped(rows, MOST_ROWS)
    for share, node, name, unit, held, most in rows:
        table.add_row(
            node, name, _amount(held, unit), _amount(most, unit), percent(share, 0) if most else "-"
        )
    return table, [more]


def _drops(told: list[Document], in_full: bool) -> Drawn:
    """What came or was to leave, and was refused: by reason, with the nodes that counted most of it."""
    table = grid(title="dropped by the overlay since the start")
    for column in ("reason", "dropped"):
        table.add_column(column, no_wrap=True)
    table.add_column("at")
    by_reason: dict[str, dict[str, int]] = {}
    for row in told:
        for reason, count in (row["answer"]["overlay"].get("drops") or {}).items():
            if count:
                by_reason.setdefault(reason, {})[row["node"]] = count
    totals = Counter({reason: sum(counts.values()) for reason, counts in by_reason.items()})
    for reason, total in totals.most_common():
        if reason not in USUAL_DROPS:
            table.add_row(reason, str(total), _most_at(by_reason[reason]))
    usual = [f"{totals[reason]} {reason}" for reason in USUAL_DROPS if totals[reason]]
    return table, [f"and, as repair and copies bring with them: {', '.join(usual)}" if usual else ""]


def _most_at(counts: Mapping[str, int]) -> str:
    ranked = [f"{node} {count}" for node, count in Counter(counts).most_common()]
    others = len(ranked) - NODES_NAMED
    return ", ".join(ranked[:NODES_NAMED]) + (f", and {others} more nodes" if others > 0 else "")


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
