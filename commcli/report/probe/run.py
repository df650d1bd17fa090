"""What `commcli probe run` says: a line for cron, a table for eyes, gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report import textfile
from commcli.report.printable import printable
from commcli.report.terminal import grid, ms, styled
from commcli.report.textfile import Labels, Metric

Document = Mapping[str, Any]
Row = Mapping[str, Any]

# A mail's subject is no place for the tenth of the same kind.
MOST_NAMED, MOST_CHARACTERS = 4, 120
# Gauges of the run itself, which every run replaces; those of the pairs outlive a run that learnt nothing.
RUN = "commcli_probe_run_"
_LEVELS = {"good": 0.0, "warn": 1.0, "bad": 2.0}


def run(doc: Document) -> RenderableType:
    """A line a job, the worst first; then what waits."""
    table = grid("job", "state")
    for column in ("MOS", "RTT ms", "took s"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in sorted(doc["jobs"], key=lambda row: (-row["code"], row["job"])):
        mos = "-" if row.get("mos") is None else f"{row['mos']:.2f}"
        figures = (mos, ms(row.get("rtt_ms")), f"{row['seconds']:.1f}")
        table.add_row(row["job"], styled(row["state"]), *figures, row["reason"])
    parts: list[RenderableType] = [table] if doc["jobs"] else [Text("nothing is due", style="dim")]
    if doc["waiting"]:
        parts.append(Text(_waiting(doc), style="yellow"))
    return Group(*parts)


def _waiting(doc: Document) -> str:
    budget = doc["budget"]
    limits = [f"{budget['calls']} calls", f"{budget['seconds']:g} s"]
    if budget["cpu_seconds_an_hour"] is not None:
        spent = f"{budget['cpu_seconds_last_hour']:.0f} of {budget['cpu_seconds_an_hour']:g}"
        limits.append(f"{spent} CPU seconds of the last hour")
    return f"{len(doc['waiting'])} calls wait for the next run; this one's budget: {', '.join(limits)}"


def line(doc: Document, log: Path) -> str:
    """All that is not good, in one line."""
    wrong = sorted((row for row in doc["jobs"] if row["code"]), key=lambda row: (-row["code"], row["job"]))
    named = [_named(row) for row in wrong[:MOST_NAMED]]
    if len(wrong) > MOST_NAMED:
        named.append(f"and {len(wrong) - MOST_NAMED} more")
    head = f"commcli probe run: {len(wrong)} of {len(doc['jobs'])} not good"
    return f"{head}: {'; '.join(named)} (exit {doc['exit_code']}, all of it in {log})"


def _named(row: Row) -> str:
    reason = " ".join(printable(row["reason"]).split())
    if len(reason) > MOST_CHARACTERS:
        reason = reason[: MOST_CHARACTERS - 3] + "..."
    return f"{row['job']} {row['state']}" + (f": {reason}" if reason else "")


# --- gauges ---------------------------------------------------------------------------------------------------------


def text(doc: Document | None, code: int, unix: float, seconds: float, before: str) -> str:
    """The textfile's new text, after what was there `before`. `doc`: None for a run that failed before it had one."""
    metrics = textfile.of_run(RUN, "probe run", code, unix, seconds, before) + (_of_jobs(doc) if doc else [])
    new = textfile.render(metrics)
    return new + (textfile.render(_of_pairs(doc["pairs"])) if doc else _pairs_kept(before))


def _of_jobs(doc: Document) -> list[Metric]:
    calls = [row for row in doc["jobs"] if "from" in row]
    states = sorted({row["state"] for row in calls})
    counted: list[tuple[Labels, float | None]] = [
        ({"state": state}, sum(row["state"] == state for row in calls)) for state in states
    ]
    late = max((row["late"] for row in doc["waiting"]), default=0.0)
    metrics = [
        Metric(f"{RUN}calls", "Calls of the last probe run by what became of them.", counted),
        _one(f"{RUN}calls_waiting", "Calls that were due and are left to the next run.", len(doc["waiting"])),
        _one(f"{RUN}calls_late_periods", "How late the latest of them is, in periods of its cadence.", late),
    ]  # fmt: skip
    for row in doc["jobs"]:
        if row["job"] == "mesh" and "away" in row:
            metrics.append(_one(f"{RUN}nodes_away", "Nodes whose mesh could not be read.", row["away"]))
        if row["job"] == "edges" and "doors" in row:
            doors = [({"verdict": word}, float(count)) for word, count in row["doors"].items()]
            metrics.append(Metric(f"{RUN}doors", "TURN transports of the edges by verdict.", doors))
    return metrics


def _one(name: str, told: str, value: float | None) -> Metric:
    return Metric(name, told, [({}, value)])


def _of_pairs(pairs: Sequence[Row]) -> list[Metric]:
    def gauge(name: str, told: str, key: str, scale: float = 1.0) -> Metric:
        return Metric(f"commcli_probe_call_{name}", told, list(_scaled(pairs, key, scale)))

    verdicts = [(_labels(row), _LEVELS.get(row["verdict"])) for row in pairs]
    return [
        Metric("commcli_probe_call_verdict", "The last valid call's: 0 good, 1 warn, 2 bad.", verdicts),
        gauge("timestamp_seconds", "When that call began.", "unix"),
        gauge("mos", "MOS by the E-model (ITU-T G.107).", "mos"),
        gauge("rtt_seconds", "Median round trip.", "rtt_ms", 1e-3),
        gauge("loss_ratio", "Share of the audio's packets that did not arrive.", "loss"),
        gauge("jitter_seconds", "Jitter of the audio (RFC 3550).", "jitter_ms", 1e-3),
        gauge("one_way_seconds", "Median one-way delay of the audio.", "one_way_ms", 1e-3),
        gauge("setup_seconds", "Until the caller heard.", "setup_ms", 1e-3),
    ]


def _scaled(pairs: Sequence[Row], key: str, scale: float) -> Iterable[tuple[Labels, float | None]]:
    for row in pairs:
        yield _labels(row), None if row[key] is None else row[key] * scale


def _labels(row: Row) -> Labels:
    return {"from": row["from"], "to": row["to"]}


def _pairs_kept(before: str) -> str:
    """The gauges of the pairs as they stood; each pair has its own time beside it."""
    lines = [line for line in before.splitlines() if "commcli_probe_call_" in line]
    return "".join(f"{line}\n" for line in lines)
