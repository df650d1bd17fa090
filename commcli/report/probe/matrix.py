"""Draws a matrix of calls: a cell for each direction between two markets, and what is to be said of the bad ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import STYLES, capped, grid, ms, percent, styled

Document = Mapping[str, Any]
Cell = Mapping[str, Any]

_WORDS = ("good", "warn", "bad", "invalid")
# So many markets fit beside each other in 120 columns with MOS and RTT, with MOS alone, and with one letter a cell.
_WIDE, _NARROW, _MOST = 11, 22, 38
_MOST_REASONS = 20


def matrix(doc: Document) -> RenderableType:
    """Every cell in the colour of its verdict; then the reasons, the worst first, what failed, and what is left."""
    wish = " ".join(
        f"{value:g} s" if name == "seconds" else str(value) for name, value in doc["wish"].items()
    )
    shown = "MOS and RTT ms" if len(doc["markets"]) <= _WIDE else "MOS" if _is_narrow(doc) else "verdicts"
    title = f"calls between markets: {shown}" + (f" ({wish})" if wish else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    if len(doc["markets"]) <= _MOST:
        parts.append(_table(doc))
    else:
        parts.append(Text(f"{len(doc['markets'])} markets are too many for a table: --json has every cell"))
    parts += _reasons(doc["cells"])
    parts += _failures(doc["failed"])
    parts += [Text(why, style="yellow") for why in doc["markets_without_edge"].values()]
    parts.append(Text(_summary(doc), style="dim"))
    return Group(*parts)


def _is_narrow(doc: Document) -> bool:
    return len(doc["markets"]) <= _NARROW


def _table(doc: Document) -> Table:
    cells = {(cell["from"], cell["to"]): cell for cell in doc["cells"]}
    table = grid()
    if len(doc["markets"]) > _WIDE:
        table.padding = (0, 1, 0, 0)
    table.add_column("from \\ to" if _is_narrow(doc) else "", no_wrap=True)
    for market in doc["markets"]:
        table.add_column(market, justify="right", no_wrap=True)
    for one in doc["markets"]:
        table.add_row(one, *(_cell(doc, cells.get((one, other))) for other in doc["markets"]))
    return table


def _cell(doc: Document, cell: Cell | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    word = cell["verdict"]
    style, is_wide = STYLES.get(word, "dim"), len(doc["markets"]) <= _WIDE
    if not _is_narrow(doc):
        # b for bad and i for invalid say the same without a colour.
        return Text(word[0], style=style)
    if word == "invalid" or cell["mos"] is None:
        return Text(word if is_wide else word[:4], style=style)
    return Text(f"{cell['mos']:.2f}" + (f" {ms(cell['rtt_ms'])}" if is_wide else ""), style=style)


def _reasons(cells: Sequence[Cell]) -> list[Text]:
    """What is wrong, once a call and direction, with all the markets that it is wrong for."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell["verdict"] in ("bad", "invalid"):
            loss = "" if cell["loss"] is None else f", loss {percent(cell['loss'], 2)}"
            why = (
                cell["invalid_reason"] if cell["verdict"] == "invalid" else "; ".join(cell["reasons"]) + loss
            )
            # Of a starved host's call nothing is told, so neither is its path: both directions are one line.
            ends = sorted(cell["edges"]) if cell["verdict"] == "invalid" else cell["path"] or cell["edges"]
            path = (" - " if cell["verdict"] == "invalid" else " → ").join(ends)
            found.setdefault((cell["verdict"], path, why), []).append(f"{cell['from']} → {cell['to']}")
    rows = sorted(found.items(), key=lambda row: _WORDS.index(row[0][0]))
    shown, more = capped(rows, _MOST_REASONS)
    lines = [
        Text.assemble(styled(word), f" {', '.join(named)} ({path}): {why}")
        for (word, path, why), named in shown
    ]
    return [*lines, Text(more)] if more else lines


def _failures(failed: Sequence[Mapping[str, Any]]) -> list[Text]:
    found: dict[str, list[str]] = {}
    for row in failed:
        found.setdefault(row["reason"], []).extend("-".join(two) for two in row["markets"])
    return [
        Text.assemble(styled("failed"), f" not tried: {', '.join(named)}: {why}")
        for why, named in found.items()
    ]


def _summary(doc: Document) -> str:
    words = Counter(cell["verdict"] for cell in doc["cells"])
    counts = ", ".join(f"{words[word]} {word}" for word in _WORDS if words[word])
    text = f"matrix {doc['id'] or '-'}: {words.total()} directions measured ({counts or 'none'})"
    text += f" by {doc['calls']} calls, {doc['cpu_seconds']:.0f} CPU seconds of the nodes"
    again = [f"{len(doc['left'])} calls are left"] if doc["left"] else []
    if doc["failed"] or words["invalid"]:
        again.append("some told nothing")
    return text + (f"; {' and '.join(again)}: commcli probe matrix --resume" if again else "")
