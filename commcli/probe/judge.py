"""Is a call good? Published limits, overridable for a pair of markets, and the verdict that follows. Pure.

A verdict is about the network: what a starved probe host measured is "invalid" and pages nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Word = Literal["good", "warn", "bad", "invalid"]
Finding = tuple[Literal["warn", "bad"], str]
# Figure -> (warn, bad), as an inventory gives them; None leaves the published one.
Overrides = Mapping[str, tuple[float | None, float | None]]

OWN_LIMIT = "inventory"


@dataclass(frozen=True, slots=True)
class Limit:
    """From `warn` on a call is worth a look, from `bad` on it is bad; None: never. `source` says who drew the line.

    `is_floor`: less is worse, as for MOS. `unit`: "ms", "%" for a share 0..1, or "".
    """

    warn: float | None
    bad: float | None
    unit: str
    source: str
    is_floor: bool = False

    def exceeded(self, value: float) -> Literal["warn", "bad"] | None:
        """How bad `value` is; None when it is within the limits."""
        for level, line in (("bad", self.bad), ("warn", self.warn)):
            if line is not None and (value < line if self.is_floor else value >= line):
                return "bad" if level == "bad" else "warn"
        return None

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {"warn": self.warn, "bad": self.bad, "source": self.source}


Limits = Mapping[str, Limit]

# Poor calls as VIA counts them (RTT, loss, jitter) warn, double VIA is bad; G.114: fine up to 150 ms, unacceptable from
# 400; G.107 Annex B: MOS 3.6 is R 70 ("some users dissatisfied"), 3.1 is R 60 ("many"). How fast a call connects has no
# published limit, so only an inventory sets one.
LIMITS: Limits = {
    "rtt_ms": Limit(320, 640, "ms", "VIA"),
    "loss": Limit(0.012, 0.05, "%", "VIA"),
    "jitter_ms": Limit(12, 50, "ms", "VIA"),
    "one_way_ms": Limit(150, 400, "ms", "ITU-T G.114"),
    "longest_gap_ms": Limit(500, 3000, "ms", "Agora freeze"),
    "mos": Limit(3.6, 3.1, "", "ITU-T G.107", is_floor=True),
    "setup_ms": Limit(None, None, "ms", OWN_LIMIT),
}

# Who receives, and so reports, each direction.
RECEIVER = {"there": "to", "back": "from"}


def limits(overrides: Overrides) -> Limits:
    """The published limits with an inventory's in their place. Raises KeyError for a figure that has none.

    Where only one of two lines is moved past the other, the other one moves with it.
    """
    merged = dict(LIMITS)
    for name, (warn, bad) in overrides.items():
        known = merged[name]
        first, second = known.warn if warn is None else warn, known.bad if bad is None else bad
        if first is not None and second is not None and (first < second) == known.is_floor:
            first, second = (first, first) if bad is None else (second, second)
        merged[name] = replace(known, warn=first, bad=second, source=OWN_LIMIT)
    return merged


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` with its reasons: of the whole call, or of one direction."""

    word: Word
    reasons: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        return {"verdict": self.word, "reasons": list(self.reasons)}


def validity(reports: Sequence[tuple[str, Mapping[str, Any] | None]]) -> tuple[bool | None, str | None]:
    """Whether the figures of these (node, report) are about the network, and if not, why. None without any report."""
    told = [(node, report) for node, report in reports if report is not None]
    if not told:
        return None, None
    reasons = [f"{node} ({report['reason']})" for node, report in told if not report["valid"]]
    return not reasons, f"probe host starved: {', '.join(reasons)}" if reasons else None


def verdict(
    connected: bool,
    valid: bool | None,
    figures: Mapping[str, Any],
    setup_ms: float | None = None,
    there: Limits = LIMITS,
    back: Limits = LIMITS,
) -> tuple[Verdict, dict[str, Verdict]]:
    """The verdict of the call and of its directions ("there", "back").

    `figures` is evidence.measured's; each direction has limits of its own. What belongs to no direction (RTT, set-up)
    is held against those of "there", and counts for both.
    """
    if not connected:
        bad = Verdict("bad", ("the call did not connect",))
        return bad, dict.fromkeys(RECEIVER, bad)
    if not valid:
        return Verdict("invalid"), dict.fromkeys(RECEIVER, Verdict("invalid"))
    common = list(_found([("rtt_ms", _p50(figures["rtt_ms"])), ("setup_ms", setup_ms)], there))
    by_direction: dict[str, list[Finding]] = {}
    for name, own in (("there", there), ("back", back)):
        by_direction[name] = [*_direction(name, figures, own), *common]
    every = dict.fromkeys(finding for found in by_direction.values() for finding in found)
    return _verdict(list(every)), {name: _verdict(found) for name, found in by_direction.items()}


def _verdict(findings: Sequence[Finding]) -> Verdict:
    levels = {level for level, _ in findings}
    word: Word = "bad" if "bad" in levels else "warn" if levels else "good"
    return Verdict(word, tuple(sorted(text for level, text in findings if level == word)))


def _direction(name: str, figures: Mapping[str, Any], own: Limits) -> Iterator[Finding]:
    """What is to be said of one direction. A receiver that heard nothing, and one that told nothing, differ."""
    direction = figures["directions"][name]
    if figures["hosts"][RECEIVER[name]] is None:
        yield "warn", f"no report from the {RECEIVER[name]} end"
    elif direction["audio"] is None:
        yield "bad", f"no audio arrived {name}"
    elif direction["mos"] is None:
        yield "warn", f"MOS not measured {name}"
    audio = direction["audio"] or {}
    values = [
        ("loss", audio.get("loss")),
        ("jitter_ms", audio.get("jitter_ms")),
        ("one_way_ms", _p50(audio.get("one_way_ms"))),
        ("longest_gap_ms", _gap_ms(audio or direction["video"])),
        ("mos", direction["mos"] and direction["mos"]["mos"]),
    ]
    yield from _found(values, own, name)


def _p50(spread: Mapping[str, Any] | None) -> float | None:
    return None if spread is None else spread["p50"]


def _gap_ms(medium: Mapping[str, Any] | None) -> float | None:
    return medium["longest_gap"]["ms"] if medium and medium["longest_gap"] else None


def _found(values: Sequence[tuple[str, float | None]], own: Limits, direction: str = "") -> Iterator[Finding]:
    for name, value in values:
        limit = own[name]
        level = None if value is None else limit.exceeded(value)
        if value is not None and level is not None:
            line = limit.bad if level == "bad" else limit.warn
            assert line is not None
            word = "MOS" if name == "mos" else name.removesuffix("_ms").replace("_", " ")
            where = f" {direction}" if direction else ""
            text = f"{word} {_shown(value, limit)}{where}, {'floor' if limit.is_floor else 'limit'}"
            yield level, f"{text} {_shown(line, limit, is_line=True)} ({limit.source})"


def _shown(value: float, limit: Limit, *, is_line: bool = False) -> str:
    if limit.unit == "%":
        return f"{100 * value:g} %" if is_line else f"{100 * value:.1f} %"
    if limit.unit == "ms":
        return f"{value:g} ms" if is_line else f"{value:.0f} ms"
    return f"{value:g}" if is_line else f"{value:.2f}"
