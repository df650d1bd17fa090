"""The last mile as the operator's own apps measured it: a CSV file, a line for each market, network and edge.

    market,network,edge,rtt_ms,samples,day
    sg,203.0.113.0/24,sg-1,11.5,420,2026-11-20
    sg,203.0.113.0/24,id-1,24,388,2026-11-20
    sg,*,sg-1,19,90000,2026-11-20

`rtt_ms` is the median round trip between those clients and that edge over all of `samples`, `day` the (last) day that
it was taken on; `*` is all of the market. Nothing else that commcli measures starts at a client.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from commcli.errors import BadInput
from commcli.fleet.model import LastMile, Market
from commcli.fleet.record import nearest
from commcli.fleet.yamlfile import Problems, shown
from commcli.relay.table.prefixes import network

COLUMNS = ("market", "network", "edge", "rtt_ms", "samples", "day")
WHOLE_MARKET = "*"
MAX_RTT_MS = 60_000.0
# Edges that are so near each other are equally near: the market's own order holds between them.
SAME_SHARE, SAME_MS = 0.05, 3.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One median. `line` is where it stands in the file."""

    edge: str
    rtt_ms: float
    samples: int
    day: date
    line: int


# (market, network) -> its figures, in the file's order.
Figures = dict[tuple[str, str], list[Figure]]


def read(file: Path, markets: Mapping[str, Market]) -> Figures:
    """Every line of the file. Raises BadInput with all that is wrong, each `file:line: reason`."""
    problems, found = Problems(), Figures()
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            _read_rows(csv.DictReader(text, strict=True), markets, found, problems, shown(file))
    except OSError as error:
        raise BadInput(f"{shown(file)}: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise BadInput(f"{shown(file)}: not a CSV file in UTF-8: {error}") from None
    _check_owners(found, problems, shown(file))
    problems.raise_if_any()
    return found


def _read_rows(
    rows: csv.DictReader[str],
    markets: Mapping[str, Market],
    found: Figures,
    problems: Problems,
    name: str,
) -> None:
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise BadInput(f"{name}:1: the first line must be {','.join(COLUMNS)}")
    for row in rows:
        try:
            market, where, figure = _row(row, markets, rows.line_num)
            known = found.setdefault((market, where), [])
            if any(figure.edge == other.edge for other in known):
                raise ValueError(f"{figure.edge} has a line for {market}, {where} already")
            known.append(figure)
        except ValueError as error:
            problems.add(name, rows.line_num, str(error))


def _row(
    row: Mapping[str | None, str | None], markets: Mapping[str, Market], line: int
) -> tuple[str, str, Figure]:
    """Raises ValueError, which says what is wrong."""
    if None in row or None in row.values():
        raise ValueError(f"must have {len(COLUMNS)} columns")
    market, where, edge, rtt, samples, day = (str(row[column]).strip() for column in COLUMNS)
    if market not in markets:
        raise ValueError(f'unknown market "{market}"{nearest(market, markets)}')
    # A zone knows a client by the markets of its edge: an edge of another market is outside of its law.
    if edge not in markets[market].edges:
        raise ValueError(f'"{edge}" is no edge of market {market}{nearest(edge, markets[market].edges)}')
    if where != WHOLE_MARKET:
        _check_network(where)
    figure = Figure(edge, _number(rtt), _whole(samples), _day(day), line)
    return market, where, figure


def _check_network(text: str) -> None:
    try:
        network(text)
    except ValueError as error:
        raise ValueError(f"network {text[:60]}: {error}") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MAX_RTT_MS:
        raise ValueError(f"rtt_ms must be a number above 0, {MAX_RTT_MS:.0f} at most")
    return value


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 13 and int(text)):
        raise ValueError("samples must be a whole number, 1 or more")
    return int(text)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("day must be a date such as 2026-11-20") from None


def _check_owners(found: Figures, problems: Problems, name: str) -> None:
    """A network is of one market: else nobody can say which law its clients are under."""
    owner: dict[str, str] = {}
    for (market, where), figures in found.items():
        first = owner.setdefault(where, market) if where != WHOLE_MARKET else market
        if first != market:
            problems.add(name, figures[0].line, f"network {where} is one of market {first} already")


def usable(figures: list[Figure], rules: LastMile, now_unix: float) -> list[Figure]:
    """Those with enough samples that are not too old, nor of a day that nobody on Earth has yet."""
    today = datetime.fromtimestamp(now_unix, UTC).date()
    return [f for f in figures if f.samples >= rules.samples and -1 <= (today - f.day).days <= rules.days]


def ordered(edges: tuple[str, ...], figures: list[Figure]) -> tuple[str, ...] | None:
    """A market's edges, the nearest measured ones first, then those without a figure. Edges at the same distance keep
    their order. None if fewer than two are measured, for then nothing is known of which is nearer (one will do where
    there is no other).
    """
    rtt_ms = {figure.edge: figure.rtt_ms for figure in figures}
    waiting = [edge for edge in edges if edge in rtt_ms]
    if len(waiting) < min(2, len(edges)):
        return None
    chosen: list[str] = []
    while waiting:
        best_ms = min(rtt_ms[edge] for edge in waiting)
        near_ms = best_ms + max(SAME_SHARE * best_ms, SAME_MS)
        chosen.append(next(edge for edge in waiting if rtt_ms[edge] <= near_ms))
        waiting.remove(chosen[-1])
    return (*chosen, *(edge for edge in edges if edge not in rtt_ms))
