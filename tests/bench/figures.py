"""How the benchmarks print what they found: one line a figure, with its target and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median, least and most of the rounds."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, pair by pair: what the machine did meanwhile fell on both of a pair."""
    return [our / their for our, their in zip(ours, theirs, strict=True) if their > 0]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def verdict(value: float, at_most: float | None, unit: str) -> str:
    """The last words of a figure's line; a figure without a target is only shown."""
    if at_most is None:
        return "(no target)"
    return f"target <= {at_most:g} {unit}: {'met' if value <= at_most else 'MISSED'}"


def line(what: str, figure: str, value: float, at_most: float | None, unit: str) -> None:
    """Print one figure: what it is, how it reads, and `value` judged against its target."""
    print(f"  {what:46} {figure:36} {verdict(value, at_most, unit)}", flush=True)


def ratio_line(what: str, values: Sequence[float], at_most: float | None = None) -> None:
    """Print the ratio commcli / coturn of some pairs, and what it should be."""
    if values:
        figure = f"{spread(values)} x coturn, {len(values)} pairs"
        line(what, figure, statistics.median(values), at_most, "x")


def at_least_line(what: str, values: Sequence[float], at_least: float) -> None:
    """Print how many times better we were in some pairs, and what it should be."""
    value = statistics.median(values)
    verdict = "met" if value >= at_least else "MISSED"
    print(f"  {what:46} {f'{spread(values)} x':36} target >= {at_least:g} x: {verdict}", flush=True)
