"""How exact the probes are: delay and loss set on a link, and what `commcli probe call` and `probe mesh` say of them.

Two real relays with a real OpenSSH server each, and an operator who runs `commcli`, in network namespaces with the
user-space WAN of tests/wan between. Each call goes straight (--direct), since the overlay would repair the losses. Of
every packet the WAN remembers what became of it: the probe's loss is held against those very packets, and beside it
stands what was set, from which that many packets stray by chance alone. A call that its hosts were too starved for says
so (valid: false); it is told here and repeated. All of this has a real-time priority where that is allowed (root): on
machines of their own, as they would be, nothing waits for this machine's other programs.
`python -m tests.bench.probe_accuracy [--delays 0,40,100,200] [--losses 0,1,3,10] [--profile sd] [--seconds 66]`
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from commcli.probe.profiles import PROFILES
from commcli.relay.mesh import budget
from tests.wan import accuracy, namespace
from tests.wan.accuracy import DESK, LINKS, NODES, ONE, OTHER, PORTS, Cell, Frames, Loss, Site
from tests.wan.operator import Operator
from tests.wan.relays import Relays, both_ways
from tests.wan.wan import Wan

TRIES = 4
# The most that a node may be told to send to one peer.
MESH_RATE = budget.MOST.per_peer
MESH = {"mesh": {"packets_a_second": MESH_RATE, "per_peer": MESH_RATE}}
# The mesh's longest window at this rate, and its wait for the last answers.
CLOSES_S = 14.0
GONE_WITHIN_S = 120.0
OVERLAY_DELAY_MS, OVERLAY_CALL_S = 40.0, 60.0

Row = tuple[float, float, Cell | None, int]


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="probe_accuracy")
    parser.add_argument("--delays", type=_numbers, default=[0, 40, 100, 200], help="one way, ms")
    parser.add_argument("--losses", type=_numbers, default=[0, 1, 3, 10], help="%%")
    parser.add_argument("--profile", choices=PROFILES, default="sd")
    parser.add_argument("--seconds", type=float, default=66.0)
    return parser.parse_args()


def _straight(site: Site, wanted: argparse.Namespace) -> Iterator[tuple[Row, tuple[float, float]]]:
    """A row a cell as it is measured, and the time (unix s) in which the link was so."""
    words = ("--profile", wanted.profile, "--seconds", f"{wanted.seconds:g}")
    for delay_ms in wanted.delays:
        for percent in wanted.losses:
            loss = percent / 100
            since = site.set(delay_ms, loss)

            document, tries = _valid(site, *words)
            until = time.time()
            site.read_mesh()
            cell = None if document is None else site.judged(document, delay_ms, loss)
            yield (delay_ms, loss, cell, tries), (since, until)


def _overlay(site: Site, wanted: argparse.Namespace) -> list[Cell]:
    """At one delay, each loss: what the relays say of their segment, while they repair what it loses."""
    words = ("--profile", wanted.profile, "--seconds", f"{OVERLAY_CALL_S:g}")
    print(
        f"  probe call {' '.join(words)}, through the overlay: the loss is the segment's, before repair",
        flush=True,
    )
    found = []
    for percent in wanted.losses:
        site.set(OVERLAY_DELAY_MS, percent / 100)
        document, tries = _valid(site, *words, direct=False)
        cell = None if document is None else site.judged_overlay(document, OVERLAY_DELAY_MS, percent / 100)
        _call_row((OVERLAY_DELAY_MS, percent / 100, cell, tries))
        found += [] if cell is None else [cell]
    return found


def _valid(site: Site, *words: str, direct: bool = True) -> tuple[dict[str, Any] | None, int]:
    return accuracy.until_valid(lambda: site.call(*words, direct=direct), TRIES, _say)


def _ahead(pid: int, priority: int) -> None:
    """The process before all that is not ours, and what it starts as well; where that is not allowed, as it is.

    On machines of their own, as they would be, an end, a relay and a link never wait for other programs.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))


def _say(text: str) -> None:
    print(f"    {text}", flush=True)


