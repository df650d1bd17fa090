"""Draws probe calls: one, or two side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import grid, ms, percent, styled

Document = Mapping[str, Any]

_PHASES = ("resolve", "ssh", "allocate", "gather", "ice", "dtls", "first_audio", "first_frame")


# --- reading a call document -----------------------------------------------------------------------------------------


def _at(value: Any, *keys: str) -> Any:
    """The value under `keys`, None as soon as one is missing or unmeasured."""
    for key in keys:
        if value is None:
            return None
        value = value.get(key)
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _both(doc: Document, *keys: str) -> list[Any]:
    return [_at(doc["directions"][name], *keys) for name in ("there", "back")]


def _title(doc: Document) -> str:
    ends = [
        end["node"] if end["asked"] == end["node"] else f"{end['asked']} ({end['node']})"
        for end in (doc["from"], doc["to"])
    ]
    return f"{ends[0]} → {ends[1]}"


def hops(direction: Mapping[str, Any]) -> list[str]:
    """A line for each path that carried packets, the most used first, and how we know."""
    if direction["path"] is None:
        return ["-"]
    if direction["straight"]:
        return [
            f"{' → '.join(direction['path'])}  (straight: both edges were asked, no overlay packet counted)"
        ]
    return [_path(used) for used in direction["paths"]]


def _path(used: Mapping[str, Any]) -> str:
    counts = ("?" if used["counted"][node] is None else str(used["counted"][node]) for node in used["path"])
    return f"{' → '.join(used['path'])}  ({' / '.join(counts)} packets counted)"


def _each_hop(direction: Mapping[str, Any]) -> list[str]:
    """A line for each segment of the path that most packets took: this call's loss there, and what relays told."""
    return [_hop(hop) for hop in direction["paths"][0]["hops"]] if direction["paths"] else []


def _hop(hop: Mapping[str, Any]) -> str:
    row = hop["segment"]
    text = f"{hop['from']} → {hop['to']}: this call's loss {_loss(hop['loss'])}"
    if row is None:
        return f"{text}; {hop['to']} tells no more"
    return (
        f"{text}; all datagrams: {_count(row['lost'])} of {_count(row['expected'])} lost before repair,"
        f" {_count(row['sent_again'])} sent again, {_count(row['repaired'])} repaired,"
        f" RTT {_ms1(row['rtt_ms'])}, one way by their clocks {_ms1(_at(row, 'delay_ms', 'p50'))}"
    )


def _clock(doc: Document) -> str:
    clock = doc["clock"]
    if clock is None:
        return "clocks not compared: no one-way delays"
    return f"clocks: {clock['offset_ms']:+.1f} ± {clock['error_ms']:.1f} ms ({clock['method']})"


def _gap(doc: Document) -> str:
    gap = doc["longest_gap"]
    if gap is None:
        return "-"
    when = datetime.fromtimestamp(gap["at_unix"], UTC).strftime("%H:%M:%S.%f")[:-3]
    return (
        f"{gap['ms']:.0f} ms of {gap['medium']} {gap['direction']}, after {gap['after_s']:.1f} s at {when}Z"
    )


def _verdict(doc: Document) -> Text:
    text = Text.assemble(styled(doc["verdict"]))
    if doc["verdict"] == "invalid":
        text.append(f"  {doc['invalid_reason']}")
    elif doc["reasons"]:
        text.append("  " + "; ".join(doc["reasons"]))
    return text


# --- one call -------------------------------------------------------------------------------------------------------


def call(doc: Document) -> RenderableType:
    """One call: verdict, set-up, both directions, hops, and how the figures came about."""
    head = Table.grid(padding=(0, 2))
    head.add_row("call", f"{_title(doc)}, {doc['profile']}, {doc['seconds']:g} s, {_asked(doc)}")
    head.add_row("verdict", _verdict(doc))
    for problem in doc["problems"]:
        head.add_row("problem", Text(problem, style="red"))
    if doc["valid"] is None:
        return head
    head.add_row("set-up", f"{ms(doc['setup_ms'])} ms   {_phases(doc)}")
    rtt = doc["rtt_ms"]
    head.add_row(
        "RTT",
        "-"
        if rtt is None
        else f"{ms(rtt['p50'], 1)} ms median, {ms(rtt['p95'], 1)} p95, {rtt['samples']} pings",
    )
    head.add_row("longest gap", _gap(doc))
    return Group(head, _directions(doc), *_footnotes(doc))


