"""A call for every pair of markets, within a budget: which first, and the table that comes of it. Pure.

One call measures both directions, so both ordered pairs of two markets come from it; and markets that share their
edges share a call. The most important come first, and of these the most uncertain: never measured, then long ago, then
bad or contradictory the last times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from commcli.errors import BadInput, OutOfReach, Usage, gravest
from commcli.fleet.model import Fleet
from commcli.probe.ask import resolve

Row = Mapping[str, Any]
Edges = tuple[str, str]

# Weights of importance in the order; a pair that was never measured counts as one of NEVER_S ago.
WEIGHT = {"high": 4.0, "normal": 1.0, "low": 0.25}
NEVER_S = 30 * 86_400.0
# How much sooner a pair is called again that was not plainly good, and one whose last calls disagree.
UNSETTLED = 4.0
# What a cell says for the exit code of the whole; a starved host has learnt nothing, and nobody is to blame.
_CODES = {"good": 0, "warn": 0, "bad": 1, "invalid": OutOfReach.exit_code}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two edges that one call connects, and the (market, market) that it speaks for, as (first's, second's)."""

    a: str
    b: str
    markets: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        return f"{self.a} {self.b}"


def chosen(fleet: Fleet, words: Sequence[str]) -> list[str]:
    """The markets that were named, or all. Raises Usage for an unknown one, and for less than two."""
    for word in words:
        if word not in fleet.markets:
            raise Usage(f"no market is called {word!r}")
    markets = list(dict.fromkeys(words)) or list(fleet.markets)
    if len(markets) < 2:
        raise Usage("a matrix needs two markets or more")
    return markets


def pairs_of(fleet: Fleet, markets: Sequence[str]) -> tuple[list[Pair], dict[str, str]]:
    """The pairs of edges that stand for all pairs of these markets, and {market without an active edge: why}."""
    edges: dict[str, str] = {}
    closed: dict[str, str] = {}
    for market in markets:
        try:
            edges[market] = resolve(fleet, market).node.id
        except BadInput as error:
            closed[market] = str(error)
    found: dict[Edges, list[tuple[str, str]]] = defaultdict(list)
    for one, other in combinations(edges, 2):
        ends = edges[one], edges[other]
        if ends[::-1] in found:
            found[ends[::-1]].append((other, one))
        else:
            found[ends].append((one, other))
    return [Pair(a, b, tuple(named)) for (a, b), named in found.items()], closed


def ordered(fleet: Fleet, pairs: Iterable[Pair], history: Iterable[Row], now: float) -> list[Pair]:
    """The pairs, the one first that is most worth a call. `history`: figures of calls (store: calls_since)."""
    past: dict[frozenset[str], list[Row]] = defaultdict(list)
    for row in history:
        if row["valid"] and not (row["direct"] or row["via"] or row["plain"]):
            past[frozenset((row["from_node"], row["to_node"]))].append(row)
    weighed = [(_worth(fleet, pair, past[frozenset((pair.a, pair.b))], now), pair) for pair in pairs]
    return [pair for _, pair in sorted(weighed, key=lambda row: -row[0])]


def _worth(fleet: Fleet, pair: Pair, past: Sequence[Row], now: float) -> float:
    rows = [fleet.probes.pair(*markets) for markets in pair.markets]
    weight = max(WEIGHT[row.importance if row else "normal"] for row in rows)
    last = max((row["unix"] for row in past), default=None)
    age_s = NEVER_S if last is None else min(NEVER_S, max(0.0, now - last))
    words = {row["verdict"] for row in sorted(past, key=lambda row: -row["unix"])[:3]}
    return weight * age_s * (UNSETTLED if words - {"good"} else 1.0)


# --- the table ------------------------------------------------------------------------------------------------------


def cells(pair: Pair, document: Row) -> list[dict[str, Any]]:
    """The cells of both directions of every two markets that this call speaks for."""
    common = {name: document[name] for name in ("unix", "connected", "valid", "invalid_reason", "setup_ms")}
    rtt = document["rtt_ms"]
    found = []
    for one, other in pair.markets:
        for name, ends, edges in (
            ("there", (one, other), (pair.a, pair.b)),
            ("back", (other, one), (pair.b, pair.a)),
        ):
            direction = document["directions"][name]
            audio = direction["audio"] or {}
            one_way = audio.get("one_way_ms")
            found.append(
                {
                    "from": ends[0],
                    "to": ends[1],
                    "edges": list(edges),
                    **common,
                    "verdict": direction["verdict"],
                    "reasons": direction["reasons"],
                    "rtt_ms": rtt and rtt["p50"],
                    "mos": direction["mos"] and direction["mos"]["mos"],
                    "loss": audio.get("loss"),
                    "one_way_ms": one_way and one_way["p50"],
                    "path": direction["path"],
                }
            )
    return found


def untried(pair: Pair, reason: str, code: int) -> dict[str, Any]:
    """A pair whose call could not be tried."""
    return {
        "edges": [pair.a, pair.b], "markets": [list(two) for two in pair.markets], "reason": reason, "code": code,
    }  # fmt: skip


def left(pair: Pair) -> dict[str, Any]:
    """A pair that the budget did not reach."""
    return {"edges": [pair.a, pair.b], "markets": [list(two) for two in pair.markets]}


def exit_code(rows: Iterable[Row], failed: Iterable[Row]) -> int:
    """The gravest of all cells; what the budget left out is no fault."""
    return gravest([*(_CODES[row["verdict"]] for row in rows), *(int(row["code"]) for row in failed)])
