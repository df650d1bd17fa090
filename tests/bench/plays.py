"""Plays across the globe: what one costs beside a login, beside Ansible and pyinfra, on many hosts and on sick ones.

20 hosts are behind a proxy that adds 200 ms, and charges the TCP handshake; all of them, and whoever runs the play,
share the cores of this machine. Every tool brings the hosts to the same state by the same ten steps (`ten_steps.py`),
which is looked at: cold is the first run, and unchanged the next, in which no file may be touched. A figure is of the
whole command, from its start to its end; ratios are of runs that took turns.
`python -m tests.bench.plays [login] [alone] [rivals] [many] [sick]`, all of them if none is named.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import controllers, figures, rivals
from tests.bench.controllers import Ansible, Failure, Pyinfra, Spent, measured
from tests.bench.far_hosts import FarHosts, far_hosts, silent

RTT_S, HOSTS = 0.2, 20
ROUNDS, PYINFRA_ROUNDS, ANSIBLE_ROUNDS = 5, 3, 1
MANY, SERVERS = 200, 4
DEADLINE_S = 6.0


@dataclass
class Runs:
    """The runs of each kind, in turns."""

    of: dict[str, list[Spent]] = field(default_factory=dict)

    def seconds(self, kind: str) -> list[float]:
        return [run.seconds for run in self.of[kind]]

    def ratios(self, one: str, other: str) -> list[float]:
        return figures.ratios(self.seconds(one), self.seconds(other))

    def keep(self, kind: str, run: Spent) -> None:
        self.of.setdefault(kind, []).append(run)


async def run(command: Sequence[str], far: FarHosts, **how: object) -> Spent:
    """`measured` beside the loop that the proxies need."""
    return await asyncio.to_thread(measured, command, far.hosts, **how)  # type: ignore[arg-type]


async def ours(far: FarHosts, count: int, runs: Runs) -> None:
    """Our play of so many steps, cold and unchanged."""
    far.empty()
    command = controllers.commcli(far, count)
    runs.keep(f"cold {count}", _good(await run(command, far), changed=count * len(far.hosts)))
    before = far.as_they_are()
    runs.keep(f"unchanged {count}", _good(await run(command, far), changed=0))
    _same(before, far.as_they_are(), "an unchanged play of ours changed something")


def _good(spent: Spent, changed: int) -> Spent:
    said = json.loads(spent.stdout)["changed"]
    if said != changed:
        raise Failure(f"our play changed {said} steps, and not {changed}")
    return spent


def _same(one: str, other: str, otherwise: str) -> None:
    if one != other:
        raise Failure(otherwise)


async def login(folder: Path) -> Runs:
    """Ours beside bare asyncssh that logs in and runs `true`."""
    runs = Runs()
    async with far_hosts(folder, HOSTS, RTT_S) as far:
        controllers.write_inventory(far)
        for number in range(ROUNDS + 1):
            into = runs if number else Runs()  # the first fills the caches
            into.keep("true", await run(controllers.true(far), far))
            await ours(far, 10, into)
            await ours(far, 100, into)
    _tell_login(runs)
    return runs


async def alone(folder: Path) -> None:
    """One host, which has the cores to itself: what more steps cost where hosts are machines of their own."""
    runs = Runs()
    async with far_hosts(folder, 1, RTT_S) as far:
        controllers.write_inventory(far)
        for number in range(ROUNDS + 1):
            for count in (10, 100):
                await ours(far, count, runs if number else Runs())
    print(f"plays: one host, {RTT_S * 1000:g} ms away, {ROUNDS} rounds; load {os.getloadavg()[0]:.1f}")
    _tell_steps(runs)


def _tell_steps(runs: Runs) -> None:
    for kind in ("unchanged", "cold"):
        _ratio(f"{kind}: 100 steps / 10", runs.ratios(f"{kind} 100", f"{kind} 10"), 1.06)


def _tell_login(runs: Runs) -> None:
    print(f"plays: {HOSTS} hosts, {RTT_S * 1000:g} ms away, {ROUNDS} rounds; load {os.getloadavg()[0]:.1f}")
    for kind in runs.of:
        _seconds_line(kind if kind == "true" else f"{kind} steps", runs.of[kind])
    for kind in ("unchanged 10", "cold 10"):
        _ratio(f"{kind} steps / true", runs.ratios(kind, "true"), 1.35)
    _tell_steps(runs)
    ten = [*runs.of["cold 10"], *runs.of["unchanged 10"]]
    trips = statistics.median(count for one in ten for count in one.round_trips)
    # The most has what a busy machine adds: an answer that comes in two parts is two.
    figure = f"{trips:g}, at most {_trips(ten)} (true: {_trips(runs.of['true'])})"
    figures.line("round trips a host", figure, trips, 11, "")
    cpu_ms = [1000 * one.cpu_s / HOSTS for one in ten]
    true_ms = statistics.median(1000 * one.cpu_s / HOSTS for one in runs.of["true"])
    figure = f"{figures.spread(cpu_ms, '.1f')} ms (true: {true_ms:.1f})"
    figures.line("controller CPU a host", figure, statistics.median(cpu_ms), 45, "ms")
    up = max(max(one.up) for one in ten) / 1000
    figures.line("up a host, at most", f"{up:.1f} KB", up, 25, "KB")


def _seconds_line(what: str, runs: Sequence[Spent]) -> None:
    seconds = [one.seconds for one in runs]
    cpu = statistics.median(one.cpu_s for one in runs)
    down = max(max(one.down) for one in runs) / 1000
    up = max(max(one.up) for one in runs) / 1000
    figure = f"{figures.spread(seconds)} s, {cpu:.2f} CPU-s, {_trips(runs)} trips, {up:.1f} KB up, {down:.1f} KB down"
    print(f"  {what:28} {figure}", flush=True)


def _trips(runs: Sequence[Spent]) -> int:
    return max(max(one.round_trips) for one in runs)


def _ratio(what: str, values: Sequence[float], at_most: float) -> None:
    figure = f"{figures.spread(values)} x, {len(values)} pairs"
    figures.line(what, figure, statistics.median(values), at_most, "x")


async def beside(folder: Path) -> None:
    """Ours beside Ansible and pyinfra."""
    place = await asyncio.to_thread(controllers.environment)
    if place is None:
        return
    print(f"plays: ten steps on {HOSTS} hosts, {RTT_S * 1000:g} ms away; load {os.getloadavg()[0]:.1f}")
    async with far_hosts(folder, HOSTS, RTT_S) as far:
        controllers.write_inventory(far)
        for tool, rounds, goals in (
            (Pyinfra(place, far, 10), PYINFRA_ROUNDS, (6.0, 3.5)),
            (Ansible(place, far, 10), ANSIBLE_ROUNDS, (18.0, 18.0)),
        ):
            runs = Runs()
            for _ in range(rounds):
                await ours(far, 10, runs)
                wanted = far.contents()
                await _theirs(tool, far, runs)
                _same(wanted, far.contents(), f"{_name(tool)} does not make what ours makes")
            for kind, at_least in zip(("cold", "unchanged"), goals, strict=True):
                _seconds_line(f"{_name(tool)} {kind}", runs.of[f"their {kind}"])
                faster = runs.ratios(f"their {kind}", f"{kind} 10")
                figures.at_least_line(f"ours, times as fast, {kind}", faster, at_least)


def _name(tool: Ansible | Pyinfra) -> str:
    return type(tool).__name__.lower()


async def _theirs(tool: Ansible | Pyinfra, far: FarHosts, runs: Runs) -> None:
    far.empty()
    try:
        runs.keep("their cold", await run(tool.command, far, env=tool.env))
        before = far.as_they_are()
        runs.keep("their unchanged", await run(tool.command, far, env=tool.env))
        _same(before, far.as_they_are(), f"an unchanged play of {_name(tool)} changed something")
    finally:
        tool.leave()


async def many(folder: Path) -> None:
    """One play and one health check of 200 hosts, which are 200 ports and folders of this machine.

    One relay serves, and every host's control socket leads to it: 200 of them would be a measure of their own weight.
    """
    with rivals.commcli() as relay:
        async with far_hosts(folder, MANY, None, SERVERS) as far:
            controllers.write_inventory(far)
            for host in far.hosts:
                (host.root / "run").mkdir()
                (host.root / "run/control.sock").symlink_to(relay.base / "run/control.sock")
            command = controllers.commcli(far, 10)
            play = _good(await run(command, far), changed=10 * MANY)
            look = [*controllers.ours(far), "health", "check", "--json", *controllers.where(far)]
            # A machine with 200 hosts on it is warned of.
            health = await run(look, far, codes=(0, 1))
            states = {row["state"] for row in json.loads(health.stdout)["nodes"]}
            if states != {"done"}:
                raise Failure(f"the health check came to {states}")
    print(f"plays: {MANY} hosts on this machine behind {SERVERS} servers; load {os.getloadavg()[0]:.1f}")
    for what, spent in (("play of ten steps", play), ("health check", health)):
        print(f"  {what:28} {spent.seconds:.1f} s, {spent.cpu_s:.2f} CPU-s, {spent.peak_bytes / 1e6:.0f} MB")
    cpu_s, peak = play.cpu_s + health.cpu_s, max(play.peak_bytes, health.peak_bytes) / 1e6
    figures.line("controller CPU, both", f"{cpu_s:.2f} s", cpu_s, 2.5, "s")
    figures.line("controller memory, at most", f"{peak:.0f} MB", peak, 90, "MB")


async def sick(folder: Path) -> None:
    """20 good hosts and two silent ones: one that says nothing, and one that says its banner and no more."""
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(far_hosts(folder, HOSTS, RTT_S))
        mute = await stack.enter_async_context(silent())
        stuck = await stack.enter_async_context(silent(b"SSH-2.0-OpenSSH_9.2\r\n"))
        public = far.known_hosts.read_text().splitlines()[0].partition(" ")[2]
        with far.known_hosts.open("a") as file:
            file.writelines(f"[127.0.0.1]:{port} {public}\n" for port in (mute, stuck))
        controllers.write_inventory(far)
        await run(controllers.commcli(far, 10), far)
        well = await _last_heard(far, 0)
        print(f"plays: {HOSTS} good hosts and 2 silent ones; load {os.getloadavg()[0]:.1f}")
        controllers.write_inventory(far, (mute, stuck))
        await _tell_sick(far, "run", well, "--deadline", f"{DEADLINE_S:g}")
        controllers.write_inventory(far, (mute, stuck), login_timeout_s=DEADLINE_S)
        await _tell_sick(far, "login", well)


async def _last_heard(far: FarHosts, code: int, *options: str) -> tuple[float, float]:
    """Seconds of the command, and until the last of the good hosts had said all."""
    begun = asyncio.get_running_loop().time()
    spent = await run(controllers.commcli(far, 10, *options), far, codes=(code,))
    heard = [host.way.connections[-1].heard_s for host in far.hosts if host.way is not None]
    return spent.seconds, max(heard) - begun


async def _tell_sick(far: FarHosts, limit: str, well: tuple[float, float], *options: str) -> None:
    seconds, good = await _last_heard(far, 4, *options)
    figure = f"{good:.2f} s, {well[1]:.2f} without silent ones"
    figures.line(f"{limit} deadline {DEADLINE_S:g} s: good hosts done", figure, good / well[1], 1.1, "x")
    after = seconds - DEADLINE_S
    figures.line("  the run's end after the deadline", f"{after:.2f} s", after, 1, "s")


PARTS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "login": login,
    "alone": alone,
    "rivals": beside,
    "many": many,
    "sick": sick,
}


async def main(names: Sequence[str]) -> None:
    for name in names or PARTS:
        with tempfile.TemporaryDirectory(prefix="commcli-plays-") as folder:
            try:
                await PARTS[name](Path(folder))
            except Failure as failure:
                print(f"plays: {name}: {failure}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
