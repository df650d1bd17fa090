"""A call of 20 s over a link that loses 5 % in bursts of 3: straight, and through the overlay. Side by side, one run.

Both ends are aiortc, as `commcli probe call` streams them; each stands beside its relay, in a namespace of its own,
with the user-space WAN of tests/wan between. Three calls a round, one after the other, over links with the same seed:
straight from relay to relay; through the overlay over the same bad link alone; through the overlay with a way around
by a third relay, as a fleet has it. To be read: the figures beside each other, and the ratios to the straight call.
`python -m tests.bench.overlay_call [--seconds 20] [--loss 5] [--burst 3] [--rtt 80] [--profile sd] [--rounds 1]`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commcli.probe.call import Ask
from commcli.probe.profiles import PROFILES
from tests.wan import calls, namespace
from tests.wan.relays import Relays, both_ways
from tests.wan.wan import Wan
from tests.wan.weather import Weather

NODES = {"br-1": "10.77.0.1", "cn-1": "10.77.0.2", "sg-1": "10.77.0.3"}
ONE, OTHER, THIRD = NODES
# The way around is this much longer than the bad link.
DETOUR = 1.25

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to make the call. paths: those of the table, best first."""

    name: str
    direct: bool
    paths: tuple[tuple[str, ...], ...]


