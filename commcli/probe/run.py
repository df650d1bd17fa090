"""One `probe run`: what is due by probes.yaml is done, kept and told: the mesh, and beside it the edges and then calls.

A job's trouble is a row of the report. What the budget does not hold waits for the next run; what was begun is kept
as it ends, so that a run that is cut off loses only what was under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commcli.errors import CommcliError, LockHeld, OutOfReach, gravest
from commcli.fleet.model import Fleet
from commcli.fleet.probing import ProbePair, Probes
from commcli.probe import batch, edge, mesh, schedule
from commcli.probe.ask import Ask, check
from commcli.probe.call import call
from commcli.probe.schedule import Due
from commcli.remote.outcome import exit_code, state_of
from commcli.remote.ssh import Pool
from commcli.store.sqlite import Store

Row = dict[str, Any]
# A starved probe host learnt nothing: nobody is to blame, and nothing is in order either.
# A job whose probe hosts were starved for so many of its periods is told, and not before.
BLIND_PERIODS = 3
CODES = {"good": 0, "warn": 0, "bad": 1, "invalid": OutOfReach.exit_code}
HOUR_S = 3600.0
# Within this a run has begun its first call.
BEGIN_S = 1.0
# How its calls are marked in the store.
MARK = "run"


@dataclass(slots=True)
class Run:
    """A run at work. `rows`: what was done, as it ended; `begun`: what is under way, with the unix time it began."""

    fleet: Fleet
    pool: Pool
    store: Store
    on_event: Callable[[str, str, str], None] = lambda key, text, state: None
    make_call: Callable[[Fleet, Pool, Ask], Awaitable[Mapping[str, Any]]] = call
    clock: Callable[[], float] = time.time
    rows: list[Row] = field(default_factory=list)
    begun: dict[str, tuple[Due, float]] = field(default_factory=dict)
    waiting: list[Due] = field(default_factory=list)
    explore: Callable[[], Mapping[str, Sequence[str]]] = dict

    async def go(self, deadline_s: float | None = None) -> dict[str, Any]:
        """Do what is due; the document ({"kind": "probe.run", ...}). After `deadline_s` what still goes on is ended."""
        began = self.clock()
        due = schedule.due(schedule.jobs_of(self.fleet.probes), self.store.last_runs(), began)
        self.waiting = [each for each in due if each.job.pair is not None]
        work = [self._edges_and_calls([each for each in due if each.job.key == schedule.EDGES], deadline_s)]
        work += [self._mesh(each) for each in due if each.job.key == schedule.MESH]
        try:
            async with asyncio.timeout(deadline_s):
                await _together(work)
        except TimeoutError:
            for each, at in self.begun.values():
                reason = f"not finished when the run's deadline ({deadline_s:g} s) passed"
                self.rows.append(_row(each, at, self.clock(), "timeout", OutOfReach.exit_code, reason))
        self._notice()
        return self.document(began)

    def document(self, began: float) -> dict[str, Any]:
        """What was done, what waits, and the newest figures of every scheduled pair."""
        now = self.clock()
        probes = self.fleet.probes
        return {
            "schema": 1,
            "kind": "probe.run",
            "fleet": self.fleet.name,
            "unix": began,
            "seconds": round(now - began, 3),
            "left_out": self.store.left_out,
            "jobs": self.rows,
            "waiting": [{"job": each.job.key, "late": round(each.late, 3)} for each in self.waiting],
            "budget": {
                "calls": probes.budget.calls_a_run,
                "seconds": probes.budget.seconds_a_run,
                "cpu_seconds_an_hour": probes.budget.cpu_seconds_an_hour,
                "cpu_seconds_last_hour": round(spent_cpu_s(self._past(now - HOUR_S), probes.pair), 1),
            },
            "pairs": newest(probes, self._past(now - oldest_s(probes.scheduled()))),
            "exit_code": gravest(row["code"] for row in self.rows),
        }

    def _past(self, since: float) -> list[Row]:
        return self.store.calls_since(since)

    # Jobs

    async def _edges_and_calls(self, edges: Sequence[Due], deadline_s: float | None) -> None:
        # One after the other: where calls begin, this machine is busy, and the times at the edges would show it.
        for each in edges:
            await self._edges(each)
        await self._calls(deadline_s)

    async def _calls(self, deadline_s: float | None) -> None:
        queue, by_key = [], {}
        for each in list(self.waiting):
            if (wanted := self._wanted(each)) is not None:
                queue.append(wanted)
                by_key[wanted.key] = each

        def begun(wanted: batch.Wanted) -> None:
            self.waiting.remove(by_key[wanted.key])
            self._begin(by_key[wanted.key])

        def made(result: batch.Made) -> None:
            self._made(by_key[result.wanted.key], result)

        async def one(wanted: batch.Wanted) -> Mapping[str, Any]:
            return await self.make_call(self.fleet, self.pool, wanted.ask)

        limits = self._limits(queue, deadline_s)
        await batch.make(queue, limits, one, on_begin=begun, on_made=made)

    def _wanted(self, each: Due) -> batch.Wanted | None:
        """The call to make, or None: its row then says why it can not be made."""
        pair = each.job.pair
        assert pair is not None
        ask = Ask(pair.a, pair.b, seconds=pair.seconds, profile=pair.profile, transport=pair.transport)
        now = self.clock()
        if closed := [market for market in (pair.a, pair.b) if mesh.edge_of(self.fleet, market) is None]:
            # An operator's doing, and known to `fleet check`: no reason to write a mail every minute.
            self.waiting.remove(each)
            self.rows.append(_row(each, now, now, "skipped", 0, f"{' and '.join(closed)}: no active edge"))
            return None
        try:
            ends = check(self.fleet, ask)
        except CommcliError as error:
            self.waiting.remove(each)
            self._begin(each)
            self._end(each, "failed", error.exit_code, str(error))
            return None
        return batch.Wanted(each.job.key, ask, frozenset(end.node.id for end in ends))

    def _limits(self, queue: Sequence[batch.Wanted], deadline_s: float | None) -> batch.Limits:
        budget = self.fleet.probes.budget
        # The longest call that probes.yaml may ask for fits into an empty run, with what is around it.
        seconds = max([budget.seconds_a_run, *(wanted.seconds + BEGIN_S for wanted in queue)])
        cpu_s = budget.cpu_seconds_an_hour
        if cpu_s is not None:
            past = self._past(self.clock() - HOUR_S)
            cpu_s = max(0.0, cpu_s - spent_cpu_s(past, self.fleet.probes.pair))
        return batch.Limits(
            seconds if deadline_s is None else min(seconds, deadline_s),
            cpu_s,
            budget.parallel,
            budget.calls_a_run,
        )

    def _made(self, each: Due, made: batch.Made) -> None:
        if made.document is not None:
            document = made.document
            number = self.store.record_call(document, run=MARK)
            word = document["verdict"]
            reason = document["invalid_reason"] if word == "invalid" else "; ".join(document["reasons"])
            self._end(each, word, CODES[word], reason or "", call=number, **figures(document))
        elif isinstance(made.error, LockHeld):
            # Others call from that node. This job has not run: the next run tries again.
            _, at = self.begun.pop(each.job.key)
            reason = str(made.error)
            self.rows.append(_row(each, at, self.clock(), "busy", OutOfReach.exit_code, reason))
        else:
            assert made.error is not None
            self._end(each, state_of(made.error)[0], made.error.exit_code, str(made.error))

    async def _mesh(self, each: Due) -> None:
        self._begin(each)
        nodes = list(self.fleet.nodes.values())
        reading = await mesh.read(self.fleet, nodes, self.pool, self.store, explore=self.explore())
        away = [outcome for outcome in reading.outcomes if outcome.state != "done"]
        named = ", ".join(f"{outcome.node} ({outcome.state}: {outcome.reason})" for outcome in away)
        reason = f"{len(away)} of {len(nodes)} nodes away: {named}" if away else ""
        code = exit_code(reading.outcomes)
        new = sum(outcome.value or 0 for outcome in reading.outcomes)
        state = "away" if away else "done"
        self._end(each, state, code, reason, nodes=len(nodes), away=len(away), windows=new)

    async def _edges(self, each: Due) -> None:
        self._begin(each)
        try:
            document = await edge.look(self.fleet, edge.edges_of(self.fleet, None))
        except CommcliError as error:
            self._end(each, "failed", error.exit_code, str(error))
            return
        self.store.record_edges(document)
        word = document["verdict"]
        found = [
            f"{row['node']} {row['transport']}: {'; '.join(row['reasons'])}"
            for row in document["doors"]
            if row["verdict"] == word and row["reasons"]
        ]
        reason = document["invalid_reason"] or ", ".join(found)
        self._end(each, word, CODES[word], reason, doors=document["counts"])

    def _begin(self, each: Due) -> None:
        self.begun[each.job.key] = each, self.clock()
        self.on_event(each.job.key, "at work", "")

    def _end(self, each: Due, state: str, code: int, reason: str, **told: Any) -> None:
        _, at = self.begun.pop(each.job.key)
        is_told = state != "invalid" or self._is_blind(each)
        self.rows.append(_row(each, at, self.clock(), state, code if is_told else 0, reason, **told))
        self.store.record_job(each.job.key, each.slot_unix, code, ran_unix=at)
        self.on_event(each.job.key, reason, state)

    def _is_blind(self, each: Due) -> bool:
        """A starved probe host is no reason to wake anybody; that nothing has been learnt for long is one."""
        known = self.store.last_runs().get(each.job.key)
        return known is not None and self.clock() - known["good_unix"] > BLIND_PERIODS * each.job.every_s

    def _notice(self) -> None:
        known = self.store.last_runs()
        for each in self.waiting:
            if each.job.key not in known:
                self.store.record_job(each.job.key, exit_code=OutOfReach.exit_code, **each.noticed())


async def _together(work: Iterable[Awaitable[None]]) -> None:
    """All at once. When one raises, or all are cancelled, they have ended before this does."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _row(each: Due, began: float, now: float, state: str, code: int, reason: str, **told: Any) -> Row:
    pair = each.job.pair
    return {
        "job": each.job.key,
        **({} if pair is None else {"from": pair.a, "to": pair.b}),
        "state": state,
        "code": code,
        "reason": reason,
        "seconds": round(now - began, 3),
        "late": round(each.late, 3),
        **told,
    }


