"""From what both ends and the relays told to the measured part of a call's document: delays, MOS, hops. Pure.

"there" is from the first named end to the second, "back" the other way; each direction's figures were taken by its
receiver. Unmeasured is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.probe import hops
from commcli.probe.clock import KernelClock, Offset, compare
from commcli.probe.profiles import Profile
from commcli.probe.quality import mos, opus, r_factor

# Before a packet of speech can leave, the speech in it and Opus' look-ahead have passed.
OPUS_LOOK_AHEAD_MS = 6.5
MODEL = "ITU-T G.107 E-model, default parameters"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a call left behind. A report is None for an end that sent none."""

    profile: Profile
    there: Mapping[str, Any] | None  # the report of the end that receives "there": the second one
    back: Mapping[str, Any] | None
    relayed: tuple[hops.Address | None, hops.Address | None]  # of the first and of the second end
    edges: tuple[str, str]
    before: hops.Readings
    after: hops.Readings


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
        "unasked": sorted(node for node, told in evidence.after.items() if told is None),
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
    audio, video = _audio(received.get("audio"), offset), _video(received.get("video"), offset)
    ways = _hops(evidence, src, dst, edges)
    return {
        "audio": audio,
        "video": video,
        "mos": _mos(audio, _rtt(report), evidence.profile),
        "counts": _counts([medium for medium in (audio, video) if medium is not None], ways["paths"]),
        **ways,
    }


def _audio(figures: Mapping[str, Any] | None, offset: Offset | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    kept = {key: value for key, value in figures.items() if key != "one_way_raw_ms"}
    return {**kept, "one_way_ms": _corrected(figures["one_way_raw_ms"], offset)}


def _video(figures: Mapping[str, Any] | None, offset: Offset | None) -> dict[str, Any] | None:
    """`frame_delay_ms`: painted to last packet in. `decoded_delay_ms` adds the decoder and what it waited for."""
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


def _mos(
    audio: Mapping[str, Any] | None, rtt: Mapping[str, Any] | None, profile: Profile
) -> dict[str, Any] | None:
    """MOS of the audio with model and inputs. The delay is what 95 % of the packets kept: a playout buffer's view."""
    if audio is None or audio["loss"] is None:
        return None
    if audio["one_way_ms"] is not None:
        network_ms, taken_from = audio["one_way_ms"]["p95"], "one-way p95"
    elif rtt is not None and rtt["p95"] is not None:
        network_ms, taken_from = rtt["p95"] / 2, "half of RTT p95"
    else:
        return None
    codec = opus(profile.audio_kbps)
    mouth_to_ear_ms = max(0.0, network_ms) + profile.audio_packet_ms + OPUS_LOOK_AHEAD_MS
    r = r_factor(mouth_to_ear_ms, audio["loss"], codec, audio["burst_ratio"])
    return {
        "mos": mos(r),
        "r": r,
        "model": MODEL,
        "codec": codec.name,
        "ie": codec.ie,
        "bpl": codec.bpl,
        "loss": audio["loss"],
        "burst_ratio": audio["burst_ratio"],
        "mouth_to_ear_ms": mouth_to_ear_ms,
        "network_ms": network_ms,
        "network_from": taken_from,
    }


def _counts(media: Sequence[Mapping[str, Any]], paths: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Packets, by who made good for them: {"lost", "retransmitted", "repaired_by_rtx", "repaired", "sent_again",
    "lost_between_relays"}.

    lost: what the receiver missed of the first sending; retransmitted: RTX packets (RFC 4588) that it got;
    repaired_by_rtx: what of the lost came so. The others are of all datagrams on the paths' segments while the call
    lasted: what the overlay repaired, what it sent again, and what was lost there before repair.
    """
    rows = {(hop["from"], hop["to"]): hop["segment"] for path in paths for hop in path["hops"]}
    return {
        "lost": _sum(medium["lost"] for medium in media),
        "retransmitted": _sum(medium["retransmitted"] for medium in media),
        "repaired_by_rtx": _sum(medium["repaired"] for medium in media),
        "repaired": _sum(row["repaired"] for row in rows.values() if row),
        "sent_again": _sum(row["sent_again"] for row in rows.values() if row),
        "lost_between_relays": _sum(row["lost"] for row in rows.values() if row),
    }


def _sum(values: Iterable[int | None]) -> int | None:
    """None where nothing was counted."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _hops(
    evidence: Evidence, src: hops.Address | None, dst: hops.Address | None, edges: tuple[str, ...]
) -> dict[str, Any]:
    """`path`: the nodes most packets passed. Straight if both edges were asked and counted no overlay packet."""
    unknown: dict[str, Any] = {"path": None, "straight": None, "paths": []}
    if src is None or dst is None:
        return unknown
    uses = hops.reconstruct(src, dst, evidence.before, evidence.after)
    if uses:
        return {"path": list(uses[0].path), "straight": False, "paths": [use.row() for use in uses]}
    if any(evidence.after.get(edge) is None for edge in edges):
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
    told = {key: report[key] for key in ("window", "sent", "valid", "reason")}
    return {**report["host"], **told}