STRAIGHT = Contestant("straight", True, ((ONE, OTHER),))
CONTESTANTS = (
    STRAIGHT,
    Contestant("overlay", False, ((ONE, OTHER),)),
    Contestant("overlay+detour", False, ((ONE, OTHER), (ONE, THIRD, OTHER))),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of one direction of a call, and how it is shown."""

    name: str
    form: str
    read: Callable[[Document], Any]


def _freezes(name: str) -> Callable[[Document], Any]:
    return lambda direction: direction["video"]["freezes"][name]


ROWS = (
    Row("audio: packets lost, %", "{:.2f}", lambda d: 100 * d["audio"]["loss"]),
    Row("audio: longest run lost, packets", "{:.0f}", lambda d: d["audio"]["longest_loss_burst"]),
    Row("audio: gaps of 200 ms (Agora), count", "{:.0f}", lambda d: d["audio"]["gaps_over_200_ms"]["count"]),
    Row("audio: longest gap, ms", "{:.0f}", lambda d: d["audio"]["longest_gap"]["ms"]),
    Row("audio: one way p50, ms", "{:.1f}", lambda d: d["audio"]["one_way_ms"]["p50"]),
    Row("audio: one way p95, ms", "{:.1f}", lambda d: d["audio"]["one_way_ms"]["p95"]),
    Row("audio: jitter (RFC 3550), ms", "{:.1f}", lambda d: d["audio"]["jitter_ms"]),
    Row("audio: MOS", "{:.2f}", lambda d: d["mos"]["mos"]),
    Row("video: packets lost (before RTX), %", "{:.2f}", lambda d: 100 * d["video"]["loss"]),
    Row("video: packets repaired by RTX", "{:.0f}", lambda d: d["video"]["repaired"]),
    Row("video: frames decoded a second", "{:.1f}", lambda d: d["video"]["fps"]),
    Row("freezes (webrtc-stats), count", "{:.0f}", lambda d: _freezes("webrtc")(d)["count"]),
    Row("freezes (webrtc-stats), ms", "{:.0f}", lambda d: _freezes("webrtc")(d)["total_ms"]),
    Row("freezes of 500 ms (Agora SDK), ms", "{:.0f}", lambda d: _freezes("agora_sdk_500_ms")(d)["total_ms"]),
    Row(
        "freezes of 600 ms (Agora analytics), ms",
        "{:.0f}",
        lambda d: _freezes("agora_analytics_600_ms")(d)["total_ms"],
    ),
    Row("frame delay p50 (painted to arrived), ms", "{:.1f}", lambda d: d["video"]["frame_delay_ms"]["p50"]),
    Row("frame delay p95 (painted to arrived), ms", "{:.1f}", lambda d: d["video"]["frame_delay_ms"]["p95"]),
    Row("frame delay p95 (painted to decoded), ms", "{:.1f}", lambda d: d["video"]["decoded_delay_ms"]["p95"]),
)  # fmt: skip


def read(row: Row, documents: Sequence[Document]) -> float | None:
    """The mean over both directions of all calls; None when nothing was measured."""
    found = []
    for document in documents:
        for direction in document["directions"].values():
            try:
                value = row.read(direction)
            except (KeyError, TypeError):
                continue  # that part of the call did not come about
            if value is not None:
                found.append(float(value))
    return statistics.mean(found) if found else None


def _table(documents: Mapping[str, Sequence[Document]]) -> None:
    others = [name for name in documents if name != STRAIGHT.name]
    print(f"  {'':40}" + "".join(f"{name:>16}" for name in documents) + "   ratios to straight")
    for row in ROWS:
        values = {name: read(row, of_one) for name, of_one in documents.items()}
        shown = "".join(
            f"{'-' if value is None else row.form.format(value):>16}" for value in values.values()
        )
        ratios = [_ratio(values[name], values[STRAIGHT.name]) for name in others]
        print(f"  {row.name:40}{shown}   {'  '.join(ratios)}")


def _ratio(ours: float | None, straight: float | None) -> str:
    return "    -" if not straight or ours is None else f"{ours / straight:5.2f}"


def _mos_inputs(name: str, document: Document) -> None:
    for word, direction in document["directions"].items():
        told = direction["mos"]
        if told is not None:
            print(
                f"  MOS of {name}, {word}: {told['mos']:.2f} by {told['model']}; {told['codec']}, Ie {told['ie']},"
                f" Bpl {told['bpl']}, loss {100 * told['loss']:.2f} %, BurstR {told['burst_ratio']:.2f},"
                f" mouth to ear {told['mouth_to_ear_ms']:.0f} ms"
                f" (network {told['network_ms']:.0f}: {told['network_from']})"
            )


def _one(contestant: Contestant, wanted: argparse.Namespace, seed: int) -> Document:
    """One call over a network of its own."""
    bad = Weather(delay_ms=wanted.rtt / 2, loss=wanted.loss / 100, burst=wanted.burst)
    clean = Weather(delay_ms=DETOUR * wanted.rtt / 4)
    links = {(ONE, OTHER): bad, (ONE, THIRD): clean, (THIRD, OTHER): clean}
    with tempfile.TemporaryDirectory(prefix="commcli-wan-") as name, Wan(NODES, links, seed=seed) as wan:
        folder = Path(name)
        with Relays(wan, folder, list(NODES)) as relays:
            relays.publish(both_ways(*contestant.paths))
            relays.wait_until_paths_answer()
            ask = Ask(ONE, OTHER, direct=contestant.direct, seconds=wanted.seconds, profile=wanted.profile)
            document = asyncio.run(calls.call(relays, ask, relays.base(ONE) / "etc/turn.secret"))
            told = wan.figures()
    link = [told.links[pair] for pair in ((ONE, OTHER), (OTHER, ONE))]
    lost, packets = (sum(getattr(counts, word) for counts in link) for word in ("lost", "packets"))
    paths = {word: "-".join(d["path"] or ["?"]) for word, d in document["directions"].items()}
    way = "straight" if contestant.direct else f"there {paths['there']}, back {paths['back']}"
    print(
        f"  {contestant.name}: {'valid' if document['valid'] else document['invalid_reason']}; the bad link lost"
        f" {100 * lost / packets:.1f} % of {packets}; {way}"
        f"{'; ' + '; '.join(document['problems']) if document['problems'] else ''}",
        flush=True,
    )
    return document


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="overlay_call")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loss", type=float, default=5.0)
    parser.add_argument("--burst", type=float, default=3.0)
    parser.add_argument("--rtt", type=float, default=80.0)
    parser.add_argument("--profile", choices=PROFILES, default="sd")
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Print the calls side by side."""
    wanted = _arguments()
    print(
        f"overlay_call: {wanted.seconds:g} s of {wanted.profile}, aiortc at both ends, {wanted.loss:g} % lost in bursts"
        f" of {wanted.burst:g} at {wanted.rtt:g} ms RTT; means of both directions",
        flush=True,
    )
    if reason := namespace.refusal():
        print(f"overlay_call: {reason}: nothing measured")
        return
    documents: dict[str, list[Document]] = {contestant.name: [] for contestant in CONTESTANTS}
    for number in range(wanted.rounds):
        for contestant in CONTESTANTS:
            documents[contestant.name].append(_one(contestant, wanted, number + 1))
    _table(documents)
    for name, of_one in documents.items():
        _mos_inputs(name, of_one[0])


if __name__ == "__main__":
    main()
