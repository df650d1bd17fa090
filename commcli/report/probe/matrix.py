"""Draws a matrix of calls: a cell for each direction between two markets, and what is to be said of the bad ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import STYLES, grid, ms, percent, styled

Document = Mapping[str, Any]


def matrix(doc: Document) -> RenderableType:
    """MOS and RTT of every cell in the colour of its verdict; then the reasons, what failed, and what is left."""
    cells = {(cell["from"], cell["to"]): cell for cell in doc["cells"]}
    ask = doc["ask"]
    title = (
        f"calls between markets: MOS and RTT ms ({ask['profile']}, {ask['seconds']:g} s, {ask['transport']})"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), _table(doc, cells)]
    parts += [_reason(cell) for cell in doc["cells"] if cell["verdict"] not in ("good", "warn")]
    parts += [
        Text.assemble("not tried: ", " ".join(row["edges"]), " ", styled("failed"), f" {row['reason']}")
        for row in doc["failed"]
    ]
    parts += [Text(why, style="yellow") for why in doc["markets_without_edge"].values()]
    parts.append(Text(_summary(doc), style="dim"))
    return Group(*parts)


def _table(doc: Document, cells: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    table = grid()
    table.add_column("from \\ to", no_wrap=True)
    for market in doc["markets"]:
        table.add_column(market, justify="right")
    for one in doc["markets"]:
        table.add_row(one, *(_cell(cells.get((one, other))) for other in doc["markets"]))
    return table


def _cell(cell: Mapping[str, Any] | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    if cell["verdict"] == "invalid":
        return Text("invalid", style="dim")
    mos = "-" if cell["mos"] is None else f"{cell['mos']:.2f}"
    return Text(f"{mos} {ms(cell['rtt_ms'])}", style=STYLES.get(cell["verdict"], ""))


def _reason(cell: Mapping[str, Any]) -> Text:
    ends = f"{cell['from']} → {cell['to']} ({' → '.join(cell['path'] or cell['edges'])})"
    why = cell["invalid_reason"] if cell["verdict"] == "invalid" else "; ".join(cell["reasons"])
    return Text.assemble(f"{ends} ", styled(cell["verdict"]), f" {why}, loss {percent(cell['loss'], 2)}")


def _summary(doc: Document) -> str:
    words: Sequence[str] = [cell["verdict"] for cell in doc["cells"]]
    counts = ", ".join(
        f"{words.count(word)} {word}" for word in ("good", "warn", "bad", "invalid") if word in words
    )
    text = f"matrix {doc['id']}: {len(words)} directions measured ({counts or 'none'})"
    if doc["left"]:
        text += f"; {len(doc['left'])} pairs of edges are left: commcli probe matrix --resume"
    return text
