"""A call for every pair of markets, within a budget: which first, and the table that comes of it. Pure.

One call measures both directions, so both ordered pairs of two markets come from it; and markets that share their
edges, what is called and what is good share a call. The most important come first, and of these the most uncertain:
never measured, then long ago, then bad or contradictory the last times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from commcli.errors import BadInput, OutOfReach, Usage, gravest
from commcli.fleet.model import Fleet
from commcli.probe.ask import Ask, resolve

Row = Mapping[str, Any]

# What may be wished for every call instead of what the pair of markets has in probes.yaml.
WISHES = ("profile", "seconds", "transport")
# Weights of importance in the order; a pair that was never measured counts as one of NEVER_S ago.
WEIGHT = {"high": 4.0, "normal": 1.0, "low": 0.25}
NEVER_S = 30 * 86_400.0
# How much sooner a pair is called again that was not plainly good, and one whose last calls disagree.
UNSETTLED = 4.0
# What a cell says for the exit code of the whole; a starved host has learnt nothing, and nobody is to blame.
_CODES = {"good": 0, "warn": 0, "bad": 1, "invalid": OutOfReach.exit_code}


@dataclass(frozen=True, slots=True)
class Pair:
    """A call between two edges, and every (market, market) that it speaks for, as (first edge's, second's)."""

    a: str
    b: str
    markets: tuple[tuple[str, str], ...]
    ask: Ask

    @property
    def key(self) -> str:
        return "-".join(self.markets[0])

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {"edges": [self.a, self.b], "markets": [list(two) for two in self.markets]}


def chosen(fleet: Fleet, words: Sequence[str]) -> list[str]:
    """The markets that were named, or all. Raises Usage for an unknown one, and for less than two."""
    for word in words:
        if word not in fleet.markets:
            raise Usage(f"no market is called {word!r}")
    markets = list(dict.fromkeys(words)) or list(fleet.markets)
    if len(markets) < 2:
        raise Usage("a matrix needs two markets or more")
    return markets


def pairs_of(fleet: Fleet, markets: Sequence[str], wish: Row) -> tuple[list[Pair], dict[str, str]]:
    """The calls that stand for all pairs of these markets, and {market without an active edge: why}.

    `wish` are fields of Ask for every call; what is not in it is as probes.yaml has it for the pair.
    """
    edges: dict[str, str] = {}
    closed: dict[str, str] = {}
    for market in markets:
        try:
            edges[market] = resolve(fleet, market).node.id
        except BadInput as error:
            closed[market] = str(error)
    found: dict[Hashable, list[tuple[str, str]]] = defaultdict(list)
    for one, other in combinations(edges, 2):
        way = _way(fleet, one, other, wish)
        key, turned = (edges[one], edges[other], way), (edges[other], edges[one], way)
        if turned in found:
            found[turned].append((other, one))
        else:
            found[key].append((one, other))
    pairs = []
    for named in found.values():
        one, other = named[0]
        pairs.append(Pair(edges[one], edges[other], tuple(named), ask_of(fleet, one, other, wish)))
    return pairs, closed


def ask_of(fleet: Fleet, one: str, other: str, wish: Row) -> Ask:
    """The call between two markets."""
    row = fleet.probes.pair(one, other)
    usual = {} if row is None else {name: getattr(row, name) for name in WISHES}
    return Ask(one, other, **{**usual, **wish})


def _way(fleet: Fleet, one: str, other: str, wish: Row) -> Hashable:
    """What two pairs of markets have in common whose calls would be the same call, judged alike."""
    ask = ask_of(fleet, one, other, wish)
    lines = tuple(sorted(fleet.probes.overrides(one, other).items()))
    return ask.profile, ask.seconds, ask.transport, lines


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
                    "profile": pair.ask.profile,
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
    return {**pair.row(), "reason": reason, "code": code}


def exit_code(rows: Iterable[Row], failed: Iterable[Row]) -> int:
    """The gravest of all cells; what the budget left out is no fault."""
    return gravest([*(_CODES[row["verdict"]] for row in rows), *(int(row["code"]) for row in failed)])