def _call_head(wanted: argparse.Namespace) -> None:
    print(f"  probe call --direct --profile {wanted.profile} --seconds {wanted.seconds:g}", flush=True)
    print(
        "    set           RTT, ms           frame delay p50, ms: decoded - decoder = off by"
        "     loss, %: told / made by the link / off       packets    tries"
    )
    print(
        f"    {'ms':>4} {'%':>4}    {'p50':>7} {'off':>6}    {'there':>20}   {'back':>20}"
        f"     {'there':>22}   {'back':>22}  there   back"
    )


def _call_row(row: Row) -> None:
    delay_ms, loss, cell, tries = row
    if cell is None:
        print(f"    {delay_ms:4g} {100 * loss:4g}    not valid after {tries} tries: MISSED", flush=True)
        return
    frames = "   ".join(_frames(told, delay_ms) for told in cell.frames.values())
    print(f"    {_head(cell)}    {frames}     {_losses(cell)} {tries:5}{_missed(cell)}", flush=True)


def _mesh_rows(site: Site, spans: Sequence[tuple[float, float, float, float]]) -> list[Cell]:
    print(f"  probe mesh: windows of 10 s, {MESH_RATE:g} packets a second each, while those calls were made")
    print("    set           RTT, ms         loss, %: told / made by the link / off           packets")
    found = []
    for delay_ms, loss, since, until in spans:
        cell = site.mesh(delay_ms, loss, since, until)
        found.append(cell)
        print(f"    {_head(cell)}     {_losses(cell)}{_missed(cell)}", flush=True)
    return found


def _head(cell: Cell) -> str:
    off = None if cell.rtt_ms is None else cell.rtt_ms - 2 * cell.delay_ms
    return f"{cell.delay_ms:4g} {100 * cell.loss:4g}    {_shown(cell.rtt_ms, 2):>7} {_shown(off, 2, '+'):>6}"


def _frames(told: Frames, delay_ms: float) -> str:
    off = None if told.arrived_ms is None else told.arrived_ms - delay_ms
    return f"{_shown(told.decoded_ms):>5} - {_shown(told.decoder_ms):>4} = {_shown(off, 1, '+'):>5}"


def _losses(cell: Cell) -> str:
    shown = [
        f"{_percent(loss.told):>5} / {_percent(loss.true):>5} / {_percent(_off(loss), '+'):>6}"
        for loss in cell.losses.values()
    ]
    counts = [f"{loss.expected:6}" for loss in cell.losses.values()]
    return f"{'   '.join(shown)} {' '.join(counts)}"


def _missed(cell: Cell) -> str:
    misses = cell.misses()
    return f"  MISSED: {'; '.join(misses)}" if misses else ""


def _off(loss: Loss) -> float | None:
    return None if loss.told is None or loss.true is None else loss.told - loss.true


def _shown(value: float | None, digits: int = 1, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.2f}"


def _against_set(name: str, cells: Sequence[Cell]) -> None:
    """All packets at one setting together, against what was set: chance has its part in this."""
    by_loss: dict[float, list[Loss]] = {}
    for cell in cells:
        by_loss.setdefault(cell.loss, []).extend(cell.losses.values())
    for share, losses in by_loss.items():
        expected, lost = (sum(getattr(loss, word) for loss in losses) for word in ("expected", "lost"))
        if expected:
            sigma = math.sqrt(share * (1 - share) / expected)
            print(
                f"  {name}, all at {100 * share:g} % set: {100 * lost / expected:.2f} % of {expected} packets, off by"
                f" {100 * (lost / expected - share):+.2f} points (chance: one sigma {100 * sigma:.2f})"
            )


def _summary(name: str, cells: Sequence[Cell], invalid: int) -> None:
    misses = [miss for cell in cells for miss in cell.misses()]
    rtt = [abs(cell.rtt_ms - 2 * cell.delay_ms) for cell in cells if cell.rtt_ms is not None]
    frame = [
        abs(told.arrived_ms - cell.delay_ms)
        for cell in cells
        for told in cell.frames.values()
        if told.arrived_ms is not None
    ]
    loss = [abs(off) for cell in cells for one in cell.losses.values() if (off := _off(one)) is not None]
    few = min((one.expected for cell in cells for one in cell.losses.values()), default=0)
    worst = [f"RTT {max(rtt, default=math.nan):.2f} ms"]
    worst += [f"frame delay {max(frame):.2f} ms"] if frame else []
    worst += [f"loss {100 * max(loss, default=math.nan):.2f} points"]
    print(
        f"  {name}: worst {', '.join(worst)}; at least {few} packets a direction; {len(cells)} cells,"
        f" {len(misses)} misses, {invalid} without a valid call"
    )


