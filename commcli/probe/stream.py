"""What one endpoint received, as plain records, and the figures that follow from them. Pure.

Delays here are `raw`: the receiver's clock minus the sender's. They become true with the clocks' offset (clock.py),
which only the controller knows, because it hears both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from commcli.probe import quality

# abs-send-time is 24 bits of seconds in 6.18 fixed point: it wraps every 64 s.
_ABS_SEND_UNITS = 1 << 18
_ABS_SEND_WRAP_S = 64
# A stamp that is this far from where its frame's media time puts it was read from a damaged picture.
_STAMP_TOLERANCE_MS = 250
_STAMP_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet as it arrived. `abs_send` is the sender's 24-bit clock, None where it was not sent; `original` is
    the number of the packet that this one repeats (RTX), else None.
    """

    arrival_s: float
    sequence: int
    timestamp: int
    size: int
    abs_send: int | None
    original: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: its RTP timestamp, when it left the decoder, and the time painted into it (ms mod 2^32)."""

    timestamp: int
    decoded_s: float
    stamp_ms: int | None


@dataclass(slots=True)
class Received:
    """Everything of one medium. `primary` and `repair` (RTX) are separate SSRCs with separate sequence numbers."""

    kind: str
    clock_rate: int
    primary: list[Packet] = field(default_factory=list)
    repair: list[Packet] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    nacks: list[tuple[float, int]] = field(
        default_factory=list
    )  # when we asked for packets again, and how many
    plis: list[float] = field(default_factory=list)  # when we asked for a key frame


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is measured, by the receiver's clock (unix seconds)."""

    start_s: float
    end_s: float

    def holds(self, moment_s: float) -> bool:
        return self.start_s <= moment_s < self.end_s


def one_way_raw_ms(packet: Packet) -> float | None:
    """Arrival minus sending, +-32 s, with the clocks' offset still in it; None without abs-send-time."""
    if packet.abs_send is None:
        return None
    half = _ABS_SEND_WRAP_S / 2
    # The NTP epoch is a whole number of 64 s before the unix epoch, so it falls out.
    difference = packet.arrival_s - packet.abs_send / _ABS_SEND_UNITS
    return 1000 * ((difference + half) % _ABS_SEND_WRAP_S - half)


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """The figures that we keep of a distribution: {"samples", "min", "p50", "p95", "p99", "max"}."""
    return {
        "samples": len(values),
        "min": min(values, default=None),
        "p50": quality.percentile(values, 50),
        "p95": quality.percentile(values, 95),
        "p99": quality.percentile(values, 99),
        "max": max(values, default=None),
    }


def summarize(received: Received, window: Window) -> dict[str, Any] | None:
    """The JSON-able figures of one medium in `window`; None when not one packet of it arrived."""
    packets = [packet for packet in received.primary if window.holds(packet.arrival_s)]
    if not packets:
        return None
    counted = quality.count_sequence([packet.sequence for packet in packets])
    arrivals = [packet.arrival_s for packet in packets]
    delays = [delay for packet in packets if (delay := one_way_raw_ms(packet)) is not None]
    gap = quality.longest_gap(arrivals, window.end_s)
    summary: dict[str, Any] = {
        "packets": counted.received,
        "expected": counted.expected,
        "lost": counted.lost,
        "loss": counted.loss,
        "loss_by_second": spread(_loss_by_second(packets, window)),
        "duplicates": counted.duplicates,
        "reordered": counted.reordered,
        "longest_loss_burst": counted.longest_burst,
        "burst_ratio": counted.burst_ratio,
        **_repairs(received, packets, window),
        "jitter_ms": quality.jitter_ms(
            arrivals, [packet.timestamp for packet in packets], received.clock_rate
        ),
        "bitrate_kbps": 8 * sum(packet.size for packet in packets) / (window.end_s - window.start_s) / 1000,
        "one_way_raw_ms": spread(delays),
        "longest_gap": asdict(gap) if gap else None,
    }
    if received.kind == "video":
        summary.update(_frames(received, window))
    else:
        summary["gaps_over_200_ms"] = asdict(quality.freezes_over([*arrivals, window.end_s], 200))
    return summary


def _loss_by_second(packets: Sequence[Packet], window: Window) -> list[float]:
    """The loss 0..1 of each whole second in which two packets or more came; what is lost between two counts later."""
    numbers = quality.unwrap16([packet.sequence for packet in packets])
    seconds: dict[int, set[int]] = {}
    for packet, number in zip(packets, numbers, strict=True):
        seconds.setdefault(int(packet.arrival_s - window.start_s), set()).add(number)
    losses = []
    before: int | None = None
    for _, seen in sorted(seconds.items()):
        first = min(seen) if before is None else before + 1
        last = max(seen)
        if last > first:
            losses.append(1 - sum(number >= first for number in seen) / (last - first + 1))
        before = last if before is None else max(before, last)
    return losses


