"""From what both ends and the relays told to the document of a call: delays, MOS, hops, verdict. Pure.

"there" is from the first named end to the second, "back" the other way; each direction's figures were taken by its
receiver. Unmeasured is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.probe import hops
from commcli.probe.clock import KernelClock, Offset, compare
from commcli.probe.quality import OPUS_40, mos, r_factor

# 20 ms of speech in a packet and 6.5 ms of Opus look-ahead pass before a packet can leave.
AUDIO_FIXED_MS = 26.5
MODEL = "ITU-T G.107 E-model, default parameters"


@dataclass(frozen=True, slots=True)
class Limit:
    """From `warn` on a call is worth a look, from `bad` on it is bad. `source` says who drew the line."""

    warn: float
    bad: float
    unit: str
    source: str


# Poor calls as VIA counts them (RTT, loss, jitter) warn; what ITU-T G.114 calls unacceptable, and double VIA, is bad.
LIMITS = {
    "rtt_ms": Limit(320, 640, "ms", "VIA"),
    "loss": Limit(0.012, 0.05, "", "VIA"),
    "jitter_ms": Limit(12, 50, "ms", "VIA"),
    "one_way_ms": Limit(150, 400, "ms", "ITU-T G.114"),
    "longest_gap_ms": Limit(500, 3000, "ms", "Agora freeze"),
}
MOS_WARN, MOS_BAD = 3.6, 3.1

# Who receives, and so reports, each direction.
_RECEIVER = {"there": "to", "back": "from"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a call left behind. A report is None for an end that sent none."""

    there: Mapping[str, Any] | None  # the report of the end that receives "there": the second one
    back: Mapping[str, Any] | None
    relayed: tuple[hops.Address | None, hops.Address | None]  # of the first and of the second end
    edges: tuple[str, str]
    flows_before: hops.Flows
    flows_after: hops.Flows


def measured(evidence: Evidence) -> dict[str, Any]:
    """The measured part of a call's document: clock, rtt, directions, mos, gap, hosts."""
    offset = clock_offset(evidence.back, evidence.there)
    first, second = evidence.relayed
    directions = {
        "there": _direction(evidence.there, offset, evidence, first, second, evidence.edges),
        "back": _direction(
            evidence.back,
            offset.reversed() if offset else None,
            evidence,
            second,
            first,
            evidence.edges[::-1],
        ),
    }
    scores = [d["mos"]["mos"] for d in directions.values() if d["mos"] is not None]
    return {
        "clock": offset and {"offset_ms": offset.ms, "error_ms": offset.error_ms, "method": offset.method},
        "rtt_ms": _rtt(evidence.back, evidence.there),
        "directions": directions,
        "mos": min(scores, default=None),
        "longest_gap": _longest_gap(directions, {"there": evidence.there, "back": evidence.back}),
        "hosts": {"from": _host(evidence.back), "to": _host(evidence.there)},
        "unasked": sorted(node for node, rows in evidence.flows_after.items() if rows is None),
    }


