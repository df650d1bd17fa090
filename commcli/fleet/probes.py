"""probes.yaml: which pairs of markets are probed, how often and at what cost, and what is good. Optional.

The profiles, transports and figures are those of `probe`, which this module may not import; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import cast, get_args

from commcli.fleet import duration
from commcli.fleet.model import EVERY_MARKET
from commcli.fleet.probing import Budget, Importance, Objective, ProbePair, Probes, Verdicts
from commcli.fleet.record import Record, listed
from commcli.fleet.yamlfile import YamlList

PROFILES = ("hd", "sd", "audio", "weak")
TRANSPORTS = ("udp", "tcp", "tls")
MOST_CALL_S = 600.0
# Figure -> (least, most) that a line may be drawn at.
FIGURES: Mapping[str, tuple[float, float]] = {
    "rtt_ms": (0, 60_000),
    "loss": (0, 1),
    "jitter_ms": (0, 60_000),
    "one_way_ms": (0, 60_000),
    "longest_gap_ms": (0, 600_000),
    "mos": (1, 4.5),
    "setup_ms": (0, 60_000),
}
FLOORS = ("mos",)
# What a service objective may hold 95 of 100 calls to.
PROMISED = ("rtt_ms", "loss", "jitter_ms", "one_way_ms", "mos", "setup_ms")

EVERY = "15m"
NEVER = "never"
# cron starts `probe run` once a minute at most.
LEAST_EVERY_S, MOST_EVERY_S = 60, 7 * 86_400
RUNS_AN_HOUR = 60


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a row of `pairs` has unless it says otherwise."""

    every_s: int | None
    profile: str
    seconds: float
    transport: str
    verdict: Verdicts
    objective: Objective


def read_probes(record: Record, market_ids: Collection[str] | None) -> Probes:
    """The whole file; `market_ids` None: nobody knows the markets."""
    verdict = _verdict(record.section("verdict"), MappingProxyType({}))
    objective = _objective(record.section("sla"), Objective())
    defaults = _defaults(record.section("defaults"), verdict, objective)
    budget = _budget(record.section("budget"))
    pairs = _pairs(record, defaults, market_ids)
    _check_affordable(record, pairs, budget)
    return Probes(
        pairs=pairs,
        mesh_every_s=_only_every(record.section("mesh")),
        edges_every_s=_only_every(record.section("edges")),
        budget=budget,
        verdict=verdict,
        objective=objective,
    )


def _defaults(record: Record, verdict: Verdicts, objective: Objective) -> _Defaults:
    defaults = _Defaults(
        every_s=_every(record, duration.seconds(EVERY)),
        profile=record.word_or("profile", "sd", PROFILES, "profile"),
        seconds=record.number_or("seconds", 8.0, 1, MOST_CALL_S),
        transport=record.word_or("transport", "udp", TRANSPORTS, "transport"),
        verdict=verdict,
        objective=objective,
    )
    record.finish()
    return defaults


def _budget(record: Record) -> Budget:
    usual = Budget()
    budget = Budget(
        calls_a_run=record.integer_or("calls_a_run", usual.calls_a_run, 1, 1000),
        seconds_a_run=record.number_or("seconds_a_run", usual.seconds_a_run, 5, 3600),
        cpu_seconds_an_hour=record.number_or("cpu_seconds_an_hour", None, 1, 1_000_000),
        parallel=record.integer_or("parallel", usual.parallel, 1, 100),
    )
    record.finish()
    return budget


def _only_every(record: Record) -> int | None:
    every_s = _every(record, None)
    record.finish()
    return every_s


def _every(record: Record, default: int | None) -> int | None:
    """A cadence, "never" (None), or what holds if nothing is said."""
    value = record.take("every")
    if value is None:
        return default
    if value == NEVER:
        return None
    every_s = duration.seconds(value) if isinstance(value, str) else None
    if every_s is None:
        record.problem(f"every must be {duration.HOW}; or {NEVER}", key="every")
        return default
    if not LEAST_EVERY_S <= every_s <= MOST_EVERY_S:
        least, most = duration.shown(LEAST_EVERY_S), duration.shown(MOST_EVERY_S)
        record.problem(f"every must be {least} to {most}, or {NEVER}", key="every")
        return default
    return every_s


# --- pairs ----------------------------------------------------------------------------------------------------------


def _pairs(record: Record, defaults: _Defaults, market_ids: Collection[str] | None) -> tuple[ProbePair, ...]:
    """Every pair of markets that a row names, once: the first row that names it is its row."""
    pairs: dict[frozenset[str], ProbePair] = {}
    for row in record.rows("pairs", "pair"):
        named = _between(row, market_ids)
        pair = _row(row, defaults)
        if named and not named.keys() - pairs.keys():
            row.problem(
                "rows above name all of it already, and the first row that names two markets is theirs"
            )
        for key, (a, b) in named.items():
            pairs.setdefault(key, replace(pair, a=a, b=b))
    return tuple(pairs.values())


