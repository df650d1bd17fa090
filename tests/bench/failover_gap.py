"""How long a call hears nothing when the relay in its middle dies: a distribution over many deaths.

Real relays on loopback, with the delays of the lab's Dubai to Seoul by Singapore, or by Hong Kong if that is dead. Two
TURN clients, one at each edge, send 50 audio and 200 video packets a second to each other. Per death the fleet
starts anew, so that no earlier one counts. The kinds take turns:

  kill   SIGKILL: its sockets are gone
  stop   SIGSTOP: everything is received and nothing done with it
  mute   all that it sends is lost (etc/faults.json), what is sent to it arrives
  front  only what the caller's edge sends to it is lost    (not among the 30; --kinds)
  behind only what it sends to the callee's edge is lost    (not among the 30; --kinds)

To be read: the longest gap between two packets of one medium, the worst of both directions and media, around the death;
beside it the same before the death, which is the machine's own. A death while the machine stood still itself says
nothing of failover: it is shown, left out, and died once more. `python -m tests.bench.failover_gap [DEATHS]
[--kinds kill,stop,mute]`
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commcli.relay.process import control
from commcli.remote import zipapp
from tests.bench import figures
from tests.bench.rivals import node_python
from tests.relay.serving import dies_with_us
from tests.relay.tables_on_disk import Signer, shard
from tests.wan.turn_client import TurnClient

NETWORK = "127.83.0"
ONE, OTHER, MIDDLE, BACKUP = IDS = ("ae-1", "kr-1", "sg-1", "hk-1")
ADDRESSES = {node: f"{NETWORK}.{number}" for number, node in enumerate(IDS, 1)}
ONE_WAY_MS = {
    (ONE, MIDDLE): 45, (MIDDLE, OTHER): 55, (ONE, BACKUP): 60, (BACKUP, OTHER): 56, (ONE, OTHER): 198,
    (MIDDLE, BACKUP): 20,
}  # fmt: skip
PATHS = ((ONE, MIDDLE, OTHER), (ONE, BACKUP, OTHER), (ONE, OTHER))
TURN, OVERLAY, STAMP, RELAY_PORTS = 3478, 3479, 3480, (40000, 40100)
USER, PASSWORD = "user", "pass"
WAITS_S = 40.0
DEATHS, TARGET_MS = 30, 300.0
BEFORE_S, AFTER_S = 4.0, 3.0
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
    """Four relays and their folders. They hold the same table each time they start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "relay.pyz").write_bytes(zipapp.build())
        now = time.time()
        created, expires = (
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix)) for unix in (now, now + 86_400)
        )
        for node in IDS:
            self._write(node, created, expires)

    def _write(self, node: str, created: str, expires: str) -> None:
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
            for other in IDS if other != node
        }  # fmt: skip
        (etc / "relay.json").write_text(json.dumps(config))
        (etc / "peers.json").write_text(json.dumps({"schema": 1, "peers": peers}))
        (etc / "turn.users").write_text(f"{USER}:{PASSWORD}\n")
        (etc / "turn.secret").write_text("a secret that nobody uses\n")
        Signer(etc.parent).push(_table(node, created, expires))

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
        """All four, until the body ends; every path has answered."""
        try:
            for node in IDS:
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


def _table(node: str, created: str, expires: str) -> dict[str, Any]:
    nodes = {
        other: {
            "address": ADDRESSES[other], "overlay_port": OVERLAY, "relay_ports": RELAY_PORTS,
            "country": other[:2], "markets": [other[:2]],
        }
        for other in IDS
    }  # fmt: skip
    both = [*PATHS, *(path[::-1] for path in PATHS)]
    labels = ("primary", "backup", "last_resort")
    mine = [path for path in both if path[0] == node]
    routes = {mine[0][-1]: dict(zip(labels, map(list, mine), strict=True))} if mine else {}
    carries = sorted(" ".join(path) for path in both if node in path[1:])
    return shard(
        1, node, nodes=nodes, routes=routes, carries=carries, created=created, expires=expires, zones=[]
    )


def _all_paths_answer(status: dict[str, Any]) -> bool:
    rows = status["overlay"]["paths"].values()
    return bool(rows) and all(path["state"] == "up" for row in rows for path in row["candidates"].values())


# --- the deaths -----------------------------------------------------------------------------------------------


def _signalled(word: signal.Signals) -> Callable[[Fleet], None]:
    return lambda fleet: os.kill(fleet.processes[MIDDLE].pid, word)


