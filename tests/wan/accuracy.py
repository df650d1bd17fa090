"""One cell of the accuracy table: what was set, what `commcli probe` told of it, and what the links really did.

A call is taken straight from edge to edge, since the overlay repairs losses. What it says of loss is held against the
very packets of media that were due in its window; of the mesh, against the very test packets of its windows. Of a call
through the overlay, it is the relays' word of the segment before repair, against their packets while the call lasted.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from commcli.store.sqlite import Store
from tests.wan.operator import Operator
from tests.wan.relays import OVERLAY, STAMP
from tests.wan.wan import Wan
from tests.wan.weather import Weather

ONE, OTHER, DESK = "ae-1", "kr-1", "desk"
NODES = {ONE: "10.77.0.1", OTHER: "10.77.0.2", DESK: "10.77.0.9"}
PORTS = {STAMP: "stamp", OVERLAY: "overlay"}
# An operator is somewhere else.
LINKS = {(DESK, ONE): Weather(delay_ms=10), (DESK, OTHER): Weather(delay_ms=10)}

# Payload types that aiortc offers for Opus and for VP8.
_MEDIA = ("rtp-96", "rtp-97")
_SETTLE_S = 0.5
_FLOWS, _STARTS_WITHIN_S = 100, 60.0

# What is asked of the figures.
RTT_MS, RTT_SHARE, FRAME_MS, LOSS = 2.0, 0.02, 5.0, 0.003
ENOUGH_PACKETS = 5000


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one direction: what the probe counted, and what the link did to the same packets."""

    expected: int
    lost: int
    true_packets: int
    true_lost: int

    @property
    def told(self) -> float | None:
        """0..1; None when nothing was expected."""
        return self.lost / self.expected if self.expected else None

    @property
    def true(self) -> float | None:
        return self.true_lost / self.true_packets if self.true_packets else None


@dataclass(frozen=True, slots=True)
class Frames:
    """Delays of one direction, p50 in ms: `arrived_ms` from a frame's painting to its last packet, that is `decoded_ms`
    without the stated share of the decoder, frame by frame. `encoder_ms` is the sender's stated share of both.
    """

    arrived_ms: float | None
    decoded_ms: float | None
    decoder_ms: float | None
    encoder_ms: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """Set: one way delay and loss (0..1), in both directions. Told: None is unmeasured.

    `losses`, `frames`: by direction.
    """

    delay_ms: float
    loss: float
    rtt_ms: float | None
    losses: Mapping[str, Loss]
    frames: Mapping[str, Frames] = field(default_factory=dict)

    @property
    def rtt_limit_ms(self) -> float:
        return max(RTT_MS, RTT_SHARE * 2 * self.delay_ms)

    def misses(self) -> list[str]:
        """What is not as exact as asked, in words."""
        found = []
        if self.rtt_ms is None or abs(self.rtt_ms - 2 * self.delay_ms) > self.rtt_limit_ms:
            found.append(f"RTT {_told(self.rtt_ms)} ms, set {2 * self.delay_ms:g}")
        for name, frames in self.frames.items():
            if frames.arrived_ms is None or abs(frames.arrived_ms - self.delay_ms) > FRAME_MS:
                found.append(f"frame delay {name} {_told(frames.arrived_ms)} ms, set {self.delay_ms:g}")
        for name, loss in self.losses.items():
            if loss.told is None or loss.true is None or abs(loss.told - loss.true) > LOSS:
                found.append(f"loss {name} {_percent(loss.told)} %, made {_percent(loss.true)} %")
        return found


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


