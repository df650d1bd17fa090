"""The relays' own mesh read back over SSH, kept in the store, and shown by node and by market.

Every relay measures every other all the time (STAMP); reading is one question a node. Reading twice, or two readers at
once, keeps nothing twice. Nodes that are away are named, and what the others measured towards them is still shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.fleet.model import Fleet, Node
from commcli.probe import told
from commcli.probe.direction import MAX_AGE_S, MOST_WINDOWS, Direction, Pair, in_order
from commcli.remote import control
from commcli.remote.outcome import Failed, OnEvent, Outcome, each
from commcli.remote.ssh import Pool
from commcli.store.door import StoreBroken
from commcli.store.latest import Newest
from commcli.store.sqlite import Store
from commcli.store.windows import AHEAD_S

NODE_TIMEOUT_S = 20.0
# A window that ended MAX_AGE_S ago began as much earlier as the longest one is long.
LONGEST_WINDOW_S = 300.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading back gave: an outcome a node, its value the number of new windows."""

    outcomes: list[Outcome[int]]


async def read(
    fleet: Fleet,
    nodes: Sequence[Node],
    pool: Pool,
    store: Store,
    *,
    on_event: OnEvent | None = None,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.time,
    explore: Mapping[str, Sequence[str]] | None = None,
) -> Reading:
    """Ask `nodes` for the windows that are not kept yet, and keep them. A node's trouble is its outcome; raises
    StoreBroken when they can not be kept. `explore`: which peers each of them is to look at more closely from now on.
    """
    now = clock()
    known = store.mesh_newest(now - MAX_AGE_S - LONGEST_WINDOW_S, now + AHEAD_S)

    broken: list[StoreBroken] = []

    async def one(node: Node) -> int:
        connection = await pool.connect(node)
        since = resume(known.get(node.id, {}), clock())
        closer: dict[str, Any] = {}
        if explore is not None and node.id in explore:
            closer["explore"] = list(explore[node.id])
        answer = await control.ask(connection, node, "mesh", since=since, **closer)
        windows, ahead_s = told.windows(node.id, answer, clock())
        try:
            new = store.record_mesh(node.id, windows)
        except StoreBroken as error:
            broken.append(error)
            raise
        if ahead_s:
            raise Failed(
                f"node {node.id}: its clock is, or was, at least {ahead_s:.0f} s ahead of this machine's: "
                "mesh windows of the future are left out"
            )
        return new

    outcomes = await each(
        nodes,
        one,
        parallel=fleet.ssh.parallel,
        deadline_s=deadline_s,
        node_timeout_s=NODE_TIMEOUT_S,
        on_event=on_event,
    )
    if broken:
        raise broken[0]
    return Reading(outcomes)


def resume(newest: Mapping[str, Newest], now: float) -> int:
    """Which windows to ask a node for: those that ended after this. `newest` is what is kept from it, by peer.

    Windows that end together are closed one after the other, and a reader may come in between: so it is when the
    peer ended whose windows are furthest behind. Peers that are two windows behind are no peers any more.
    """
    latest = max((kept.end for kept in newest.values()), default=0)
    if latest > now + AHEAD_S:
        # That clock was wrong, and was put right or not: only all of it is sure to hold what is new.
        return 0
    return min((kept.end for kept in newest.values() if kept.end + 2 * kept.seconds > latest), default=0)


def latest(store: Store, nodes: Collection[str] | None, now: float) -> dict[Pair, Direction]:
    """The latest of every direction that begins or ends at one of `nodes` (None: all of them)."""
    windows = store.mesh_latest(now - MAX_AGE_S - LONGEST_WINDOW_S, now + AHEAD_S, MOST_WINDOWS, nodes)
    return dict(in_order(windows, now))


def edge_of(fleet: Fleet, market: str) -> str | None:
    """The first active edge of a market."""
    edges = fleet.markets[market].edges
    return next((edge for edge in edges if fleet.nodes[edge].state == "active"), None)


def document(
    fleet: Fleet, nodes: Sequence[Node], reading: Reading, store: Store, now: float
) -> dict[str, Any]:
    """The heatmap as a document ({"kind": "probe.mesh", ...}): by node, by market, and who is away since when.

    `pairs` begin or end at one of `nodes`; `peers` are the other nodes that they know of.
    """
    ids = {node.id: None for node in nodes}
    known = latest(store, None if len(ids) == len(fleet.nodes) else ids, now)
    pairs = [(a, b) for a in fleet.nodes for b in fleet.nodes if (a, b) in known]
    others = {node for pair in pairs for node in pair} - set(ids)
    edges = {market: edge for market in fleet.markets if (edge := edge_of(fleet, market)) is not None}
    return {
        "schema": 1,
        "kind": "probe.mesh",
        "unix": now,
        "left_out": store.left_out,
        "new_windows": sum(outcome.value or 0 for outcome in reading.outcomes),
        "nodes": list(ids),
        "peers": [node for node in fleet.nodes if node in others],
        "pairs": [{"from": a, "to": b, **known[a, b].row()} for a, b in pairs],
        "markets": [
            {"market": market, "name": fleet.markets[market].name, "edge": edge}
            for market, edge in edges.items()
        ],
        "markets_without_edge": sorted(market for market in fleet.markets if market not in edges),
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
        **_missing(fleet, reading.outcomes, store, now),
    }


def _missing(fleet: Fleet, outcomes: Sequence[Outcome[int]], store: Store, now: float) -> dict[str, Any]:
    """Who was `away`, and who was there but is `silent`: its newest window ended too long ago.

    `last_unix`: when the last window ended that we ever had from it; None: there was none. `answered_unix`: when its
    peers last had an answer from it; None: not within what is kept.
    """
    heard = store.mesh_heard()
    away = [
        {
            "node": outcome.node,
            "state": outcome.state,
            "reason": outcome.reason,
            "last_unix": heard.get(outcome.node),
            "answered_unix": store.mesh_answered(outcome.node),
        }
        for outcome in outcomes
        if outcome.state != "done"
    ]
    silent = [
        {"node": outcome.node, "last_unix": heard.get(outcome.node)}
        for outcome in outcomes
        if outcome.state == "done" and len(fleet.nodes) > 1 and now - heard.get(outcome.node, 0) > MAX_AGE_S
    ]
    return {"away": away, "silent": silent}
