"""Makes the calls of a matrix, and keeps how far it has come after each of them, so that it can be gone on with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commcli.errors import BadInput, LockHeld, OutOfReach, Usage
from commcli.fleet.model import Fleet
from commcli.probe import batch, matrix
from commcli.probe.ask import Ask, check
from commcli.probe.call import call
from commcli.remote.ssh import Pool
from commcli.store.sqlite import Store

# What earlier calls tell about which pair is uncertain.
HISTORY_S = 7 * 86_400.0
# Within this the first call has begun.
BEGIN_S = 1.0


@dataclass(slots=True)
class Rounds:
    """One matrix at work.

    `id`: the store's, None before its first call; `left`: what no call has come of yet, in order; `wish`: see pairs_of.
    """

    id: int | None
    fleet: Fleet
    store: Store
    began: float
    markets: list[str]
    wish: Mapping[str, Any]
    closed: dict[str, str]
    left: list[matrix.Pair]
    cells: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0
    cpu_s: float = 0.0

    @property
    def run(self) -> str:
        """How its calls are marked in the store."""
        return f"matrix {self.id}"

    async def make(
        self,
        pool: Pool,
        limits: batch.Limits,
        *,
        make_call: Callable[[Fleet, Pool, Ask], Awaitable[Mapping[str, Any]]] = call,
        on_begin: Callable[[matrix.Pair], None] = lambda pair: None,
        on_made: Callable[[matrix.Pair, batch.Made], None] = lambda pair, made: None,
    ) -> None:
        """Call what is left as far as the budget goes. A call that can not be tried is a row of `failed`.

        Raises Usage for a budget that holds not one call.
        """
        pairs = {pair.key: pair for pair in self.left}

        def made(result: batch.Made) -> None:
            pair = pairs[result.wanted.key]
            self._keep(pair, result)
            on_made(pair, result)

        async def one(wanted: batch.Wanted) -> Mapping[str, Any]:
            # What the inventory lacks for this pair is this pair's trouble.
            check(self.fleet, wanted.ask)
            return await make_call(self.fleet, pool, wanted.ask)

        queue = [batch.Wanted(pair.key, pair.ask, frozenset((pair.a, pair.b))) for pair in self.left]
        check_budget(queue, limits)
        if self.id is None:
            self.id = self.store.start_matrix(self.document())
        await batch.make(
            queue, limits, one, on_begin=lambda wanted: on_begin(pairs[wanted.key]), on_made=made
        )
        if self.id is not None and not (self.left or self.failed or self._is_unsettled()):
            self.store.finish_matrix(self.id, self.document())

    def document(self) -> dict[str, Any]:
        """{"kind": "probe.matrix", ...}: the cells, what could not be tried, what is left."""
        return {
            "schema": 1,
            "kind": "probe.matrix",
            "id": self.id,
            "fleet": self.fleet.name,
            "unix": self.began,
            "markets": self.markets,
            "wish": dict(self.wish),
            "markets_without_edge": self.closed,
            "cells": self.cells,
            "failed": self.failed,
            "left": [pair.row() for pair in self.left],
            "calls": self.calls,
            "cpu_seconds": round(self.cpu_s, 1),
            "exit_code": matrix.exit_code(self.cells, self.failed),
        }

    def _is_unsettled(self) -> bool:
        """Whether a starved host kept a call from telling anything."""
        return any(cell["verdict"] == "invalid" for cell in self.cells)

    def _keep(self, pair: matrix.Pair, made: batch.Made) -> None:
        if made.document is not None:
            self.store.record_call(made.document, run=self.run)
            self.cells += matrix.cells(pair, made.document)
        else:
            assert made.error is not None
            # That others call from that node is no lock of ours.
            code = OutOfReach.exit_code if isinstance(made.error, LockHeld) else made.error.exit_code
            self.failed.append(matrix.untried(pair, str(made.error), code))
        self.left.remove(pair)
        self.calls += 1
        self.cpu_s += batch.cost_cpu_s(made.document) or 0.0
        assert self.id is not None
        self.store.update_matrix(self.id, self.document())


def check_budget(queue: Sequence[batch.Wanted], limits: batch.Limits) -> None:
    """Raises Usage for a budget that holds not one of these calls."""
    spending = batch.Spending(limits)
    if queue and not any(spending.holds(wanted, BEGIN_S) for wanted in queue):
        least = min(queue, key=lambda wanted: wanted.seconds)
        raise Usage(
            f"the budget holds not one call: one takes {least.seconds:g} s and {least.cpu_s:g} CPU seconds"
        )


def begin(
    fleet: Fleet,
    store: Store,
    words: Sequence[str],
    wish: Mapping[str, Any],
    clock: Callable[[], float] = time.time,
) -> Rounds:
    """A new matrix of these markets (none: all). Raises Usage and BadInput."""
    markets = matrix.chosen(fleet, words)
    pairs, closed = matrix.pairs_of(fleet, markets, wish)
    if not pairs:
        raise BadInput(list(closed.values()))
    for pair in pairs:
        # A wish that no call can have is refused here; what the inventory lacks is the pair's own trouble.
        with contextlib.suppress(BadInput):
            check(fleet, pair.ask)
    now = clock()
    left = matrix.ordered(fleet, pairs, store.calls_since(now - HISTORY_S), now)
    return Rounds(None, fleet, store, now, markets, wish, closed, left)


def resume(fleet: Fleet, store: Store) -> Rounds:
    """The newest matrix, if something of it is left; what told nothing is called again, last. Raises BadInput."""
    kept = store.latest_unfinished_matrix()
    if kept is None:
        raise BadInput("no matrix was left unfinished", hint="commcli probe matrix begins one")
    if gone := [market for market in kept["markets"] if market not in fleet.markets]:
        raise BadInput(f"matrix {kept['id']}: the inventory has no market {', '.join(gone)} any more")
    pairs, closed = matrix.pairs_of(fleet, kept["markets"], kept["wish"])
    told = {(cell["from"], cell["to"]): cell for cell in kept["cells"] if cell["verdict"] != "invalid"}
    left = [pair for pair in pairs if not told.keys() >= set(pair.markets)]
    again = {two for pair in left for one, other in pair.markets for two in ((one, other), (other, one))}
    order = [tuple(two) for row in kept["left"] for two in row["markets"]]
    left.sort(
        key=lambda pair: min((order.index(two) for two in pair.markets if two in order), default=len(order))
    )
    cells = [cell for two, cell in told.items() if two not in again]
    return Rounds(
        kept["id"], fleet, store, kept["unix"], kept["markets"], kept["wish"], closed, left, cells,
        calls=kept["calls"], cpu_s=kept["cpu_seconds"],
    )  # fmt: skip