def _asked(doc: Document) -> str:
    """The road that was asked for, and how the ends reach their edges."""
    road = "straight" if doc["direct"] else f"by {doc['via']}" if doc["via"] else "by the overlay"
    return (
        f"asked to go {road}{' without repair' if doc['plain'] else ''}, TURN over {doc['transport'].upper()}"
    )


def _phases(doc: Document) -> str:
    told = doc["phases_ms"]["from"]
    return "  ".join(f"{name.replace('_', ' ')} {ms(told[name])}" for name in _PHASES if name in told)


def _directions(doc: Document) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim", title_justify="left")
    for column in ("", "there", "back"):
        table.add_column(column, justify="left" if not column else "right")
    for label, keys, show in _FIGURES:
        table.add_row(label, *(show(value) for value in _both(doc, *keys)))
    return table


def _ms1(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _loss(value: float | None) -> str:
    return percent(value, 2)


def _kbps(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} kbit/s"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _each(counts: Mapping[str, Any] | None, *names: str) -> str:
    return " / ".join(_count(_at(counts, name)) for name in names)


def _mos(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


_FIGURES: tuple[tuple[str, tuple[str, ...], Callable[[Any], str]], ...] = (
    ("MOS", ("mos", "mos"), _mos),
    ("audio one-way, median", ("audio", "one_way_ms", "p50"), _ms1),
    ("audio jitter", ("audio", "jitter_ms"), _ms1),
    ("audio loss", ("audio", "loss"), _loss),
    ("audio bitrate", ("audio", "bitrate_kbps"), _kbps),
    ("video frame delay, median", ("video", "frame_delay_ms", "p50"), _ms1),
    ("  with aiortc's decoder", ("video", "decoded_delay_ms", "p50"), _ms1),
    ("video jitter", ("video", "jitter_ms"), _ms1),
    ("video loss", ("video", "loss"), _loss),
    ("video bitrate", ("video", "bitrate_kbps"), _kbps),
    (
        "packets lost / retransmitted / repaired so",
        ("counts",),
        lambda value: _each(value, "lost", "retransmitted", "repaired_by_rtx"),
    ),
    (
        "  relays: lost / sent again / repaired",
        ("counts",),
        lambda value: _each(value, "lost_between_relays", "sent_again", "repaired"),
    ),
    ("frames a second", ("video", "fps"), lambda value: "-" if value is None else f"{value:.1f}"),
    ("freezes (webrtc-stats)", ("video", "freezes", "webrtc", "count"), _count),
    ("freezes >= 500 ms (Agora SDK)", ("video", "freezes", "agora_sdk_500_ms", "count"), _count),
    ("freezes >= 600 ms (Agora analytics)", ("video", "freezes", "agora_analytics_600_ms", "count"), _count),
    ("audio gaps >= 200 ms (Agora analytics)", ("audio", "gaps_over_200_ms", "count"), _count),
)


def _footnotes(doc: Document) -> list[Text]:
    notes = [
        Text(f"hops {name:5} {line}") for name in ("there", "back") for line in hops(doc["directions"][name])
    ]
    notes += [
        Text(f"hop  {name:5} {line}", style="dim")
        for name in ("there", "back")
        for line in _each_hop(doc["directions"][name])
    ]
    notes.append(Text(_clock(doc), style="dim"))
    notes.append(Text(f"probe hosts: {_hosts(doc)}", style="dim"))
    scores = [(name, score) for name in ("there", "back") if (score := doc["directions"][name]["mos"])]
    if scores:
        name, model = min(scores, key=lambda each: each[1]["r"])
        notes.append(
            Text(
                f"MOS {name}: {model['model']}; {model['codec']}: Ie {model['ie']}, Bpl {model['bpl']};"
                f" R {model['r']:.1f} from {model['mouth_to_ear_ms']:.0f} ms mouth to ear,"
                f" loss {percent(model['loss'], 2)}, BurstR {model['burst_ratio']:.2f}",
                style="dim",
            )
        )
    if doc["unasked"]:
        notes.append(Text(f"relays not asked: {', '.join(doc['unasked'])}", style="yellow"))
    return notes


_HOST_FIGURES: tuple[tuple[str, Callable[[Document], str], str], ...] = (
    ("loop lag p99", lambda host: ms(_at(host, "loop_lag_ms", "p99"), 1), " ms"),
    ("CPU", lambda host: f"{host['cpu_cores']:.2f}", " cores"),
    ("steal", lambda host: percent(host["cpu_steal"]), ""),
    ("sent", lambda host: percent(host["sent"]["share"], 0), " of what was due"),
)


def _hosts(doc: Document) -> str:
    """Whether the probe hosts themselves could keep up, one end after the other."""
    told = [host for host in (doc["hosts"]["from"], doc["hosts"]["to"]) if host is not None]
    parts = [f"{name} {' / '.join(map(show, told))}{unit}" for name, show, unit in _HOST_FIGURES]
    return ", ".join(parts)


# --- two calls ------------------------------------------------------------------------------------------------------

# label, value of a document, digits, unit, whether less is better.
_COMPARED: tuple[tuple[str, Callable[[Document], float | None], int, str, bool], ...] = (
    ("set-up", lambda doc: _at(doc, "setup_ms"), 0, " ms", True),
    ("first frame", lambda doc: _at(doc, "phases_ms", "from", "first_frame"), 0, " ms", True),
    ("RTT", lambda doc: _at(doc, "rtt_ms", "p50"), 1, " ms", True),
    (
        "audio one-way, mean of both",
        lambda doc: _mean(_both(doc, "audio", "one_way_ms", "p50")),
        1,
        " ms",
        True,
    ),
    (
        "frame delay, mean of both",
        lambda doc: _mean(_both(doc, "video", "frame_delay_ms", "p50")),
        1,
        " ms",
        True,
    ),
    ("jitter, worse direction", lambda doc: _worst(_both(doc, "audio", "jitter_ms")), 1, " ms", True),
    ("loss, worse direction", lambda doc: _percent(_worst(_both(doc, "audio", "loss"))), 2, " %", True),
    (
        "freezes (webrtc-stats)",
        lambda doc: _worst(_both(doc, "video", "freezes", "webrtc", "count")),
        0,
        "",
        True,
    ),
    ("longest gap", lambda doc: _at(doc, "longest_gap", "ms"), 0, " ms", True),
    ("MOS, worse direction", lambda doc: _at(doc, "mos"), 2, "", False),
)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def compare(
    before: Document, after: Document, names: tuple[str, str] = ("before", "after")
) -> RenderableType:
    """Two calls side by side with the gain, hops and verdicts included."""
    table = grid(title=f"call {_title(before)}")
    table.add_column("")
    for name in (*names, "gain"):
        table.add_column(name, justify="right")
    for label, value, digits, unit, less_is_better in _COMPARED:
        old, new = value(before), value(after)
        table.add_row(
            label,
            _figure(old, digits, unit),
            _figure(new, digits, unit),
            _gain(old, new, digits, unit, less_is_better),
        )
    table.add_row("hops there", *(_chain(doc, "there") for doc in (before, after)), "")
    table.add_row("hops back", *(_chain(doc, "back") for doc in (before, after)), "")
    table.add_row("verdict", styled(before["verdict"]), styled(after["verdict"]), "")
    return Group(
        table,
        *(Text(line, style="yellow") for line in _reservations(before, after)),
        Text(_clock(after) + "; hops as the relays counted them", style="dim"),
    )


def _reservations(before: Document, after: Document) -> list[str]:
    """What else than the thing that is compared may have made the difference."""
    lines = []
    if any(_chain(before, name) != _chain(after, name) for name in ("there", "back")):
        lines.append("the two calls took different paths: the difference is of the paths too")
    counts = [
        doc["directions"][name]["counts"]["repaired"] for doc in (before, after) for name in ("there", "back")
    ]
    if before["plain"] != after["plain"] and not any(counts):
        lines.append("no relay repaired anything in either call: the difference is chance")
    return lines


def _figure(value: float | None, digits: int, unit: str) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _gain(old: float | None, new: float | None, digits: int, unit: str, less_is_better: bool) -> Text:
    """The change with its sign, green where it is for the better."""
    if old is None or new is None:
        return Text("-")
    change = new - old
    if round(change, digits) == 0:
        return Text("=", style="dim")
    better = (change < 0) == less_is_better
    return Text(f"{change:+.{digits}f}{unit}", style="green" if better else "red")


def _chain(doc: Document, name: str) -> str:
    path = doc["directions"][name]["path"]
    return "-" if path is None else " → ".join(path)


def both(doc: Document) -> RenderableType:
    """A call that was made twice: as asked, and without what is being compared."""
    other, asked = doc["calls"]
    return Group(call(asked), Text(), compare(other, asked, (_asked(other), _asked(asked))))
