"""Was every pair of markets served as promised? From the calls made, and where there were none, the mesh. Pure.

Time is looked at hour by hour. An hour in which calls were made is up by the share of them that connected and was not
bad; in an hour without any, the mesh between the two edges speaks for the seconds that it measured, and is down in
windows without any answer. All other time is unmeasured: neither up nor down. Calls that say nothing of the service
(a starved probe host, --direct, --via, --plain) are counted and left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import pairwise
from typing import Any

from commcli.fleet.model import Fleet
from commcli.fleet.probing import Objective, Probes
from commcli.probe.quality import percentile
from commcli.store import hours

# What a pair is promised if the inventory promises nothing.
AVAILABILITY = 0.995
# With fewer calls than this, "95 of 100" is the word of a single one: no promise is judged by it.
LEAST_CALLS = 20
WORST_OF_PAIR, WORST_OF_ALL = 3, 10
# How fast the budget burns, over the last so many hours.
BURN_HOURS = (1, 6, 24, 72)
FLOORS = ("mos",)
FIGURES = ("rtt_ms", "loss", "jitter_ms", "one_way_ms", "mos", "setup_ms")

Row = Mapping[str, Any]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One direction of one call."""

    call: int
    unix: float
    is_up: bool
    figures: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Slice:
    """An hour of a pair, or what of it lies in the period. `source`: "calls", "mesh" or None (unmeasured)."""

    start: int
    seconds: float
    measured_s: float = 0.0
    down_s: float = 0.0
    source: str | None = None
    samples: tuple[Sample, ...] = ()
    mesh: Row | None = field(default=None, compare=False)


def document(
    fleet: Fleet,
    calls: Iterable[Row],
    mesh_hours: Iterable[Row],
    *,
    since: int,
    until: float,
    markets: Sequence[str] = (),
) -> dict[str, Any]:
    """Every ordered pair of markets that was measured or is scheduled ({"kind": "sla.report", ...}), the gravest first.

    calls: rows of store.calls_since; mesh_hours: of store.mesh_hours; both from `since`, the beginning of an hour.
    markets: only the pairs with this one; if several, the pairs among them.
    """
    samples, left_out = sorted_out(calls, fleet.probes)
    mesh: dict[Pair, dict[int, Row]] = defaultdict(dict)
    for row in mesh_hours:
        mesh[row["src"], row["dst"]][row["hour"]] = row
    hours_of = {pair: _mesh_of(fleet, pair, mesh) for pair in _pairs(fleet, markets)}
    wanted = [pair for pair, own in hours_of.items() if own or pair in samples or _is_scheduled(fleet, pair)]
    rows = [
        pair_row(
            pair,
            slices(samples.get(pair, ()), hours_of[pair], since, until),
            fleet.probes.objective_of(*pair),
            until,
        )
        for pair in wanted
    ]
    rows.sort(key=_rank)
    return {
        "schema": 1,
        "kind": "sla.report",
        "fleet": fleet.name,
        "since": since,
        "until": until,
        "counts": dict(Counter(row["verdict"] for row in rows)),
        "calls": {"counted": len({s.call for own in samples.values() for s in own}), "left_out": left_out},
        "availability": _availability_of(rows),
        "coverage": _coverage_of(rows),
        "pairs": rows,
        "worst": worst_of_all(rows),
        "unwatched": len(hours_of) - len(wanted),
    }


_GRAVITY = ("missed", "met", "unmeasured")


def _rank(row: Row) -> tuple[int, bool, float, str, str]:
    """The gravest first, and what calls say before what only the mesh does."""
    left: float | None = row["budget"]["left"]
    return (
        _GRAVITY.index(row["verdict"]),
        not row["calls"],
        float("inf") if left is None else left,
        row["from"],
        row["to"],
    )


def _pairs(fleet: Fleet, markets: Sequence[str]) -> list[Pair]:
    among = [(a, b) for a in fleet.markets for b in fleet.markets if a != b]
    if not markets:
        return among
    if len(markets) == 1:
        return [pair for pair in among if markets[0] in pair]
    return [pair for pair in among if set(pair) <= set(markets)]


def _is_scheduled(fleet: Fleet, pair: Pair) -> bool:
    row = fleet.probes.pair(*pair)
    return row is not None and row.every_s is not None


