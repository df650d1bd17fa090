"""What the next table would be if nodes were down, zones other ones, or a node more there; beside today's plan. Pure.

A node that does not exist has no measurements. It is assumed to stand beside one that has: each of its edges is as that
one's is, and between the two of them there is ASSUMED_MS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from commcli.errors import Usage
from commcli.fleet.model import Fleet
from commcli.fleet.record import is_id
from commcli.routing.decision import Decision, means_ms, obstacle, path_ms
from commcli.routing.table import Pair, Path, Table

SCHEMA = 1
# Of two machines in one city.
ASSUMED_MS = 1.0

Document = dict[str, Any]
Window = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Addition:
    """A node to plan with: one of the inventory as if it were active, or (`like`) one that stands beside another."""

    node: str
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """One node's pairs by their primary paths: as an intermediate relay and as an end. None: not in that plan."""

    node: str
    transit_before: int | None
    transit_after: int | None
    edge_before: int | None
    edge_after: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """A pair whose primary changes. RTTs are today's in ms, None where unmeasured; `why` of one that loses its path."""

    pair: Pair
    before: Path | None
    after: Path | None
    rtt_before_ms: float | None
    rtt_after_ms: float | None
    why: str = ""

    @property
    def slower_ms(self) -> float:
        """How much slower it gets; 0 where that is not known."""
        if self.rtt_before_ms is None or self.rtt_after_ms is None:
            return 0.0
        return round(self.rtt_after_ms - self.rtt_before_ms, 3)


@dataclass(frozen=True, slots=True)
class Serving:
    """A market whose first edge changes; None: nobody serves it."""

    market: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Consequence:
    """All that follows. `lost` pairs have no path any more though both their ends are there; `ended` have an end that
    is down, `new` ones an end that was not there. `bare` pairs lose every backup.
    """

    moves: tuple[Move, ...]
    lost: tuple[Move, ...]
    ended: int
    new: int
    bare: int
    loads: tuple[Load, ...]
    markets: tuple[Serving, ...]
    mean_rtt_ms: tuple[float | None, float | None]

    @property
    def worse(self) -> list[Move]:
        """The pairs that get slower, the slowest first."""
        return sorted((move for move in self.moves if move.slower_ms > 0), key=lambda move: -move.slower_ms)

    @property
    def better(self) -> list[Move]:
        """The pairs that get faster, the fastest first."""
        return sorted((move for move in self.moves if move.slower_ms < 0), key=lambda move: move.slower_ms)

    @property
    def is_harmless(self) -> bool:
        """Nobody loses a path, and no market its last edge."""
        return not self.lost and all(serving.after is not None for serving in self.markets)


def read_additions(texts: Iterable[str], fleet: Fleet) -> list[Addition]:
    """All of them; one that stands twice counts once. Raises Usage."""
    found: dict[str, Addition] = {}
    for text in texts:
        added = read_addition(text, fleet)
        if found.setdefault(added.node, added) != added:
            raise Usage(f"--add {text}: {added.node} is added otherwise already")
    return list(found.values())


def read_addition(text: str, fleet: Fleet) -> Addition:
    """`hk-2` or `hk-2=hk-1`, as --add takes it. Raises Usage."""
    node, _, like = text.partition("=")
    if not like:
        if node not in fleet.nodes:
            raise Usage(f"--add {text}: no such node", hint=f"--add {node}=NODE assumes one beside NODE.")
        return Addition(node)
    if not is_id(node):
        raise Usage(f"--add {text}: {node!r} can not be a node's name")
    if like not in fleet.nodes or like == node:
        raise Usage(f"--add {text}: {like} is no other node")
    return Addition(node, like)


def with_additions(fleet: Fleet, additions: Sequence[Addition]) -> Fleet:
    """The fleet with these nodes, all of them active; a new one serves the markets of the one that it is like."""
    nodes, markets = dict(fleet.nodes), dict(fleet.markets)
    for added in additions:
        if added.node in nodes:
            nodes[added.node] = replace(nodes[added.node], state="active")
            continue
        assert added.like is not None
        nodes[added.node] = replace(nodes[added.like], id=added.node, state="active")
        for market in list(markets.values()):
            if added.like in market.edges:
                at = market.edges.index(added.like) + 1
                markets[market.id] = replace(
                    market, edges=(*market.edges[:at], added.node, *market.edges[at:])
                )
    return replace(fleet, nodes=nodes, markets=markets)


def assumed(windows: Iterable[Window], additions: Sequence[Addition]) -> list[Window]:
    """The mesh windows with those of the nodes that are `like` another in place of whatever they had."""
    found = list(windows)
    for added in additions:
        if added.like is not None:
            rest = [row for row in found if added.node not in (row["node"], row["peer"])]
            found = rest + list(_beside(rest, added.node, added.like))
    return found


def _beside(windows: Sequence[Window], new: str, like: str) -> Iterator[Window]:
    between = dict.fromkeys(("min", "p50", "p95", "p99"), ASSUMED_MS)
    starts = set()
    for row in windows:
        if row["node"] == like:
            yield {**row, "node": new}
        elif row["peer"] == like:
            yield {**row, "peer": new}
        if row["node"] == like and row["start"] not in starts:
            starts.add(row["start"])
            clean = {**row, "received": row["sent"], "loss": 0.0, "loss_fwd": 0.0, "loss_back": 0.0}
            clean |= {"rtt_ms": between, "jitter_fwd_ms": 0.0, "jitter_back_ms": 0.0}
            yield {**clean, "node": new, "peer": like}
            yield {**clean, "node": like, "peer": new}


