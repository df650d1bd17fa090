"""Makes the calls of a matrix, and keeps how far it has come after each of them, so that it can be gone on with."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from commcli.errors import BadInput
from commcli.fleet.model import Fleet
from commcli.probe import batch, matrix
from commcli.probe.ask import Ask, check
from commcli.probe.call import call
from commcli.remote.ssh import Pool
from commcli.store.sqlite import Store

# What earlier calls tell about which pair is uncertain.
HISTORY_S = 7 * 86_400.0


@dataclass(slots=True)
class Rounds:
    """One matrix at work. `id`: the store's; `left`: what no call was begun for yet, in order."""

    id: int
    fleet: Fleet
    store: Store
    markets: list[str]
    ask: Mapping[str, Any]
    closed: dict[str, str]
    left: list[matrix.Pair]
    cells: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

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
        """Call what is left as far as the budget goes. Raises nothing for a call that can not be tried."""
        pairs = {pair.key: pair for pair in self.left}

        def made(result: batch.Made) -> None:
            pair = pairs[result.wanted.key]
            self._keep(pair, result)
            on_made(pair, result)

        async def one(wanted: batch.Wanted) -> Mapping[str, Any]:
            return await make_call(self.fleet, pool, wanted.ask)

        queue = [self._wanted(pair) for pair in self.left]
        with self._kept():
            await batch.make(
                queue, limits, one, on_begin=lambda wanted: on_begin(pairs[wanted.key]), on_made=made
            )

    def document(self) -> dict[str, Any]:
        """{"kind": "probe.matrix", ...}: the cells, what could not be tried, what is left."""
        return {
            "schema": 1,
            "kind": "probe.matrix",
            "id": self.id,
            "markets": self.markets,
            "ask": dict(self.ask),
            "markets_without_edge": self.closed,
            "cells": self.cells,
            "failed": self.failed,
            "left": [matrix.left(pair) for pair in self.left],
            "exit_code": matrix.exit_code(self.cells, self.failed),
        }

    def _wanted(self, pair: matrix.Pair) -> batch.Wanted:
        one, other = pair.markets[0]
        return batch.Wanted(pair.key, Ask(one, other, **self.ask), frozenset((pair.a, pair.b)))

    def _keep(self, pair: matrix.Pair, made: batch.Made) -> None:
        if made.document is not None:
            self.store.record_call(made.document, run=self.run)
            self.cells += matrix.cells(pair, made.document)
        else:
            assert made.error is not None
            self.failed.append(matrix.untried(pair, str(made.error), made.error.exit_code))
        self.left.remove(pair)
        self.store.update_matrix(self.id, self.document())

    @contextmanager
    def _kept(self) -> Iterator[None]:
        yield
        if not self.left:
            self.store.finish_matrix(self.id, self.document())


def begin(
    fleet: Fleet,
    store: Store,
    words: Sequence[str],
    ask: Mapping[str, Any],
    clock: Callable[[], float] = time.time,
) -> Rounds:
    """A new matrix of these markets (none: all); `ask` are fields of Ask. Raises Usage and BadInput."""
    markets = matrix.chosen(fleet, words)
    pairs, closed = matrix.pairs_of(fleet, markets)
    for pair in pairs:
        check(fleet, Ask(*pair.markets[0], **ask))
    now = clock()
    left = matrix.ordered(fleet, pairs, store.calls_since(now - HISTORY_S), now)
    rounds = Rounds(0, fleet, store, markets, ask, closed, left)
    rounds.id = store.start_matrix(rounds.document())
    return rounds


def resume(fleet: Fleet, store: Store) -> Rounds:
    """The newest matrix, if something of it is left; what could not be tried is tried again. Raises BadInput."""
    kept = store.latest_unfinished_matrix()
    if kept is None:
        raise BadInput("no matrix was left unfinished", hint="commcli probe matrix begins one")
    if gone := [market for market in kept["markets"] if market not in fleet.markets]:
        raise BadInput(f"matrix {kept['id']}: the inventory has no market {', '.join(gone)} any more")
    pairs, closed = matrix.pairs_of(fleet, kept["markets"])
    done = {tuple(cell["edges"]) for cell in kept["cells"] if cell["verdict"] != "invalid"}
    open_pairs = [pair for pair in pairs if (pair.a, pair.b) not in done]
    order = [(row["edges"][0], row["edges"][1]) for row in (*kept["failed"], *kept["left"])]
    open_pairs.sort(key=lambda pair: order.index((pair.a, pair.b)) if (pair.a, pair.b) in order else -1)
    now_open = {(pair.a, pair.b) for pair in open_pairs}
    cells = [
        cell for cell in kept["cells"] if not {tuple(cell["edges"]), tuple(cell["edges"])[::-1]} & now_open
    ]
    return Rounds(kept["id"], fleet, store, kept["markets"], kept["ask"], closed, open_pairs, cells)
