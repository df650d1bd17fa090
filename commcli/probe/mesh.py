"""The relays' own mesh read back over SSH, kept in the store, and shown by node and by market.

Every relay measures every other all the time (STAMP); reading is one question a node. Reading twice keeps nothing
twice. Nodes that are away are named, and what the others measured towards them is still shown.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import OnEvent, Outcome, each
from commcli.remote.ssh import Pool
from commcli.store.sqlite import Store

# What is shown is taken from the last five windows of 10 s that a pair has, none of them older than 15 minutes.
WINDOWS = 5
MAX_AGE_S = 900.0
NODE_TIMEOUT_S = 20.0

Window = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One direction between two nodes. `samples` counts packets; `age_s` is the newest window's. None: unmeasured."""

    rtt_ms: float | None
    loss: float | None
    jitter_ms: float | None
    samples: int
    age_s: float

    def row(self) -> dict[str, Any]:
        return {
            "rtt_ms": self.rtt_ms,
            "loss": self.loss,
            "jitter_ms": self.jitter_ms,
            "samples": self.samples,
            "age_s": self.age_s,
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading back gave: an outcome a node (its number of new windows), and all windows that count now."""

    outcomes: list[Outcome[int]]
    windows: list[dict[str, Any]]


async def read(
    fleet: Fleet,
    nodes: Sequence[Node],
    pool: Pool,
    store: Store,
    *,
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.time,
) -> Reading:
    """Ask `nodes` for the windows that are not kept yet, and keep them. A node's trouble is its outcome."""
    newest: dict[str, int] = {}
    for window in store.mesh(clock() - MAX_AGE_S):
        newest[window["node"]] = max(window["start"], newest.get(window["node"], 0))

    async def one(node: Node) -> int:
        connection = await pool.connect(node)
        answer = await control.ask(connection, node, "mesh", since=newest.get(node.id, 0))
        return store.record_mesh(node.id, answer["windows"])

    outcomes = await each(
        nodes,
        one,
        parallel=fleet.ssh.parallel,
        deadline_s=deadline_s,
        node_timeout_s=NODE_TIMEOUT_S,
        on_event=on_event,
    )
    return Reading(outcomes, store.mesh(clock() - MAX_AGE_S))


def figures(windows: Iterable[Window], now: float) -> dict[tuple[str, str], Figure]:
    """The latest figure of every ordered pair (from, to) that anybody measured.

    Loss and jitter of a direction are those that its sender measured forward; if the sender has none, those that
    the other end measured backward. So a node that is away still has figures, told by its peers.
    """
    kept: dict[tuple[str, str], list[Window]] = defaultdict(list)
    for window in sorted(windows, key=lambda window: int(window["start"]), reverse=True):
        pair = window["node"], window["peer"]
        if len(kept[pair]) < WINDOWS and now - window["start"] <= MAX_AGE_S:
            kept[pair].append(window)
    pairs = {pair for pair, own in kept.items() if own}
    return {
        (a, b): _figure(kept.get((a, b), []), kept.get((b, a), []), now)
        for a, b in pairs | {(b, a) for a, b in pairs}
    }


def _figure(own: Sequence[Window], reverse: Sequence[Window], now: float) -> Figure:
    rtt = [window["rtt_ms"]["p50"] for window in own if window["rtt_ms"]]
    rtt = rtt or [window["rtt_ms"]["p50"] for window in reverse if window["rtt_ms"]]
    loss = _weighted(own, "loss_fwd")
    jitter = _weighted(own, "jitter_fwd_ms")
    source = own or reverse
    return Figure(
        rtt_ms=median(rtt) if rtt else None,
        loss=_weighted(reverse, "loss_back") if loss is None else loss,
        jitter_ms=_weighted(reverse, "jitter_back_ms") if jitter is None else jitter,
        samples=sum(int(window["sent"]) for window in source),
        age_s=now - max(window["start"] + window["seconds"] for window in source),
    )


def _weighted(windows: Sequence[Window], key: str) -> float | None:
    """The mean of what was measured, each window counting by its packets."""
    known = [(float(window[key]), int(window["sent"])) for window in windows if window[key] is not None]
    packets = sum(sent for _, sent in known)
    return sum(value * sent for value, sent in known) / packets if packets else None


def edge_of(fleet: Fleet, market: str) -> str | None:
    """The first active edge of a market."""
    edges = fleet.markets[market].edges
    return next((edge for edge in edges if fleet.nodes[edge].state == "active"), None)


def document(fleet: Fleet, nodes: Sequence[Node], reading: Reading, now: float) -> dict[str, Any]:
    """The heatmap as a document ({"kind": "probe.mesh", ...}): by node, by market, and who is away since when."""
    known = figures(reading.windows, now)
    ids = [node.id for node in nodes]
    edges = {market: edge for market in fleet.markets if (edge := edge_of(fleet, market)) in ids}
    return {
        "schema": 1,
        "kind": "probe.mesh",
        "unix": now,
        "new_windows": sum(outcome.value or 0 for outcome in reading.outcomes),
        "nodes": ids,
        "pairs": [
            {"from": a, "to": b, **known[a, b].row()} for a in ids for b in ids if a != b and (a, b) in known
        ],
        "markets": [
            {"market": market, "name": fleet.markets[market].name, "edge": edge}
            for market, edge in edges.items()
        ],
        "markets_without_edge": sorted(market for market in fleet.markets if edge_of(fleet, market) is None),
        "market_pairs": [
            {
                "from": a,
                "to": b,
                "from_edge": edges[a],
                "to_edge": edges[b],
                **known[edges[a], edges[b]].row(),
            }
            for a in edges
            for b in edges
            if (edges[a], edges[b]) in known
        ],
        "away": [_away(outcome, reading.windows) for outcome in reading.outcomes if outcome.state != "done"],
    }


def _away(outcome: Outcome[int], windows: Sequence[Window]) -> dict[str, Any]:
    """`last_unix` is the end of the last window that we have from it; None when that is over 15 minutes ago."""
    ends = [window["start"] + window["seconds"] for window in windows if window["node"] == outcome.node]
    return {
        "node": outcome.node,
        "state": outcome.state,
        "reason": outcome.reason,
        "last_unix": max(ends, default=None),
    }