class Site:
    """Two relays, a WAN between, and an operator at his desk; cells are measured one after the other."""

    def __init__(self, wan: Wan, operator: Operator) -> None:
        self._wan, self._operator = wan, operator

    def set(self, delay_ms: float, loss: float) -> float:
        """The link's weather from now on. Returns from when (unix s) what is measured is of it alone."""
        self._wan.link(ONE, OTHER, delay_ms=delay_ms, loss=loss)
        # What was on its way before came later than what is sent now would.
        time.sleep(_SETTLE_S)
        return time.time()

    def call(self, *words: str, direct: bool = True) -> dict[str, Any]:
        """The document of `commcli probe call` between the two."""
        way = ("--direct",) if direct else ()
        return self._operator.document("probe", "call", ONE, OTHER, *way, *words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start such a call, and wait until media flows. Raises AssertionError when it does not."""
        began = time.time()
        process = self._operator.popen("probe", "call", ONE, OTHER, "--direct", *words)
        while (
            sum(seen.packets for seen in self._wan.seen(began, time.time()) if seen.kind in _MEDIA) < _FLOWS
        ):
            assert process.poll() is None and time.time() < began + _STARTS_WITHIN_S, "no media"
            time.sleep(0.05)
        return process

    def judged(self, document: Mapping[str, Any], delay_ms: float, loss: float) -> Cell:
        """The cell of a call that connected."""
        losses: dict[str, Loss] = {}
        frames: dict[str, Frames] = {}
        for name, direction in document["directions"].items():
            src, dst, receiver = _ENDS[name]
            window = document["hosts"][receiver]["window"]
            true = self._true(src, dst, _MEDIA, [(window["start_s"], window["end_s"])])
            media = [direction[kind] for kind in ("audio", "video") if direction[kind]]
            expected, lost = (sum(medium[key] for medium in media) for key in ("expected", "lost"))
            losses[name] = Loss(expected, lost, *true)
            frames |= _frames(name, direction)
        return Cell(delay_ms, loss, _p50(document["rtt_ms"]), losses, frames)

    def judged_overlay(self, document: Mapping[str, Any], delay_ms: float, loss: float) -> Cell:
        """The cell of a call through the overlay that ended just now; without losses where no segment was told of."""
        losses: dict[str, Loss] = {}
        frames: dict[str, Frames] = {}
        for name, direction in document["directions"].items():
            src, dst, _ = _ENDS[name]
            rows = [hop["segment"] for path in direction["paths"] for hop in path["hops"] if hop["segment"]]
            if rows:
                true = self._true(src, dst, ("overlay",), [(document["unix"], time.time())])
                losses[name] = Loss(rows[0]["expected"], rows[0]["lost"], *true)
            frames |= _frames(name, direction)
        return Cell(delay_ms, loss, _p50(document["rtt_ms"]), losses, frames)

    def read_mesh(self) -> None:
        """`commcli probe mesh`: what the relays have so far is in the store then."""
        self._operator.document("probe", "mesh")

    def mesh(self, delay_ms: float, loss: float, since: float, until: float) -> Cell:
        """The cell of the mesh, of its windows that lie between these (unix s), after they were read."""
        with Store(self._operator.state / "commcli.sqlite3") as store:
            windows = [
                window
                for window in store.mesh(since, until)
                if window["start"] + window["seconds"] + 2 * delay_ms / 1000 <= until
            ]
        rtts = [window["rtt_ms"]["p50"] for window in windows if window["rtt_ms"]]
        losses = {
            name: self._mesh_loss(windows, src, dst, delay_ms / 1000) for name, (src, dst, _) in _ENDS.items()
        }
        return Cell(delay_ms, loss, median(rtts) if rtts else None, losses)

    def _mesh_loss(self, windows: Sequence[Mapping[str, Any]], src: str, dst: str, delay_s: float) -> Loss:
        """Of requests that `src` sent and of its answers to the requests of `dst`."""
        asked = [window for window in windows if window["node"] == src and window["loss_fwd"] is not None]
        answered = [window for window in windows if window["node"] == dst and window["loss_back"] is not None]
        expected = lost = 0
        for window in asked:
            expected += window["sent"]
            lost += round(window["loss_fwd"] * window["sent"])
        for window in answered:
            arrived = round(window["received"] / (1 - window["loss_back"]))
            expected += arrived
            lost += arrived - window["received"]
        true = [
            self._true(src, dst, ("stamp",), [_span(window, delay_s) for window in asked]),
            self._true(src, dst, ("stamp-reply",), [_span(window, 2 * delay_s) for window in answered]),
        ]
        return Loss(expected, lost, sum(packets for packets, _ in true), sum(lost for _, lost in true))

    def _true(
        self, src: str, dst: str, kinds: Iterable[str], spans: Iterable[tuple[float, float]]
    ) -> tuple[int, int]:
        packets = lost = 0
        for since, until in spans:
            for seen in self._wan.seen(since, until):
                if (seen.src, seen.dst) == (src, dst) and seen.kind in kinds:
                    packets += seen.packets
                    lost += seen.lost
        return packets, lost


# Direction -> from, to, and which of the call's ends receives it.
_ENDS = {"there": (ONE, OTHER, "to"), "back": (OTHER, ONE, "from")}
_FRAMES = ("frame_delay_ms", "decoded_delay_ms", "decoder_ms", "encoder_ms")


def _frames(name: str, direction: Mapping[str, Any]) -> dict[str, Frames]:
    video = direction["video"]
    return {name: Frames(*(_p50(video[key]) for key in _FRAMES))} if video else {}


def _span(window: Mapping[str, Any], later_s: float) -> tuple[float, float]:
    """When packets of a window come out of a link, if they were sent on their way so much before that."""
    return window["start"] + later_s, window["start"] + window["seconds"] + later_s


def _p50(spread: Mapping[str, Any] | None) -> float | None:
    return None if spread is None else spread["p50"]


def until_valid(
    make: Callable[[], dict[str, Any]], most: int, say: Callable[[str], None]
) -> tuple[dict[str, Any] | None, int]:
    """(the first document that is about the network, how many were made); None when all `most` were of starved hosts.

    Each that was not is told, with its reason.
    """
    for number in range(1, most + 1):
        document = make()
        if document["valid"]:
            return document, number
        said = [str(document["invalid_reason"]), *document["problems"]]
        say(f"call {number} of {most} is not valid: {'; '.join(said)}")
    return None, most