def _repairs(received: Received, packets: Sequence[Packet], window: Window) -> dict[str, int]:
    """What was asked for again, what came again, and which of the lost packets that made good.

    `nacks_sent` counts packets asked for, each time; `retransmitted` RTX packets; `repaired` lost packets that one of
    those brought after all, `unrepaired` those that never came. Audio is not sent again.
    """
    repeats = [packet for packet in received.repair if window.holds(packet.arrival_s)]
    seen = set(quality.unwrap16([packet.sequence for packet in packets]))
    lost = {number & 0xFFFF for number in range(min(seen), max(seen)) if number not in seen}
    # Also what came after the window's end, where it had been asked for before.
    repaired = lost & {packet.original for packet in received.repair}
    return {
        "nacks_sent": sum(count for at, count in received.nacks if window.holds(at)),
        "plis_sent": sum(window.holds(at) for at in received.plis),
        "retransmitted": len(repeats),
        "repaired": len(repaired),
        "unrepaired": len(lost - repaired),
    }


def _frames(received: Received, window: Window) -> dict[str, Any]:
    frames = [frame for frame in received.frames if window.holds(frame.decoded_s)]
    times = [frame.decoded_s for frame in frames]
    readable = _readable(frames, received.clock_rate)
    return {
        "frames": len(frames),
        "fps": len(frames) / (window.end_s - window.start_s),
        "stamps_unreadable": len(frames) - len(readable),
        **_frame_delays(received, frames, readable),
        "freezes": {
            "webrtc": asdict(quality.freezes_webrtc(times)),
            "agora_sdk_500_ms": asdict(quality.freezes_over(_shown(received, times, window), 500)),
            "agora_analytics_600_ms": asdict(quality.freezes_over(_shown(received, times, window), 600)),
        },
    }


def _shown(received: Received, times: Sequence[float], window: Window) -> list[float]:
    """When the picture changed, and the window's ends where one stood still then: a video that died is frozen."""
    stood = any(frame.decoded_s < window.start_s for frame in received.frames)
    return [*([window.start_s] if stood else []), *times, *([window.end_s] if stood or times else [])]


def _frame_delays(
    received: Received, frames: Sequence[Frame], readable: Sequence[Frame]
) -> dict[str, dict[str, float | int | None]]:
    """Where a frame's time went: painted, `encoder_ms`, first packet out, the network, last packet in, `decoder_ms`,
    picture out. The network's delay is in the first two, with the clocks' offset; the shares are each of one clock.
    The decoder's holds its wait for frames before this one, too: after a loss that is most of it.
    """
    complete, sent = _completion(received), _departure(received)
    stamped = [(frame, frame.stamp_ms) for frame in readable if frame.stamp_ms is not None]
    return {
        "frame_raw_ms": spread(
            [_since(stamp, complete[f.timestamp]) for f, stamp in stamped if f.timestamp in complete]
        ),
        "decoded_raw_ms": spread([_since(stamp, frame.decoded_s) for frame, stamp in stamped]),
        "encoder_ms": spread(
            [_encoding_ms(f, stamp, sent[f.timestamp]) for f, stamp in stamped if f.timestamp in sent]
        ),
        "decoder_ms": spread(
            [1000 * (f.decoded_s - complete[f.timestamp]) for f in frames if f.timestamp in complete]
        ),
    }


def _departure(received: Received) -> dict[int, int]:
    """When the first packet of each frame was sent, by the sender's 24-bit clock, by RTP timestamp."""
    sent: dict[int, int] = {}
    for packet in received.primary:
        if packet.abs_send is not None:
            sent.setdefault(packet.timestamp, packet.abs_send)
    return sent


def _encoding_ms(frame: Frame, stamp_ms: int, abs_send: int) -> float:
    """From painted to sent, both by the sender's clock."""
    painted_s = frame.decoded_s - _since(stamp_ms, frame.decoded_s) / 1000
    half = _ABS_SEND_WRAP_S / 2
    return 1000 * ((abs_send / _ABS_SEND_UNITS - painted_s + half) % _ABS_SEND_WRAP_S - half)


def _completion(received: Received) -> dict[int, float]:
    """When the last packet of each frame arrived, repaired ones included, by RTP timestamp."""
    complete: dict[int, float] = {}
    for packet in (*received.primary, *received.repair):
        complete[packet.timestamp] = max(packet.arrival_s, complete.get(packet.timestamp, packet.arrival_s))
    return complete


def _readable(frames: Sequence[Frame], clock_rate: int) -> list[Frame]:
    """The frames whose stamp fits their media time; after a loss the decoder shows old or mixed pictures."""
    stamped = [frame for frame in frames if frame.stamp_ms is not None]
    if not stamped:
        return []
    first = stamped[0]
    slips = [_slip_ms(first, frame, clock_rate) for frame in stamped]
    usual = median(slips)
    return [
        frame for frame, slip in zip(stamped, slips, strict=True) if abs(slip - usual) <= _STAMP_TOLERANCE_MS
    ]


def _slip_ms(first: Frame, frame: Frame, clock_rate: int) -> float:
    """By how much the painted time ran ahead of the media time since `first`."""
    assert first.stamp_ms is not None and frame.stamp_ms is not None
    painted = _signed32(frame.stamp_ms - first.stamp_ms)
    return painted - 1000 * _signed32(frame.timestamp - first.timestamp) / clock_rate


def _signed32(value: int) -> int:
    return (value + 0x80000000) % _STAMP_WRAP - 0x80000000


def _since(stamp_ms: int, moment_s: float) -> float:
    """Milliseconds from the painted time to `moment_s`. The stamp was cut to whole ms, so half of one is added."""
    return (1000 * moment_s - (stamp_ms + 0.5) + 0x80000000) % _STAMP_WRAP - 0x80000000