def _mesh_of(fleet: Fleet, pair: Pair, mesh: Mapping[Pair, Mapping[int, Row]]) -> dict[int, Row]:
    """What the edges of the two markets measured, by hour: the word of the end that measured longer, since a node that
    was away has not measured that it was.
    """
    a, b = (_edge(fleet, market) for market in pair)
    if a is None or b is None:
        return {}
    found = dict(mesh.get((a, b), {}))
    for hour, row in mesh.get((b, a), {}).items():
        if hour not in found or _measured_s(row) > _measured_s(found[hour]):
            found[hour] = _reversed(row)
    return found


def _edge(fleet: Fleet, market: str) -> str | None:
    edges = fleet.markets[market].edges
    return next((edge for edge in edges if fleet.nodes[edge].state == "active"), None)


def _measured_s(row: Row) -> int:
    """Nobody measures an hour for longer than it is; windows that overlap would say so."""
    measured_s: int = min(hours.HOUR_S, row["seconds"])
    return measured_s


def _reversed(row: Row) -> Row:
    """What the far end measured of the way back from here is what we did not measure of the way there."""
    return {**row, "loss_fwd": row["loss_back"], "jitter_fwd_ms": row["jitter_back_ms"]}


# --- from rows to hours ---------------------------------------------------------------------------------------------