def consequence(
    now: Decision, then: Decision, fleet: Fleet, other: Fleet, down: Collection[str]
) -> Consequence:
    """What changes from the plan `now` on `fleet` to the plan `then` on the `other` one, its `down` nodes away."""
    old, new = now.table.routes, then.table.routes
    gone = [pair for pair in old if pair not in new]
    return Consequence(
        moves=tuple(
            _move(now, then, pair)
            for pair in sorted(old.keys() & new.keys())
            if old[pair].primary != new[pair].primary
        ),
        lost=tuple(_move(now, then, pair) for pair in sorted(gone) if not set(pair) & set(down)),
        ended=sum(1 for pair in gone if set(pair) & set(down)),
        new=sum(1 for pair in new if not set(pair) <= fleet.nodes.keys()),
        bare=sum(
            1
            for pair in old.keys() & new.keys()
            if old[pair].backup is not None and new[pair].backup is None and new[pair].last_resort is None
        ),
        loads=tuple(_loads(now.table, then.table)),
        markets=tuple(_markets(fleet, other, down)),
        mean_rtt_ms=_means(now, then),
    )


def _move(now: Decision, then: Decision, pair: Pair) -> Move:
    before = now.table.routes[pair].primary
    route = then.table.routes.get(pair)
    after = route.primary if route else None
    return Move(
        pair,
        before,
        after,
        path_ms(now, now.estimate.rtt_ms, before),
        path_ms(then, then.estimate.rtt_ms, after) if after else None,
        "" if after else obstacle(then, pair) or "no usable path",
    )


def _loads(before: Table, after: Table) -> Iterator[Load]:
    """Of every node of either plan, in order."""
    counts = [_counts(table) for table in (before, after)]
    for node in sorted({*before.nodes, *after.nodes}):
        old, new = (
            (transit[node], edge[node]) if node in table.nodes else (None, None)
            for table, (transit, edge) in zip((before, after), counts, strict=True)
        )
        yield Load(node, old[0], new[0], old[1], new[1])


def _counts(table: Table) -> tuple[Counter[str], Counter[str]]:
    paths = [route.primary for route in table.routes.values()]
    transit = Counter(node for path in paths for node in path[1:-1])
    return transit, Counter(node for path in paths for node in (path[0], path[-1]))


def _markets(fleet: Fleet, other: Fleet, down: Collection[str]) -> Iterator[Serving]:
    for market in sorted(other.markets):
        before, after = _serving(fleet, market, ()), _serving(other, market, down)
        if before != after:
            yield Serving(market, before, after)


def _serving(fleet: Fleet, market: str, down: Collection[str]) -> str | None:
    """The first edge that takes new clients."""
    edges = fleet.markets[market].edges
    return next((node for node in edges if node not in down and fleet.nodes[node].state != "drain"), None)


def _means(now: Decision, then: Decision) -> tuple[float | None, float | None]:
    """Mean RTT over the pairs that have a measured path both times."""
    both = now.table.routes.keys() & then.table.routes.keys()
    return means_ms((_primary_ms(now, pair), _primary_ms(then, pair)) for pair in both)


def _primary_ms(decision: Decision, pair: Pair) -> float | None:
    return path_ms(decision, decision.estimate.rtt_ms, decision.table.routes[pair].primary)


def document(
    found: Consequence,
    now: Decision,
    then: Decision,
    *,
    fleet: str,
    down: Sequence[str],
    zones: str | None,
    additions: Sequence[Addition],
) -> Document:
    """What `route whatif` answers; `zones` names the file that was taken for the inventory's."""
    counted = {"pairs_before": len(now.table.routes), "pairs_after": len(then.table.routes)}
    held = now.in_force
    return {
        "schema": SCHEMA,
        "kind": "route.whatif",
        "fleet": fleet,
        "down": list(down),
        "zones": zones,
        "added": [asdict(each) for each in additions],
        "assumed_ms": ASSUMED_MS if any(each.like for each in additions) else None,
        "unmeasured": [each.node for each in additions if not _is_measured(then, each.node)],
        "in_force": held.serial if held else None,
        "plan_changes": None if held is None else _differing(held, now.table),
        "counts": {
            **counted,
            **{"moved": len(found.moves), "worse": len(found.worse), "better": len(found.better)},
            **{"lost": len(found.lost), "ended": found.ended, "new": found.new, "bare": found.bare},
        },
        "load_is": "pairs",
        "loads": [asdict(load) for load in found.loads],
        "mean_rtt_ms": {"before": found.mean_rtt_ms[0], "after": found.mean_rtt_ms[1]},
        "worse": [_row(move) for move in found.worse],
        "better": [_row(move) for move in found.better],
        "lost": [_row(move) for move in found.lost],
        "markets": [asdict(serving) for serving in found.markets],
        "harmless": found.is_harmless,
    }


def _is_measured(decision: Decision, node: str) -> bool:
    at = decision.position[node]
    return bool(decision.estimate.measured[at].any() or decision.estimate.measured[:, at].any())


def _differing(held: Table, planned: Table) -> int:
    """The pairs whose primary today's plan changes anyway."""
    pairs = held.routes.keys() | planned.routes.keys()
    old, new = held.routes, planned.routes
    return sum(1 for pair in pairs if _primary(old.get(pair)) != _primary(new.get(pair)))


def _primary(route: Any) -> Path | None:
    return None if route is None else route.primary


def _row(move: Move) -> Document:
    ends = {"from": move.pair[0], "to": move.pair[1]}
    return {**ends, **{key: value for key, value in asdict(move).items() if key != "pair"}}