def _measure(site: Site, wanted: argparse.Namespace) -> None:
    _call_head(wanted)
    rows, spans = [], []
    for row, (since, until) in _straight(site, wanted):
        _call_row(row)
        rows.append(row)
        spans.append((*row[:2], since, until))
    time.sleep(CLOSES_S)
    site.read_mesh()
    mesh = _mesh_rows(site, spans)
    overlay = _overlay(site, wanted)
    calls = [cell for _, _, cell, _ in rows if cell is not None]
    for name, cells in (("calls", calls), ("mesh", mesh)):
        _against_set(name, cells)
    _summary("calls", calls, len(rows) - len(calls))
    _summary("mesh", mesh, 0)
    _summary("overlay", overlay, len(wanted.losses) - len(overlay))


def _starve(site: Site, operator: Operator) -> None:
    """An end that gets half of the CPU it needs: the call is to be worth nothing, and to say so."""
    process = site.start("--seconds", "5", "--json")
    with operator.starved(OTHER):
        out, _ = process.communicate(timeout=120)
    told = json.loads(out)
    print(
        f"  {OTHER} starved: exit code {process.returncode}, verdict {told['verdict']}: {told['invalid_reason']}"
    )


def _cut(site: Site, operator: Operator, wan: Wan, relays: Relays) -> None:
    """The operator's way to one end swallows everything from the middle of a call on."""
    began = time.monotonic()
    process = site.start("--seconds", "5", "--json")
    wan.link(DESK, OTHER, loss=1.0)
    out, _ = process.communicate(timeout=240)
    took_s = time.monotonic() - began
    told = json.loads(out)
    clock = told["clock"]
    while operator.endpoints() and time.monotonic() < began + GONE_WITHIN_S:
        time.sleep(0.1)
    gone_s = time.monotonic() - began
    left = sum(relays.ask(node, "status")["allocations"] for node in (ONE, OTHER))
    print(
        f"  SSH to {OTHER} cut: exit code {process.returncode} after {took_s:.0f} s, verdict {told['verdict']}:"
        f" {'; '.join(told['problems'])}; left after {gone_s:.0f} s: {len(operator.endpoints())} endpoints,"
        f" {left} allocations; clocks {_shown(clock['offset_ms'], 2, '+')} +- {clock['error_ms']:.1f} ms"
        f" by {clock['method']} (true: 0)"
    )
    wan.link(DESK, OTHER, loss=0.0)


def main() -> None:
    """Print set beside told."""
    wanted = _arguments()
    print("probe_accuracy: what is set on a link, and what the probes say of it", flush=True)
    if reason := namespace.refusal():
        print(f"probe_accuracy: {reason}: nothing measured")
        return
    with ExitStack() as stack:
        _ahead(os.getpid(), 1)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commcli-wan-")))
        wan = stack.enter_context(Wan(NODES, LINKS, ports=PORTS))
        relays = stack.enter_context(Relays(wan, folder, [ONE, OTHER], settings=MESH))
        operator = stack.enter_context(Operator(relays, DESK, folder))
        relays.publish(both_ways((ONE, OTHER)))
        _ahead(wan.forwarder_pid, 3)
        for relay in relays.processes.values():
            _ahead(relay.pid, 2)
        site = Site(wan, operator)
        _measure(site, wanted)
        site.set(40, 0)
        _starve(site, operator)
        _cut(site, operator, wan, relays)
        told = wan.figures()
        late = ", ".join(f"{told.late_ms[share] or 0:.2f}" for share in (0.5, 0.99, 1.0))
        print(
            f"  the WAN by its own account late by {late} ms (half, 99 %, all); overflow {dict(told.overflow)}"
        )


if __name__ == "__main__":
    main()