def clock_offset(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Offset | None:
    """The second end's clock minus the first's, from both ends' pings and kernels."""
    limits = _common_bounds(mine and mine["pings"], other and other["pings"])
    return compare(limits, _kernel_clock(mine), _kernel_clock(other))


def _kernel_clock(report: Mapping[str, Any] | None) -> KernelClock:
    return KernelClock(**report["clock"]) if report else KernelClock(None, None)


def _common_bounds(
    mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None
) -> tuple[float, float] | None:
    bounds = []
    if mine and mine["offset_bounds_ms"]:
        bounds.append(tuple(mine["offset_bounds_ms"]))
    if other and other["offset_bounds_ms"]:
        low, high = other["offset_bounds_ms"]
        bounds.append((-high, -low))
    if not bounds:
        return None
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def _direction(
    report: Mapping[str, Any] | None,
    offset: Offset | None,
    evidence: Evidence,
    src: hops.Address | None,
    dst: hops.Address | None,
    edges: tuple[str, ...],
) -> dict[str, Any]:
    """One direction. `offset` is the receiver's clock minus the sender's."""
    received = report["received"] if report else {}
    audio = _audio(received.get("audio"), offset)
    return {
        "audio": audio,
        "video": _video(received.get("video"), offset),
        "mos": _mos(audio, _rtt(report)),
        **_hops(evidence, src, dst, edges),
    }


def _audio(figures: Mapping[str, Any] | None, offset: Offset | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    kept = {key: value for key, value in figures.items() if key != "one_way_raw_ms"}
    return {**kept, "one_way_ms": _corrected(figures["one_way_raw_ms"], offset)}


def _video(figures: Mapping[str, Any] | None, offset: Offset | None) -> dict[str, Any] | None:
    """`frame_delay_ms`: painted to last packet in. `decoded_delay_ms` adds aiortc's wait for the frame after."""
    if figures is None:
        return None
    raw = ("one_way_raw_ms", "frame_raw_ms", "decoded_raw_ms")
    kept = {key: value for key, value in figures.items() if key not in raw}
    return {
        **kept,
        "one_way_ms": _corrected(figures["one_way_raw_ms"], offset),
        "frame_delay_ms": _corrected(figures["frame_raw_ms"], offset),
        "decoded_delay_ms": _corrected(figures["decoded_raw_ms"], offset),
    }


def _corrected(raw: Mapping[str, Any], offset: Offset | None) -> dict[str, Any] | None:
    """A spread of delays with the clocks' offset taken out; None when there is no sample or no idea of the clocks."""
    if offset is None or not raw["samples"]:
        return None
    moved = {key: value - offset.ms for key, value in raw.items() if key != "samples" and value is not None}
    return {"samples": raw["samples"], **moved, "error_ms": offset.error_ms}


def _mos(audio: Mapping[str, Any] | None, rtt: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """MOS of the audio with model and inputs. The delay is what 95 % of the packets kept: a playout buffer's view."""
    if audio is None or audio["loss"] is None:
        return None
    if audio["one_way_ms"] is not None:
        network_ms, taken_from = audio["one_way_ms"]["p95"], "one-way p95"
    elif rtt is not None and rtt["p95"] is not None:
        network_ms, taken_from = rtt["p95"] / 2, "half of RTT p95"
    else:
        return None
    mouth_to_ear_ms = max(0.0, network_ms) + AUDIO_FIXED_MS
    r = r_factor(mouth_to_ear_ms, audio["loss"], OPUS_40, audio["burst_ratio"])
    return {
        "mos": mos(r),
        "r": r,
        "model": MODEL,
        "codec": OPUS_40.name,
        "ie": OPUS_40.ie,
        "bpl": OPUS_40.bpl,
        "loss": audio["loss"],
        "burst_ratio": audio["burst_ratio"],
        "mouth_to_ear_ms": mouth_to_ear_ms,
        "network_ms": network_ms,
        "network_from": taken_from,
    }


def _hops(
    evidence: Evidence, src: hops.Address | None, dst: hops.Address | None, edges: tuple[str, ...]
) -> dict[str, Any]:
    """`path`: the nodes most packets passed. Straight if both edges were asked and counted no overlay packet."""
    unknown: dict[str, Any] = {"path": None, "straight": None, "paths": []}
    if src is None or dst is None:
        return unknown
    uses = hops.reconstruct(src, dst, evidence.flows_before, evidence.flows_after)
    if uses:
        return {"path": list(uses[0].path), "straight": False, "paths": [use.row() for use in uses]}
    if any(evidence.flows_after.get(edge) is None for edge in edges):
        return unknown
    return {"path": list(dict.fromkeys(edges)), "straight": True, "paths": []}


def _rtt(*reports: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The RTT of the pings, by the first end that has any."""
    for report in reports:
        if report and report["pings"] and report["pings"]["rtt_ms"]["samples"]:
            return dict(report["pings"]["rtt_ms"])
    return None


def _longest_gap(
    directions: Mapping[str, Mapping[str, Any]], reports: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any] | None:
    """The longest silence of either direction: {"ms", "at_unix", "after_s", "direction", "medium"}.

    Of the audio where there is any: it has a packet every 20 ms, so nothing hides between two frames. `after_s`
    counts from the receiver's first measured moment.
    """
    gaps = []
    for name, direction in directions.items():
        figures, report = direction["audio"] or direction["video"], reports[name]
        if figures and figures["longest_gap"] and report:
            gap = figures["longest_gap"]
            gaps.append(
                {
                    "ms": gap["ms"],
                    "at_unix": gap["at_s"],
                    "after_s": gap["at_s"] - report["window"]["start_s"],
                    "direction": name,
                    "medium": "audio" if direction["audio"] else "video",
                }
            )
    return max(gaps, key=lambda gap: float(gap["ms"]), default=None)


def _host(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    return {**report["host"], "sent": report["sent"], "valid": report["valid"], "reason": report["reason"]}


# --- verdict --------------------------------------------------------------------------------------------------------


def validity(reports: Sequence[tuple[str, Mapping[str, Any] | None]]) -> tuple[bool | None, str | None]:
    """Whether the figures of these (node, report) are about the network, and if not, why. None without any report."""
    told = [(node, report) for node, report in reports if report is not None]
    if not told:
        return None, None
    reasons = [f"{node} ({report['reason']})" for node, report in told if not report["valid"]]
    return not reasons, f"probe host starved: {', '.join(reasons)}" if reasons else None


def verdict(connected: bool, valid: bool | None, figures: Mapping[str, Any]) -> tuple[str, list[str]]:
    """("good" | "warn" | "bad" | "invalid", reasons). Invalid says nothing about the network, so nobody is paged."""
    if not connected:
        return "bad", ["the call did not connect"]
    if not valid:
        return "invalid", []
    findings = [finding for name, value in _judged(figures) if (finding := _exceeds(name, value))]
    findings += _mos_findings(figures["mos"])
    for name, side in _RECEIVER.items():
        findings += _silence(name, side, figures)
    levels = {level for level, _ in findings}
    word = "bad" if "bad" in levels else "warn" if levels else "good"
    return word, [text for level, text in sorted(findings) if level == word]


def _silence(name: str, side: str, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A receiver that heard nothing, and one that we heard nothing of, are not the same."""
    if figures["hosts"][side] is None:
        return [("warn", f"no report from the {side} end")]
    return [("bad", f"no audio arrived {name}")] if figures["directions"][name]["audio"] is None else []


def _mos_findings(score: float | None) -> list[tuple[str, str]]:
    if score is None:
        return [("warn", "MOS not measured")]
    if score >= MOS_WARN:
        return []
    level, floor = ("bad", MOS_BAD) if score < MOS_BAD else ("warn", MOS_WARN)
    return [(level, f"MOS {score:.2f} below {floor}")]


def _judged(figures: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Each limited figure with its value, of both directions and media."""
    rtt, gap = figures["rtt_ms"], figures["longest_gap"]
    values: list[tuple[str, float | None]] = [
        ("rtt_ms", rtt and rtt["p50"]),
        ("longest_gap_ms", gap and gap["ms"]),
    ]
    for direction in figures["directions"].values():
        audio = direction["audio"]
        if audio is None:
            continue
        one_way = audio["one_way_ms"]
        values += [
            ("loss", audio["loss"]),
            ("jitter_ms", audio["jitter_ms"]),
            ("one_way_ms", one_way and one_way["p50"]),
        ]
    return values


def _exceeds(name: str, value: float | None) -> tuple[str, str] | None:
    limit = LIMITS[name]
    if value is None or value < limit.warn:
        return None
    level, line = ("bad", limit.bad) if value >= limit.bad else ("warn", limit.warn)
    word = name.removesuffix("_ms").replace("_", " ")
    shown = (
        f"{100 * value:.1f} %, limit {100 * line:g} %"
        if name == "loss"
        else f"{value:.0f} ms, limit {line:g} ms"
    )
    return level, f"{word} {shown} ({limit.source})"