# --- figures, pure --------------------------------------------------------------------------------------------------


def figures(document: Mapping[str, Any]) -> Row:
    """What a call's row says of it."""
    rtt = document["rtt_ms"]
    return {"mos": document["mos"], "rtt_ms": rtt and rtt["p50"], "setup_ms": document["setup_ms"]}


def spent_cpu_s(calls: Iterable[Mapping[str, Any]], pair_of: Callable[[str, str], ProbePair | None]) -> float:
    """What these calls (rows of store.calls_since) cost all nodes, as reckoned before they were made."""
    total = 0.0
    for row in calls:
        markets = row["from_market"], row["to_market"]
        pair = pair_of(*markets) if None not in markets else None
        ask = Ask(
            "", "", seconds=pair.seconds if pair else Ask("", "").seconds, profile=row["profile"] or "sd"
        )
        total += batch.Wanted("", ask, frozenset()).cpu_s
    return total


def oldest_s(pairs: Sequence[ProbePair]) -> float:
    """How old a figure may be that still stands for its pair: two periods of the slowest one."""
    return HOUR_S + 2 * max((pair.every_s or 0 for pair in pairs), default=0)


def newest(probes: Probes, calls: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The last figures of both directions of every pair, of calls that say something of the service (oldest first)."""
    last: dict[frozenset[str | None], Mapping[str, Any]] = {}
    for row in calls:
        ends = row["from_market"], row["to_market"]
        if row["direct"] or row["via"] or row["plain"] or not probes.is_service(*ends, row):
            continue
        if row["verdict"] != "invalid":
            last[frozenset(ends)] = row
    rows = [
        last[key] for pair in probes.scheduled() if (key := frozenset[str | None]((pair.a, pair.b))) in last
    ]
    return [_told(row, direction) for row in rows for direction in ("there", "back")]


def _told(row: Mapping[str, Any], direction: str) -> Row:
    ends = (row["from_market"], row["to_market"])
    one, other = ends if direction == "there" else ends[::-1]
    return {
        "from": one,
        "to": other,
        "unix": row["unix"],
        "verdict": row[f"verdict_{direction}"] or row["verdict"],
        "mos": row[f"mos_{direction}"],
        "rtt_ms": row["rtt_ms"],
        "setup_ms": row["setup_ms"],
        "loss": row[f"loss_{direction}"],
        "jitter_ms": row[f"jitter_{direction}_ms"],
        "one_way_ms": row[f"one_way_{direction}_ms"],
    }
