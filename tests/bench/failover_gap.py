"""How long a call hears nothing when the relay in its middle dies: a distribution over many deaths.

Real relays on loopback, with the delays of the lab's Dubai to Seoul by Singapore, or by Hong Kong if that is dead. Two
TURN clients, one at each edge, send 50 audio and 200 video packets a second to each other. Per death the fleet
starts anew, so that no earlier one counts. The kinds take turns:

  kill   SIGKILL: its sockets are gone
  stop   SIGSTOP: everything is received and nothing done with it
  mute   all that it sends is lost (etc/faults.json), what is sent to it arrives

and then, a few of each, with lines of their own:

  front  only what the caller's edge sends to it is lost
  behind only what it sends to the callee's edge is lost
  deaf   it says hello and forwards nothing: its table does not name the path any more
  second SIGKILL of the second of two on the way: Dubai to Seoul by Singapore and Tokyo

To be read: the longest gap without packets of one medium, the worst of both directions and media, around the death,
and up to the end of the run: a call that heard nothing in its last second stays dead, which is worse than any gap.
Beside it the same before the death, which is the machine's own. Where the machine stood still before the death, it
says nothing of failover: that one is died once more. What the machine did after the death leaves nothing out, since a
bad failover would do so too. All figures are told without and with those left out.
`python -m tests.bench.failover_gap [DEATHS] [--others DEATHS_OF_EACH] [--kinds kill,stop,mute]`
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from commcli.relay.process import control
from commcli.remote import zipapp
from tests.bench import figures
from tests.bench.rivals import node_python
from tests.relay.serving import dies_with_us
from tests.relay.tables_on_disk import Signer, shard
from tests.wan.turn_client import TurnClient

NETWORK = "127.83.0"
ONE, OTHER, MIDDLE, BACKUP, SECOND = IDS = ("ae-1", "kr-1", "sg-1", "hk-1", "jp-1")
ADDRESSES = {node: f"{NETWORK}.{number}" for number, node in enumerate(IDS, 1)}
ONE_WAY_MS = {
    (ONE, MIDDLE): 45, (MIDDLE, OTHER): 55, (ONE, BACKUP): 60, (BACKUP, OTHER): 56, (ONE, OTHER): 198,
    (MIDDLE, BACKUP): 20, (ONE, SECOND): 80, (MIDDLE, SECOND): 35, (BACKUP, SECOND): 25, (SECOND, OTHER): 17,
}  # fmt: skip
Paths = tuple[tuple[str, ...], ...]
ONE_BETWEEN: Paths = ((ONE, MIDDLE, OTHER), (ONE, BACKUP, OTHER), (ONE, OTHER))
TWO_BETWEEN: Paths = ((ONE, MIDDLE, SECOND, OTHER), (ONE, BACKUP, OTHER), (ONE, OTHER))
TURN, OVERLAY, STAMP, RELAY_PORTS = 3478, 3479, 3480, (40000, 40100)
USER, PASSWORD = "user", "pass"
WAITS_S = 40.0
DEATHS, OTHERS, TARGET_MS = 30, 4, 300.0
# Nothing is judged of the first part: connections settle. A relay looks at its table once a second (DEAF_S).
SETTLE_S, BEFORE_S, AFTER_S, DEAF_S = 2.0, 2.0, 3.0, 6.0
ALIVE_S = 1.0  # who heard nothing for so long up to the end stays dead
# Audio comes every 20 ms. If it did not while nothing had happened, or we sent so late, the machine was too busy.
MOST_USUAL_MS, MOST_LATE_MS, MOST_BUSY = 75.0, 40.0, 15
AUDIO, VIDEO = 0, 1
EVERY_S, SIZES = {AUDIO: 0.02, VIDEO: 0.005}, {AUDIO: 160, VIDEO: 1000}

_HEAD = struct.Struct("!BBI")  # as RTP begins, the medium, the number


def _pair_key(one: str, other: str) -> str:
    return hashlib.blake2s("\0".join(sorted((one, other))).encode(), digest_size=32).hexdigest()


def _delays(node: str) -> dict[str, dict[str, float]]:
    found = {}
    for (one, other), delay_ms in ONE_WAY_MS.items():
        if node in (one, other):
            found[ADDRESSES[other if node == one else one]] = {"delay_ms": float(delay_ms)}
    return found


class Fleet:
    """The relays on `paths` and their folders; `victim` is the last one before the egress of the primary."""

    def __init__(self, folder: Path, paths: Paths) -> None:
        self.folder, self.paths, self.victim = folder, paths, paths[0][-2]
        self.ids = [node for node in IDS if any(node in path for path in paths)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.serial = 0
        (folder / "relay.pyz").write_bytes(zipapp.build())
        self.signers = {node: self._write(node) for node in self.ids}

    def _write(self, node: str) -> Signer:
        etc = self.folder / node / "etc"
        etc.mkdir(parents=True)
        config = {
            "schema": 1, "node": node, "base": str(etc.parent), "address": ADDRESSES[node], "realm": "lab",
            "turn_port": TURN, "relay_ports": RELAY_PORTS, "overlay_port": OVERLAY, "stamp_port": STAMP,
            "faults": True,
        }  # fmt: skip
        peers = {
            other: {
                "address": ADDRESSES[other], "overlay_port": OVERLAY, "stamp_port": STAMP,
                "keys": [_pair_key(node, other)],
            }
            for other in self.ids if other != node
        }  # fmt: skip
        (etc / "relay.json").write_text(json.dumps(config))
        (etc / "peers.json").write_text(json.dumps({"schema": 1, "peers": peers}))
        (etc / "turn.users").write_text(f"{USER}:{PASSWORD}\n")
        (etc / "turn.secret").write_text("a secret that nobody uses\n")
        return Signer(etc.parent)

    def _table(self, node: str, serial: int, *, is_deaf: bool = False) -> dict[str, Any]:
        """is_deaf: it carries nothing along the primary, in either direction."""
        now = time.time()
        created, expires = (
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix)) for unix in (now, now + 86_400)
        )
        nodes = {
            other: {
                "address": ADDRESSES[other], "overlay_port": OVERLAY, "relay_ports": RELAY_PORTS,
                "country": other[:2], "markets": [other[:2]],
            }
            for other in self.ids
        }  # fmt: skip
        both = [*self.paths, *(path[::-1] for path in self.paths)]
        labels = ("primary", "backup", "last_resort")
        mine = [path for path in both if path[0] == node]
        routes = {mine[0][-1]: dict(zip(labels, map(list, mine), strict=True))} if mine else {}
        refused = (self.paths[0], self.paths[0][::-1]) if is_deaf else ()
        carries = sorted(" ".join(path) for path in both if node in path[1:] and path not in refused)
        return shard(
            serial,
            node,
            nodes=nodes,
            routes=routes,
            carries=carries,
            created=created,
            expires=expires,
            zones=[],
        )

    def _push_tables(self) -> None:
        """The next one for everybody; two more lie ready on the victim, for `use_table`."""
        self.serial += 3
        for later in (2, 1):
            self.signers[self.victim].push(self._table(self.victim, self.serial + later, is_deaf=True))
        for node, signer in self.signers.items():
            signer.push(self._table(node, self.serial))

    def use_table(self, later: int) -> None:
        """The victim's table after the one that it began with, or the one after that. It looks once a second."""
        link = self.folder / self.victim / "table/new"
        link.symlink_to(str(self.serial + later))
        link.replace(link.with_name("current"))

    def is_used(self, later: int) -> None:
        """Wait until the victim has that table."""
        serial = self.serial + later
        self._wait(self.victim, lambda status: bool(status["table"]["serial"] == serial))

    def faults(self, node: str, *deaf: str) -> None:
        """The delays from this node on; what it sends to `deaf` nodes is lost."""
        links: dict[str, dict[str, float]] = _delays(node)
        for other in deaf:
            links[ADDRESSES[other]]["loss"] = 1.0
        path = self.folder / node / "etc/faults.json"
        path.with_suffix(".new").write_text(json.dumps({"links": links}))
        path.with_suffix(".new").rename(path)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """All of them, until the body ends; every path has answered."""
        self._push_tables()
        try:
            for node in self.ids:
                self.faults(node)
                command = [node_python(), "-I", str(self.folder / "relay.pyz"), "serve", "--config"]
                command.append(str(self.folder / node / "etc/relay.json"))
                with (self.folder / node / "log").open("ab") as log:
                    self.processes[node] = subprocess.Popen(dies_with_us(command), stdout=log, stderr=log)
            for node in (ONE, OTHER):
                self._wait(node, _all_paths_answer)
            yield
        finally:
            for process in self.processes.values():
                process.kill()
            for process in self.processes.values():
                process.wait(10)

    def ask(self, node: str, command: str) -> dict[str, Any]:
        """The answer of a relay's control socket."""
        return control.ask(self.folder / node / "run/control.sock", {"cmd": command})

    def _wait(self, node: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
        last: object = None
        end = time.monotonic() + WAITS_S
        while time.monotonic() < end:
            try:
                last = self.ask(node, "status")
                if is_so(last):
                    return
            except OSError as error:
                last = error
            time.sleep(0.05)
        raise RuntimeError(f"{node}: {last}\n{(self.folder / node / 'log').read_text()[-2000:]}")


def _all_paths_answer(status: dict[str, Any]) -> bool:
    rows = status["overlay"]["paths"].values()
    return bool(rows) and all(path["state"] == "up" for row in rows for path in row["candidates"].values())


# --- the deaths -----------------------------------------------------------------------------------------------


def _nothing(_fleet: Fleet) -> None:
    """Nothing needs to be made ready."""


def _signalled(word: signal.Signals) -> Callable[[Fleet], None]:
    return lambda fleet: os.kill(fleet.processes[fleet.victim].pid, word)


def _make_deaf_ready(fleet: Fleet) -> None:
    # A relay carries what this table or the one before names, so the first one without the path changes nothing.
    fleet.use_table(1)
    fleet.is_used(1)


class Kind(NamedTuple):
    """A kind of death: what happens, what is done before the call, for how long the call goes on then."""

    happens: Callable[[Fleet], None]
    paths: Paths = ONE_BETWEEN
    prepare: Callable[[Fleet], None] = _nothing
    after_s: float = AFTER_S


KINDS = {
    "kill": Kind(_signalled(signal.SIGKILL)),
    "stop": Kind(_signalled(signal.SIGSTOP)),
    "mute": Kind(lambda fleet: fleet.faults(MIDDLE, ONE, OTHER, BACKUP)),
    "front": Kind(lambda fleet: fleet.faults(ONE, MIDDLE)),
    "behind": Kind(lambda fleet: fleet.faults(MIDDLE, OTHER)),
    "deaf": Kind(lambda fleet: fleet.use_table(2), prepare=_make_deaf_ready, after_s=DEAF_S),
    "second": Kind(_signalled(signal.SIGKILL), TWO_BETWEEN),
}
DEADLY = ("kill", "stop", "mute")


# --- the call -------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """Two clients that send to each other; `came[direction, medium]` is when packets did, in unix seconds."""

    ends: tuple[TurnClient, TurnClient]
    came: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    late_ms: float = 0.0  # the latest that one was sent

    def run(self, seconds: float) -> None:
        """Send and listen for so long."""
        start = time.monotonic()
        due = {(end, medium): start for end in (0, 1) for medium in (AUDIO, VIDEO)}
        sockets = {end.sock: at for at, end in enumerate(self.ends)}
        for number in itertools.count():
            (end, medium), when = min(due.items(), key=lambda item: item[1])
            if when > start + seconds:
                for end in (0, 1):
                    self._hear(end)
                return
            while (left := when - time.monotonic()) > 0:
                for sock in select.select(list(sockets), (), (), left)[0]:
                    self._hear(sockets[sock])
            self.late_ms = max(self.late_ms, -left * 1000)
            payload = _HEAD.pack(0x80, medium, number & 0xFFFFFFFF)
            self.ends[end].send(payload + bytes(SIZES[medium] - len(payload)))
            due[end, medium] = when + EVERY_S[medium]

    def _hear(self, end: int) -> None:
        for payload, unix in self.ends[end].receive():
            self.came["back" if end == 0 else "there", payload[1]].append(unix)

    def longest_gap_ms(self, since: float, until: float) -> dict[str, float]:
        """By direction: the longest time in which a medium did not come; infinite if it never came back."""
        found: dict[str, float] = {}
        for direction, medium in itertools.product(("there", "back"), (AUDIO, VIDEO)):
            inside = [when for when in self.came[direction, medium] if since <= when <= until]
            is_alive = bool(inside) and until - inside[-1] < ALIVE_S
            gaps = (after - before for before, after in itertools.pairwise([since, *inside, until]))
            gap_ms = 1000 * max(gaps) if is_alive else math.inf
            found[direction] = max(found.get(direction, 0.0), gap_ms)
        return found


@dataclass(frozen=True)
class Death:
    """What one death did. Gaps in ms, by direction. usual_ms, late_ms: the gap, and how late we sent, before it."""

    kind: str
    gaps_ms: dict[str, float]
    usual_ms: float
    late_ms: float
    late_after_ms: float
    load: float
    switches: list[str]

    @property
    def worst_ms(self) -> float:
        return max(self.gaps_ms.values())

    @property
    def is_busy(self) -> bool:
        """Whether the machine was too busy to tell: judged by what was before the death alone."""
        return self.usual_ms > MOST_USUAL_MS or self.late_ms > MOST_LATE_MS


def _ms(gap_ms: float) -> str:
    return "STAYED DEAD" if math.isinf(gap_ms) else f"{gap_ms:.0f}"


def _told(number: int, death: Death) -> None:
    gaps = ", ".join(f"{way} {_ms(gap)}" for way, gap in sorted(death.gaps_ms.items()))
    busy = " THE MACHINE WAS TOO BUSY BEFORE IT" if death.is_busy else ""
    print(
        f"    {number:2} {death.kind}: {gaps} ms (before {_ms(death.usual_ms)}; sent late by"
        f" {death.late_ms:.0f} before, {death.late_after_ms:.0f} after; load {death.load:.1f}){busy};"
        f" {'; '.join(death.switches)}",
        flush=True,
    )


def _call(fleet: Fleet, stack: ExitStack) -> Call:
    ends = []
    for node in (ONE, OTHER):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ends.append(TurnClient(sock, (ADDRESSES[node], TURN), USER, PASSWORD))
        stack.enter_context(closing(ends[-1]))
    for end, far in zip(ends, ends[::-1], strict=True):
        end.bind(far.relayed)
    return Call((ends[0], ends[1]))


def _die(fleet: Fleet, name: str, phase_s: float) -> Death:
    kind = KINDS[name]
    with fleet.serving(), ExitStack() as stack:
        kind.prepare(fleet)
        call = _call(fleet, stack)
        call.run(SETTLE_S + phase_s)
        began, call.late_ms = time.time(), 0.0
        call.run(BEFORE_S)
        at, late_ms, call.late_ms = time.time(), call.late_ms, 0.0
        kind.happens(fleet)
        call.run(kind.after_s)
        end = time.time()
        switches = [
            f"{node} after {1000 * (switch['unix'] - at):.0f} ms: {switch['to']} ({switch['reason']})"
            for node, far in ((ONE, OTHER), (OTHER, ONE))
            for switch in fleet.ask(node, "paths")["paths"][far]["switches"]
            if switch["unix"] > at
        ]
        usual_ms = max(call.longest_gap_ms(began, at).values())
        gaps_ms = call.longest_gap_ms(at - 0.5, end)
        return Death(name, gaps_ms, usual_ms, late_ms, call.late_ms, os.getloadavg()[0], switches)


def _deaths(fleets: Mapping[Paths, Fleet], kinds: Sequence[str], wanted: int) -> list[Death]:
    """So many of them before which the machine was quiet, the kinds in turn, and those others."""
    deaths: list[Death] = []
    quiet = 0
    while quiet < wanted and len(deaths) - quiet < MOST_BUSY:
        kind = kinds[quiet % len(kinds)]
        deaths.append(_die(fleets[KINDS[kind].paths], kind, len(deaths) * 0.0137))
        _told(len(deaths), deaths[-1])
        quiet += not deaths[-1].is_busy
    return deaths


def _show(deaths: Sequence[Death], kind: str, target_ms: float | None) -> None:
    """A line of those before which the machine was quiet, and one of all of them, if that is not the same."""
    quiet = [death for death in deaths if not death.is_busy]
    ways = "; ".join(
        f"{way} p50 {_ms(figures.percentile([death.gaps_ms[way] for death in quiet], 0.5))}"
        for way in ("there", "back")
    )
    every = " ".join(_ms(gap) for gap in sorted(death.worst_ms for death in quiet))
    print(f"    {kind}: {ways}; all: {every}", flush=True)
    _line(f"longest media gap, {kind}, {len(quiet)} deaths", quiet, target_ms)
    if len(quiet) < len(deaths):
        _line(f"  with {len(deaths) - len(quiet)} left out since busy before", deaths, target_ms)


def _line(what: str, deaths: Sequence[Death], target_ms: float | None) -> None:
    worst = [death.worst_ms for death in deaths]
    shares = ", ".join(f"p{share * 100:.0f} {_ms(figures.percentile(worst, share))}" for share in (0.5, 0.95))
    text = f"{shares}, max {_ms(max(worst, default=math.nan))}"
    lost = sum(math.isinf(gap) for gap in worst)
    if lost:
        text += f", {lost} of {len(worst)} stayed dead"
    figures.line(what, text + " (ms)", figures.percentile(worst, 0.95), target_ms, "ms at p95")


def _loads() -> str:
    return ", ".join(f"{load:.1f}" for load in os.getloadavg())


def main() -> None:
    """Print the gaps of each kind of death, and of all of the deadly ones together."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("deaths", nargs="?", type=int, default=DEATHS)
    asked.add_argument("--others", type=int, default=OTHERS)
    asked.add_argument("--kinds", default=",".join(DEADLY))
    arguments = asked.parse_args()
    kinds = arguments.kinds.split(",")
    others = [kind for kind in KINDS if kind not in kinds and kind not in DEADLY]
    print(
        f"failover: {arguments.deaths} deaths of the relay in the middle of a call, {', '.join(kinds)}, and"
        f" {arguments.others} each of {', '.join(others)}; load before {_loads()} on {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as folder:
        fleets = {}
        for paths, name in ((ONE_BETWEEN, "one"), (TWO_BETWEEN, "two")):
            (Path(folder) / name).mkdir()
            fleets[paths] = Fleet(Path(folder) / name, paths)
        deaths = _deaths(fleets, kinds, arguments.deaths)
        rest = {kind: _deaths(fleets, [kind], arguments.others) for kind in others}
    print(f"    load after {_loads()}")
    for kind in kinds:
        _show([death for death in deaths if death.kind == kind], kind, None)
    for kind, found in rest.items():
        _show(found, kind, None)
    _show(deaths, "all of " + ", ".join(kinds), TARGET_MS)


if __name__ == "__main__":
    main()
