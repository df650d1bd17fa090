"""What protection leaves of loss, what it adds, and how late the repaired come: whole overlays in simulated time.

Calls with audio and video both ways between two relays, over one segment that loses as many packets as are to be
lost, each way, independently or in bursts of three on average. The relays learn what the segment is like from their
own reports; then is measured. Where a fifth is lost, they also find out whether it is they who make the loss
(`protect.policing`): three seconds in ten minutes without protection, mostly before it is measured. To be read:

  left      packets that never came, of those sent
  added     bytes of parity, repeats, copies and requests for a byte of media
  late      came more than 67 ms (what `plans` calls prompt) after their time, or never
  repaired  how long those took that the link had lost, over the delay of the link: median, and 99 of 100
  all       the same of all packets, 99 of 100

Every figure is the median of some seeds and, in brackets, the worst. Then: the first seconds after a clean segment
becomes a bad one, when nobody knows it yet. `python -m tests.bench.protection [--rtt 20,80,200] [--loss 1,3,5,10,20]
[--burst 1,3] [--calls 1,10] [--seeds 3] [--seconds 20]`
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from commcli.relay.protect.plans import MOST_PROMPT_S
from tests.bench import figures
from tests.relay.lossy_world import LossyWorld, Share
from tests.relay.overlay_world import Plan

SETTLE_S = 20.0  # longer than the estimates' memory, and a trial
LINGER_S = 1.5
ENDS = ("aa-1", "bb-1")
# (loss in %, mean burst, RTT in ms) -> the most that may be left and added, both in %.
TARGETS = {(3.0, 1.0, 80): (0.1, 15.0), (10.0, 3.0, 80): (1.0, 100.0)}


@dataclass(frozen=True)
class Cell:
    """One segment and load."""

    rtt_ms: int
    loss: float  # in %
    burst: float
    calls: int

    def world(self, seed: int) -> LossyWorld:
        return LossyWorld(Plan(ENDS, [ENDS, ENDS[::-1]]), {}, {"delay_ms": self.rtt_ms / 2}, seed)

    @property
    def rule(self) -> dict[str, float]:
        return {"delay_ms": self.rtt_ms / 2, "loss": self.loss / 100, "burst": self.burst}


@dataclass(frozen=True)
class Found:
    """One run. Shares in %, times in ms."""

    link_loss: float
    left: float
    added: float
    late: float
    repaired_p50: float
    repaired_p99: float
    all_p99: float


def _found(share: Share, added: float) -> Found:
    return Found(
        link_loss=100 * share.hit / max(1, share.sent),
        left=100 * share.residual,
        added=100 * added,
        late=100 * share.later_than(MOST_PROMPT_S),
        repaired_p50=1000 * figures.percentile(share.added_repaired, 0.5),
        repaired_p99=1000 * figures.percentile(share.added_repaired, 0.99),
        all_p99=1000 * figures.percentile(share.added, 0.99),
    )


def measure(cell: Cell, seed: int, seconds: float) -> Found:
    """A segment that has been like this for some time."""
    world = cell.world(seed)
    world.weather(*ENDS, cell.rule)
    streams = world.call(*ENDS, cell.calls)
    world.run(SETTLE_S)
    began, before = world.now, world.bytes.copy()
    world.run(seconds)
    ended, spent = world.now, world.bytes - before
    world.run(LINGER_S)
    return _found(world.share(streams, began, ended), added(spent))


def added(spent: dict[tuple[str, str, str], int]) -> float:
    """Bytes that protect, for a byte of what they protect."""
    of_kind = dict.fromkeys(("data", "again", "parity", "nack"), 0)
    for (_, _, kind), count in spent.items():
        if kind in of_kind:
            of_kind[kind] += count
    return (sum(of_kind.values()) - of_kind["data"]) / max(1, of_kind["data"])


def onset(cell: Cell, seed: int, windows_s: Sequence[tuple[float, float]]) -> list[float]:
    """What is left in such windows after a clean segment begins to lose, in %."""
    world = cell.world(seed)
    streams = world.call(*ENDS, cell.calls)
    world.run(SETTLE_S)
    world.weather(*ENDS, cell.rule)
    began = world.now
    world.run(max(end for _, end in windows_s) + LINGER_S)
    return [100 * world.share(streams, began + start, began + end).residual for start, end in windows_s]


# --- printing ------------------------------------------------------------------------------------------------


def _worst(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})"


def _row(cell: Cell, runs: Sequence[Found]) -> str:
    columns = [
        f"{cell.rtt_ms:4} {cell.loss:5g} {cell.burst:5g} {cell.calls:5}",
        f"{statistics.median(run.link_loss for run in runs):5.1f}",
        *(f"{_worst([getattr(run, name) for run in runs], digits):>15}" for name, digits in COLUMNS),
    ]
    return " ".join(columns)


COLUMNS = [
    ("left", 3), ("added", 1), ("late", 2), ("repaired_p50", 0), ("repaired_p99", 0), ("all_p99", 0),
]  # fmt: skip
WINDOWS_S = [(0.0, 0.5), (0.5, 1.0), (1.0, 3.0), (3.0, 10.0)]


def _judge(cell: Cell, runs: Sequence[Found]) -> None:
    target = TARGETS.get((cell.loss, cell.burst, cell.rtt_ms))
    if target is None:
        return
    what = f"{cell.calls} calls, {cell.loss:g} % in bursts of {cell.burst:g}, {cell.rtt_ms} ms"
    for name, most in zip(("left", "added"), target, strict=True):
        values = [getattr(run, name) for run in runs]
        figures.line(f"{what}: {name}", f"{figures.spread(values, '.3f')} %", max(values), most, "%")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    """Print the tables, and the targets."""
    parser = argparse.ArgumentParser()
    for name, usual in (("rtt", "20,80,200"), ("loss", "1,3,5,10,20"), ("burst", "1,3"), ("calls", "1,10")):
        parser.add_argument(f"--{name}", type=_numbers, default=_numbers(usual))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    cells = [
        Cell(int(rtt), loss, burst, int(calls))
        for calls in asked.calls
        for rtt in asked.rtt
        for burst in asked.burst
        for loss in asked.loss
    ]
    print(
        f"median (worst) of {asked.seeds} seeds, {asked.seconds:g} s each; loss and shares in %, times in ms"
    )
    names = "".join(f"{name.replace('_', ' '):>16}" for name, _ in COLUMNS)
    print(f" RTT  loss burst calls  link{names}")
    judged = {}
    for cell in cells:
        # Ten calls are as many packets as ten times the seconds, and nobody waits for that.
        seconds = asked.seconds / (2 if cell.calls > 1 else 1)
        judged[cell] = [measure(cell, seed, seconds) for seed in range(1, asked.seeds + 1)]
        print(_row(cell, judged[cell]), flush=True)
    for cell, runs in judged.items():
        _judge(cell, runs)
    _print_onsets([cell for cell in cells if (cell.loss, cell.burst, cell.rtt_ms) in TARGETS], asked.seeds)


def _print_onsets(cells: Sequence[Cell], seeds: int) -> None:
    spans = ", ".join(f"{start:g}-{end:g} s" for start, end in WINDOWS_S)
    print(f"left in % after a clean segment begins to lose, {spans}: median (worst)")
    for cell in cells:
        runs = [onset(cell, seed, WINDOWS_S) for seed in range(1, seeds + 1)]
        windows = "  ".join(_worst(window, 2) for window in zip(*runs, strict=True))
        print(
            f"  {cell.rtt_ms} ms, {cell.loss:g} % in bursts of {cell.burst:g}, {cell.calls} calls: {windows}"
        )


if __name__ == "__main__":
    main()