def _row(row: Record, defaults: _Defaults) -> ProbePair:
    """What the row says of its pairs, whichever these are."""
    pair = ProbePair(
        a="",
        b="",
        every_s=_every(row, defaults.every_s),
        profile=row.word_or("profile", defaults.profile, PROFILES, "profile"),
        seconds=row.number_or("seconds", defaults.seconds, 1, MOST_CALL_S),
        transport=row.word_or("transport", defaults.transport, TRANSPORTS, "transport"),
        importance=cast(Importance, row.word_or("importance", "normal", get_args(Importance), "importance")),
        verdict=_verdict(row.section("verdict"), defaults.verdict),
        objective=_objective(row.section("sla"), defaults.objective),
    )
    row.finish()
    return pair


def _between(row: Record, market_ids: Collection[str] | None) -> dict[frozenset[str], tuple[str, str]]:
    """The pairs of different markets, as they are called: from the left side to the right one."""
    value = row.take("between")
    if not isinstance(value, YamlList) or len(value) != 2:
        if not row.broken:
            row.problem('between must have two sides, such as [ae, kr] or [ae, "*"]', key="between")
        return {}
    words = None if market_ids is None else (*market_ids, EVERY_MARKET)
    sides = [row.names("between", side, words, "market", line) for side, line in value.placed()]
    if any(EVERY_MARKET in side and len(side) > 1 for side in sides):
        row.problem(f'"{EVERY_MARKET}" is every market: it stands alone on its side', key="between")
    one, other = (tuple(market_ids or ()) if EVERY_MARKET in side else side for side in sides)
    named: dict[frozenset[str], tuple[str, str]] = {}
    for a, b in product(one, other):
        if a != b:
            named.setdefault(frozenset((a, b)), (a, b))
    if not named and ((one and other) or [] in value):
        row.problem("between names no two different markets", key="between")
    return named


def _check_affordable(record: Record, pairs: tuple[ProbePair, ...], budget: Budget) -> None:
    """A cadence that the budget can never keep is a mistake in one of the two."""
    wanted = [pair for pair in pairs if pair.every_s is not None]
    calls_an_hour = sum(3600 / pair.every_s for pair in wanted if pair.every_s)
    most = budget.calls_a_run * RUNS_AN_HOUR
    if calls_an_hour > most:
        record.problem(
            f"pairs ask for {calls_an_hour:.0f} calls an hour, and the budget's calls_a_run: {budget.calls_a_run}"
            f" makes {most} at most, with a run a minute",
            key="pairs",
        )
    if longest := [pair for pair in wanted if pair.seconds > budget.seconds_a_run]:
        names = listed([f"{pair.a}-{pair.b}" for pair in longest])
        record.problem(
            f"calls between {names} are longer than the budget's seconds_a_run: {budget.seconds_a_run:g}",
            key="pairs",
        )


# --- what is good ---------------------------------------------------------------------------------------------------


def _verdict(record: Record, below: Verdicts) -> Verdicts:
    """Lines of a `verdict` section over those that hold without it, line by line."""
    lines = dict(below)
    for name, _, line in record.items():
        if record.check(name, FIGURES, "figure", line):
            warn, bad = _lines(record.section(name), name)
            old_warn, old_bad = lines.get(name, (None, None))
            lines[name] = (old_warn if warn is None else warn, old_bad if bad is None else bad)
            _check_order(record, name, *lines[name])
    return MappingProxyType(lines)


def _lines(record: Record, name: str) -> tuple[float | None, float | None]:
    least, most = FIGURES[name]
    warn, bad = (record.number_or(level, None, least, most) for level in ("warn", "bad"))
    if record.is_empty():
        record.problem("has neither warn nor bad: it draws no line")
    record.finish()
    return warn, bad


def _check_order(record: Record, name: str, warn: float | None, bad: float | None) -> None:
    if warn is None or bad is None:
        return
    if warn < bad if name in FLOORS else warn > bad:
        side = "below" if name in FLOORS else "above"
        record.problem(f"{name}: warn ({warn:g}) must not be {side} bad ({bad:g})", key=name)


def _objective(record: Record, below: Objective) -> Objective:
    """A `sla` section over what is promised without it, key by key."""
    p95 = record.section("p95")
    promised = dict(below.p95)
    for name, _, line in p95.items():
        if p95.check(name, PROMISED, "figure", line):
            value = p95.number_or(name, None, *FIGURES[name])
            if value is not None:
                promised[name] = value
    objective = Objective(
        availability=_share(record, "availability", below.availability),
        coverage=_share(record, "coverage", below.coverage),
        p95=MappingProxyType(promised),
    )
    record.finish()
    return objective


def _share(record: Record, key: str, default: float | None) -> float | None:
    value = record.number_or(key, None, 0, 1)
    if value is None:
        return default
    if key == "availability" and value in (0, 1):
        record.problem(
            "availability must be a share between 0 and 1, such as 0.995: with 1 there is no budget to spend",
            key=key,
        )
        return default
    return value
