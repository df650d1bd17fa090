"""Draws the mesh: heatmaps of markets and nodes, and who is away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import capped, grid, styled

Document = Mapping[str, Any]

_STYLES = ("black on green", "black on bright_yellow", "black on dark_orange", "white on red")
_LOST = "lost"
# More of them are no picture: the worst directions are shown then.
MOST_CELLS = 40 * 40
WORST = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """`key` of a pair, with {} for the percentile. `heat`: the values up to which a cell is fine, fair, and poor."""

    title: str
    key: str
    heat: tuple[float, float, float]
    digits: int = 0
    scale: float = 1.0
    unit: str = ""


FIGURES = {
    "rtt": Figure("RTT, ms", "rtt_{}_ms", (100, 200, 320)),
    # A call is poor from here on: reference/relay-and-probes.md, "Poor call (VIA)".
    "loss": Figure("loss", "loss", (0.001, 0.005, 0.012), 2, 100, "%"),
    "jitter": Figure("jitter (RFC 3550), ms", "jitter_ms", (3, 6, 12), 1),
    "pdv": Figure("delay variation (RFC 5481), ms", "pdv_{}_ms", (5, 12, 30), 1),
    # ITU-T G.114.
    "delay": Figure("one-way delay, ms", "delay_{}_ms", (50, 150, 400)),
    "reordered": Figure("reordered packets", "reordered", (0, 2, 10)),
    "duplicates": Figure("duplicates of packets or answers", "duplicates", (0, 2, 10)),
    "burst": Figure("longest run of lost packets", "longest_burst", (0, 1, 3)),
    "age": Figure("age of the newest window, s", "age_s", (60, 330, 600)),
}
_DEFAULT_VIEW = {"by": None, "figure": "rtt", "percentile": "p50"}


def mesh(doc: Document) -> RenderableType:
    """Heatmaps by market and by node, then who is away."""
    return Group(*_maps(doc), *_remarks(doc))


def mesh_on_screen(doc: Document) -> RenderableType:
    """As `mesh`, but who is away first: a screen that is too small shows the top."""
    return Group(*_remarks(doc), Text(), *_maps(doc))


def _maps(doc: Document) -> Iterator[RenderableType]:
    view = doc.get("view", _DEFAULT_VIEW)
    figure, percentile = FIGURES[view["figure"]], view["percentile"]
    named = figure.title if "{}" not in figure.key else f"{figure.title}, {percentile}"
    pairs = {(pair["from"], pair["to"]): pair for pair in doc["pairs"]}
    edges, nodes, others = _markets_by_edge(doc), doc["nodes"], doc.get("peers", [])
    rows = [edge for edge in edges if edge in nodes]
    if rows and view["by"] != "node":
        yield Text(f"{named} between markets (each by its first active edge)", style="bold")
        names = {edge: f"{' '.join(markets)} ({edge})" for edge, markets in edges.items()}
        heads = {edge: "\n".join(_wrapped(markets)) for edge, markets in edges.items()}
        far = [edge for edge in edges if edge in others]
        yield from _squares(rows, far, names, heads, pairs, figure, percentile)
    if view["by"] == "node" or (view["by"] is None and set(nodes) != set(rows)):
        yield Text(f"{named} between nodes", style="bold")
        names = {node: node for node in (*nodes, *others)}
        yield from _squares(nodes, others, names, names, pairs, figure, percentile)


def _squares(
    own: Sequence[str],
    others: Sequence[str],
    names: Mapping[str, str],
    heads: Mapping[str, str],
    pairs: Mapping[tuple[str, str], Document],
    figure: Figure,
    percentile: str,
) -> Iterator[RenderableType]:
    """From `own` nodes to all, and from all others to them."""
    if len(own) * (len(own) + len(others)) > MOST_CELLS:
        known = [pair for (a, b), pair in pairs.items() if a in names and b in names]
        yield _worst(known, figure, percentile)
        return
    yield _Square(_only(names, own), _only(heads, [*own, *others]), pairs, figure, percentile)
    if others:
        yield _Square(_only(names, others), _only(heads, own), pairs, figure, percentile)


def _only(labels: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    return {node: labels[node] for node in labels if node in wanted}


def _markets_by_edge(doc: Document) -> dict[str, list[str]]:
    """Markets that share an edge share its figures, so they share a row."""
    edges: dict[str, list[str]] = {}
    for row in doc["markets"]:
        edges.setdefault(row["edge"], []).append(row["market"])
    return edges


def _wrapped(words: Sequence[str], per_line: int = 3) -> list[str]:
    return [" ".join(words[at : at + per_line]) for at in range(0, len(words), per_line)]


# --- cells ----------------------------------------------------------------------------------------------------------


def _value(pair: Document, figure: Figure, percentile: str) -> float | None:
    key = figure.key.format(percentile)
    value: float | None = pair.get("rtt_ms" if key == "rtt_p50_ms" else key)
    return value


def _is_lost(pair: Document) -> bool:
    return bool(pair["unanswered_s"])


def _shown(pair: Document, figure: Figure, percentile: str) -> str:
    """The figure, beside the RTT also the loss of that direction if there is any; a dash where nothing was measured."""
    if _is_lost(pair) and figure.key != "age_s":
        return _LOST
    value = _value(pair, figure, percentile)
    if value is None:
        return "-"
    text = f"{figure.scale * value:.{figure.digits}f}{figure.unit}"
    if figure is FIGURES["rtt"] and pair["loss"]:
        text += f" {100 * pair['loss']:.1f}%"
    return text


def _heat(pair: Document, figure: Figure, percentile: str) -> str:
    value = _value(pair, figure, percentile)
    if _is_lost(pair) and figure.key != "age_s":
        return _STYLES[-1]
    if value is None:
        return ""
    return next(
        (style for style, most in zip(_STYLES, figure.heat, strict=False) if value <= most), _STYLES[-1]
    )


def _cell(pair: Document | None, figure: Figure, percentile: str) -> Text:
    if pair is None:
        return Text(" - ")
    return Text(f" {_shown(pair, figure, percentile)} ", style=_heat(pair, figure, percentile))


@dataclass(frozen=True, slots=True)
class _Square:
    """Rows are senders, columns receivers. Columns that find no room go on below."""

    rows: Mapping[str, str]  # node -> label
    columns: Mapping[str, str]
    pairs: Mapping[tuple[str, str], Document]
    figure: Figure
    percentile: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        cells = {
            column: [_cell(self.pairs.get((row, column)), self.figure, self.percentile) for row in self.rows]
            for column in self.columns
        }
        left = max(len("from \\ to"), *(len(label) for label in self.rows.values()))
        block: list[str] = []
        room = options.max_width - left
        for column in self.columns:
            width = 1 + max(
                *map(len, self.columns[column].split("\n")), *(cell.cell_len for cell in cells[column])
            )
            if block and width > room:
                yield self._table(block, cells)
                block, room = [], options.max_width - left
            block.append(column)
            room -= width
        yield self._table(block, cells)

    def _table(self, columns: Sequence[str], cells: Mapping[str, Sequence[Text]]) -> Table:
        table = grid()
        table.add_column("from \\ to", no_wrap=True)
        for column in columns:
            table.add_column(self.columns[column], justify="center", no_wrap=True)
        for place, label in enumerate(self.rows.values()):
            table.add_row(label, *(cells[column][place] for column in columns))
        return table


def _worst(pairs: Sequence[Document], figure: Figure, percentile: str) -> RenderableType:
    """The directions with the largest figures, those first that lose everything."""
    known = [pair for pair in pairs if _is_lost(pair) or _value(pair, figure, percentile) is not None]
    known.sort(key=lambda pair: (not _is_lost(pair), -(_value(pair, figure, percentile) or 0)))
    shown, more = capped(known, WORST)
    table = grid("from", "to", figure.title, "loss", "packets", title=f"the {len(shown)} worst directions")
    for pair in shown:
        loss = "-" if pair["loss"] is None else f"{100 * pair['loss']:.2f}%"
        table.add_row(pair["from"], pair["to"], _cell(pair, figure, percentile), loss, f"{pair['samples']}")
    return Group(table, Text(more, style="dim")) if more else table


# --- words ----------------------------------------------------------------------------------------------------------


def _remarks(doc: Document) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(_summary(doc), style="dim")]
    if doc["markets_without_edge"]:
        parts.append(Text(f"no active edge: {' '.join(doc['markets_without_edge'])}", style="yellow"))
    for rows, told in ((doc["away"], _away), (doc.get("silent", []), _silent)):
        shown, more = capped(rows, WORST)
        parts += [told(row, doc["unix"]) for row in shown]
        parts += [Text(f"{told.__name__.strip('_')}: {more}")] if more else []
    return parts


def _summary(doc: Document) -> str:
    if not doc["pairs"]:
        return f"nothing measured in the last 15 minutes; {doc['new_windows']} new windows kept."
    samples = sum(pair["samples"] for pair in doc["pairs"])
    ages = [pair["age_s"] for pair in doc["pairs"]]
    unsure = [pair["clock_error_ms"] for pair in doc["pairs"] if pair.get("clock_error_ms") is not None]
    figure = doc.get("view", _DEFAULT_VIEW)["figure"]
    notes = {
        "rtt": " % is loss from row to column.",
        "delay": f" Clocks agree within {max(unsure):.1f} ms." if unsure else " No synchronised clocks.",
    }
    return (
        f"{len(doc['pairs'])} directions, {samples} packets, newest {min(ages):.0f} s and oldest {max(ages):.0f} s old;"
        f" {doc['new_windows']} new windows kept.{notes.get(figure, '')}"
    )


def _away(row: Document, now: float) -> Text:
    last, answered = row["last_unix"], row.get("answered_unix")
    since = "never read" if last is None else f"last window {_moment(last, now)}"
    heard = (
        "not heard by its peers within two days"
        if answered is None
        else f"heard by its peers {_moment(answered, now)}"
    )
    return Text.assemble(
        "away: ", row["node"], " ", styled(row["state"]), f" {row['reason']} ({since}; {heard})"
    )


def _silent(row: Document, now: float) -> Text:
    last = row["last_unix"]
    since = "it never measured anything" if last is None else f"its newest window ended {_moment(last, now)}"
    return Text(f"silent: {row['node']} answers, but {since}", style="yellow")


def _moment(unix: float, now: float) -> str:
    """As 12:04:05Z, 3 min ago; with its day if that is not today's. No time is beyond it."""
    try:
        then, today = datetime.fromtimestamp(unix, UTC), datetime.fromtimestamp(now, UTC).date()
    except (ValueError, OverflowError, OSError):
        return f"at an impossible time ({unix:g} s)"
    return f"{then:{'' if then.date() == today else '%Y-%m-%d '}%H:%M:%SZ}, {_ago(now - unix)} ago"


def _ago(seconds: float) -> str:
    for unit, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"