def sorted_out(calls: Iterable[Row], probes: Probes) -> tuple[dict[Pair, list[Sample]], dict[str, int]]:
    """Both directions of every call that says something of the service, by pair; and why others are left out."""
    samples: dict[Pair, list[Sample]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for row in calls:
        if (why := _why_not(row, probes)) is not None:
            left_out[why] += 1
            continue
        samples[row["from_market"], row["to_market"]].append(_sample(row, "there"))
        samples[row["to_market"], row["from_market"]].append(_sample(row, "back"))
    return dict(samples), dict(left_out)


def _why_not(row: Row, probes: Probes) -> str | None:
    if row["valid"] is False or row["verdict"] == "invalid":
        return "invalid"
    if row["from_market"] is None or row["to_market"] is None:
        return "between nodes"
    if row["from_market"] == row["to_market"]:
        return "within a market"
    if row["via"] is not None:
        return "via"
    if row["direct"] or row["plain"]:
        return "direct" if row["direct"] else "plain"
    usual = probes.is_service(row["from_market"], row["to_market"], row)
    return None if usual else "another profile or transport"


def _sample(row: Row, direction: str) -> Sample:
    word = row[f"verdict_{direction}"] or row["verdict"]
    figures = {
        "rtt_ms": row["rtt_ms"],
        "loss": row[f"loss_{direction}"],
        "jitter_ms": row[f"jitter_{direction}_ms"],
        "one_way_ms": row[f"one_way_{direction}_ms"],
        "mos": row[f"mos_{direction}"],
        "setup_ms": row["setup_ms"],
    }
    return Sample(row["id"], row["unix"], row["connected"] and word != "bad", figures)


def slices(samples: Iterable[Sample], mesh: Mapping[int, Row], since: int, until: float) -> list[Slice]:
    """The hours from `since` to `until` (the last one may be cut short), oldest first."""
    by_hour: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_hour[hours.hour_of(sample.unix)].append(sample)
    return [
        _slice(start, min(hours.HOUR_S, until - start), by_hour.get(start, ()), mesh.get(start))
        for start in range(hours.hour_of(since), int(-(-until // 1)), hours.HOUR_S)
    ]


def _slice(start: int, seconds: float, samples: Sequence[Sample], mesh: Row | None) -> Slice:
    if samples:
        down = sum(not sample.is_up for sample in samples) / len(samples)
        return Slice(start, seconds, seconds, seconds * down, "calls", tuple(samples), mesh)
    if mesh is not None and mesh["sent"] and mesh["seconds"] > 0:
        # A window that began in this hour may end in the next one.
        measured_s = min(seconds, mesh["seconds"])
        down_s = measured_s * min(1.0, mesh["down_seconds"] / mesh["seconds"])
        return Slice(start, seconds, measured_s, down_s, "mesh", (), mesh)
    return Slice(start, seconds)


# --- of one pair ----------------------------------------------------------------------------------------------------


def pair_row(pair: Pair, own: Sequence[Slice], objective: Objective, until: float) -> dict[str, Any]:
    """All that is to be said of one ordered pair. What was not measured is None."""
    total_s = sum(each.seconds for each in own)
    measured_s, down_s = _sums(own)
    samples = [sample for each in own for sample in each.samples]
    figures = {name: spread(name, samples, own) for name in FIGURES}
    coverage = measured_s / total_s if total_s else None
    promised = objective.availability if objective.availability is not None else AVAILABILITY
    availability = 1 - down_s / measured_s if measured_s else None
    objectives = _judged(objective, promised, availability, coverage, figures)
    return {
        "from": pair[0],
        "to": pair[1],
        "verdict": _verdict(objectives, measured_s),
        "objectives": objectives,
        "availability": availability,
        "coverage": coverage,
        "measured_s": measured_s,
        "measured_by_mesh_s": sum(each.measured_s for each in own if each.source == "mesh"),
        "down_s": down_s,
        "calls": len(samples),
        "calls_down": sum(not sample.is_up for sample in samples),
        "budget": budget(own, promised, until),
        "figures": figures,
        "worst": worst(own),
    }


def _sums(own: Iterable[Slice]) -> tuple[float, float]:
    measured_s = down_s = 0.0
    for each in own:
        measured_s, down_s = measured_s + each.measured_s, down_s + each.down_s
    return measured_s, down_s


def budget(own: Sequence[Slice], promised: float, until: float) -> dict[str, Any]:
    """The error budget: the downtime that `promised` allows in the time that was measured.

    `spent` and `left` are shares of it (left < 0: overdrawn), `left_s` seconds. `burn`: how many times as fast as
    allowed it was spent in the hours that reach into the last so many; at 1 it lasts as long as the period.
    """
    measured_s, down_s = _sums(own)
    allowed_s = (1 - promised) * measured_s
    spent = down_s / allowed_s if allowed_s else None
    return {
        "allowed_s": allowed_s if measured_s else None,
        "left_s": allowed_s - down_s if measured_s else None,
        "spent": spent,
        "left": None if spent is None else 1 - spent,
        "burn": {
            f"{span}h": _burn([s for s in own if s.start + s.seconds > until - 3600 * span], promised)
            for span in BURN_HOURS
        },
    }


def _burn(own: Sequence[Slice], promised: float) -> float | None:
    measured_s, down_s = _sums(own)
    return down_s / measured_s / (1 - promised) if measured_s else None


def spread(name: str, samples: Sequence[Sample], own: Sequence[Slice]) -> dict[str, Any] | None:
    """p50, p95 and p99: what half, 95 and 99 of 100 were not worse than (of MOS: not below), and of how many.

    Of calls; for RTT and loss without any, of the mesh: all its answers, and its hours.
    """
    values = [value for sample in samples if (value := sample.figures[name]) is not None]
    if not values:
        return _spread_of_mesh(name, [each.mesh for each in own if each.mesh is not None])
    sign = -1 if name in FLOORS else 1
    worst_last = [sign * value for value in values]
    ranks = {f"p{q}": sign * (percentile(worst_last, q) or 0.0) for q in (50, 95, 99)}
    return {**ranks, "samples": len(values), "source": "calls"}


def _spread_of_mesh(name: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    if name == "rtt_ms":
        points = list(hours.rtt_points(rows))
        samples = sum(row["received"] for row in rows)
    elif name == "loss":
        points = [(row["loss_fwd"], 1) for row in rows if row["loss_fwd"] is not None]
        samples = len(points)
    else:
        return None
    p50, p95, p99 = hours.percentiles(points)
    return None if p50 is None else {"p50": p50, "p95": p95, "p99": p99, "samples": samples, "source": "mesh"}


def _judged(
    objective: Objective,
    promised: float,
    availability: float | None,
    coverage: float | None,
    figures: Mapping[str, Row | None],
) -> list[dict[str, Any]]:
    """Every promise with what became of it; `met` is None where too little was measured."""
    rows = [_promise("availability", promised, availability, is_floor=True)]
    if objective.coverage is not None:
        rows.append(_promise("coverage", objective.coverage, coverage, is_floor=True))
    for name, line in objective.p95.items():
        found = figures[name]
        is_known = found is not None and found["source"] == "calls" and found["samples"] >= LEAST_CALLS
        value = found["p95"] if found is not None and is_known else None
        rows.append(_promise(f"p95 {name}", line, value, is_floor=name in FLOORS))
    return rows


def _promise(name: str, objective: float, value: float | None, *, is_floor: bool) -> dict[str, Any]:
    met = None if value is None else value >= objective if is_floor else value <= objective
    return {"name": name, "objective": objective, "value": value, "met": met}


def _verdict(objectives: Iterable[Row], measured_s: float) -> str:
    if any(each["met"] is False for each in objectives):
        return "missed"
    return "met" if measured_s else "unmeasured"


# --- the worst windows ----------------------------------------------------------------------------------------------


def worst(own: Sequence[Slice]) -> list[dict[str, Any]]:
    """Down hours first, those in a row as one window, the longest down first; then the hours of the lowest MOS."""
    runs = _runs([each for each in own if each.measured_s])
    return [_window(run) for run in nsmallest(WORST_OF_PAIR, runs, key=_badness)]


def _badness(run: Sequence[Slice]) -> tuple[float, float, float]:
    down_s = sum(each.down_s for each in run)
    mos = min((s.figures["mos"] or 5.0 for each in run for s in each.samples), default=5.0)
    return -down_s, mos, run[0].start


def worst_of_all(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The worst windows of all pairs in which something was down; pairs that were down in the same hours together."""
    found: dict[tuple[int, float], list[tuple[Pair, Row]]] = defaultdict(list)
    for row in rows:
        for window in row["worst"]:
            if window["down_s"]:
                found[window["start"], window["seconds"]].append(((row["from"], row["to"]), window))
    windows = [_together(group) for group in found.values()]
    return sorted(windows, key=_gravity)[:WORST_OF_ALL]


def _together(group: Sequence[tuple[Pair, Row]]) -> dict[str, Any]:
    """The worst figures of the windows of several pairs at the same time, and the pairs by their downtime."""
    pairs = [pair for pair, _ in sorted(group, key=lambda each: (-each[1]["down_s"], each[0]))]
    windows = [window for _, window in group]
    return {
        "pairs": [list(pair) for pair in pairs],
        **{key: windows[0][key] for key in ("start", "seconds")},
        "down_s": max(window["down_s"] for window in windows),
        "sources": sorted({source for window in windows for source in window["sources"]}),
        "calls": sum(window["calls"] for window in windows),
        "calls_down": sorted({call for window in windows for call in window["calls_down"]}),
        "rtt_ms": _extreme(max, windows, "rtt_ms"),
        "loss": _extreme(max, windows, "loss"),
        "mos": _extreme(min, windows, "mos"),
    }


def _extreme(of: Callable[..., Any], windows: Iterable[Row], key: str) -> float | None:
    found: float | None = of((window[key] for window in windows if window[key] is not None), default=None)
    return found


def _gravity(window: Row) -> tuple[float, float, float]:
    return -window["down_s"] * len(window["pairs"]), -window["down_s"], window["start"]


def _runs(measured: Sequence[Slice]) -> list[list[Slice]]:
    """Hours with downtime that follow each other together; every other hour by itself."""
    runs = [[each] for each in measured[:1]]
    for before, each in pairwise(measured):
        if before.down_s and each.down_s and each.start == before.start + hours.HOUR_S:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _window(run: Sequence[Slice]) -> dict[str, Any]:
    """Its worst figures, and the calls that were down, to look them up."""
    samples = [sample for each in run for sample in each.samples]
    mesh = [each.mesh for each in run if each.mesh is not None]
    rtts = _known(samples, "rtt_ms") or [row["rtt_p95_ms"] for row in mesh if row["rtt_p95_ms"] is not None]
    losses = _known(samples, "loss") or [row["worst_loss"] for row in mesh if row["worst_loss"] is not None]
    return {
        "start": run[0].start,
        "seconds": run[-1].start + run[-1].seconds - run[0].start,
        "down_s": sum(each.down_s for each in run),
        "sources": sorted({str(each.source) for each in run}),
        "calls": len(samples),
        "calls_down": sorted(sample.call for sample in samples if not sample.is_up),
        "rtt_ms": max(rtts, default=None),
        "loss": max(losses, default=None),
        "mos": min(_known(samples, "mos"), default=None),
    }


def _known(samples: Iterable[Sample], name: str) -> list[float]:
    return [value for sample in samples if (value := sample.figures[name]) is not None]


# --- of the fleet ---------------------------------------------------------------------------------------------------


def _availability_of(rows: Iterable[Row]) -> float | None:
    """Of all pairs together, each by the time that it was measured."""
    measured_s = down_s = 0.0
    for row in rows:
        measured_s, down_s = measured_s + row["measured_s"], down_s + row["down_s"]
    return 1 - down_s / measured_s if measured_s else None


def _coverage_of(rows: Iterable[Row]) -> float | None:
    shares = [row["coverage"] for row in rows if row["coverage"] is not None]
    return sum(shares) / len(shares) if shares else None