KINDS: dict[str, Callable[[Fleet], None]] = {
    "kill": _signalled(signal.SIGKILL),
    "stop": _signalled(signal.SIGSTOP),
    "mute": lambda fleet: fleet.faults(MIDDLE, ONE, OTHER, BACKUP),
    "front": lambda fleet: fleet.faults(ONE, MIDDLE),
    "behind": lambda fleet: fleet.faults(MIDDLE, OTHER),
}
DEADLY = "kill,stop,mute"


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

    def longest_gap_ms(self, since: float, until: float = float("inf")) -> dict[str, float]:
        """By direction: the longest time in which a medium did not come."""
        found: dict[str, float] = {}
        for (direction, _), times in self.came.items():
            inside = [when for when in times if since <= when <= until]
            gap = max((after - before for before, after in itertools.pairwise(inside)), default=float("inf"))
            found[direction] = max(found.get(direction, 0.0), 1000 * gap)
        return found


@dataclass(frozen=True)
class Death:
    """What one death did. Gaps in ms, by direction; usual_ms: before the death."""

    kind: str
    gaps_ms: dict[str, float]
    usual_ms: float
    late_ms: float
    switches: list[str]

    @property
    def worst_ms(self) -> float:
        return max(self.gaps_ms.values())

    @property
    def is_busy(self) -> bool:
        """Whether the machine was too busy to tell."""
        return self.usual_ms > MOST_USUAL_MS or self.late_ms > MOST_LATE_MS


def _told(number: int, death: Death) -> None:
    gaps = ", ".join(f"{way} {gap:.0f}" for way, gap in sorted(death.gaps_ms.items()))
    busy = " THE MACHINE WAS TOO BUSY" if death.is_busy else ""
    print(
        f"    {number:2} {death.kind}: {gaps} ms (before {death.usual_ms:.0f}, sent late by {death.late_ms:.0f})"
        f"{busy}; {'; '.join(death.switches)}",
        flush=True,
    )


def _die(fleet: Fleet, kind: str, phase_s: float) -> Death:
    with fleet.serving(), ExitStack() as stack:
        ends = []
        for node in (ONE, OTHER):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ends.append(TurnClient(sock, (ADDRESSES[node], TURN), USER, PASSWORD))
            stack.enter_context(closing(ends[-1]))
        for end, far in zip(ends, ends[::-1], strict=True):
            end.bind(far.relayed)
        call = Call((ends[0], ends[1]))
        call.run(BEFORE_S + phase_s)
        at = time.time()
        usual = call.longest_gap_ms(at - BEFORE_S / 2, at)
        call.late_ms = 0.0
        KINDS[kind](fleet)
        call.run(AFTER_S)
        switches = [
            f"{node} after {1000 * (switch['unix'] - at):.0f} ms: {switch['to']} ({switch['reason']})"
            for node, far in ((ONE, OTHER), (OTHER, ONE))
            for switch in fleet.ask(node, "paths")["paths"][far]["switches"]
            if switch["unix"] > at
        ]
        gaps = call.longest_gap_ms(at - 0.5)
        return Death(kind, gaps, max(usual.values()), call.late_ms, switches)


def _show(deaths: Sequence[Death], kind: str, target_ms: float | None) -> None:
    worst = [death.worst_ms for death in deaths]
    text = ", ".join(f"p{share * 100:.0f} {figures.percentile(worst, share):.0f}" for share in (0.5, 0.95))
    ways = "; ".join(
        f"{way} p50 {figures.percentile([death.gaps_ms[way] for death in deaths], 0.5):.0f}"
        for way in ("there", "back")
    )
    print(f"    {kind}: {ways}; all: {' '.join(f'{gap:.0f}' for gap in sorted(worst))}", flush=True)
    figures.line(
        f"longest media gap, {kind}, {len(deaths)} deaths",
        f"{text}, max {max(worst):.0f} ms",
        figures.percentile(worst, 0.95),
        target_ms,
        "ms at p95",
    )


def main() -> None:
    """Print the gaps of each kind of death, and of all of them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("deaths", nargs="?", type=int, default=DEATHS)
    asked.add_argument("--kinds", default=DEADLY)
    arguments = asked.parse_args()
    kinds = arguments.kinds.split(",")
    print(f"failover: {arguments.deaths} deaths of the relay in the middle of a call, {', '.join(kinds)}")
    deaths: list[Death] = []
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        busy = 0
        while len(deaths) < arguments.deaths:
            kind = kinds[len(deaths) % len(kinds)]
            death = _die(fleet, kind, len(deaths) * 0.0137)
            _told(len(deaths) + 1, death)
            if death.is_busy and busy < MOST_BUSY:
                busy += 1
            else:
                deaths.append(death)
    print(f"    left out, since the machine was too busy: {busy}")
    for kind in kinds:
        _show([death for death in deaths if death.kind == kind], kind, None)
    _show(deaths, "all", TARGET_MS)


if __name__ == "__main__":
    main()
