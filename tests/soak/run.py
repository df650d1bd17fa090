"""`make soak`: SOAK_MINUTES (30) of some 200 allocations coming and going under junk, at a real relay process.

UDP, TCP and TLS clients in pairs that talk to each other, users that are never the same, some who leave without a
word; beside them junk at every port, forged Allocates from ever new sources, and connections that begin and never end.
Each minute one line of figures; in the end memory, descriptors and ports must be back where they began. They began
after a warm-up of five minutes of the same, for Python and the C library keep what they needed once.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from commcli.relay.turn.server import RESERVED_S
from tests.hostile.edges import Edge, running
from tests.soak.crowd import Callers, Strangers

ALLOCATIONS = 200
BEAT_S = 0.05
# UDP clients that left without a word hold their ports until their allocation ends.
LIFETIME_S = 600
RELAY_PORTS = [40000, 41023]
# 12 000 allocations in half an hour: a leak of 350 bytes each would be seen.
MOST_GROWTH_BYTES = 4 << 20
# Until the small tables are full that remember things (which peers are permitted), and the allocator has its shape.
WARM_UP_S = 300.0
GO_EVERY = 5  # beats
IMPOLITE = 0.3


class Held(NamedTuple):
    """What the relay process holds."""

    rss_bytes: int
    descriptors: int
    ports: int  # UDP sockets among them

    def __str__(self) -> str:
        return f"{self.rss_bytes / 1e6:.1f} MB, {self.descriptors} descriptors, {self.ports} UDP ports"


def held(edge: Edge) -> Held:
    """Of the process, from outside."""
    assert edge.process is not None
    proc = Path(f"/proc/{edge.process.pid}")
    pages = int((proc / "statm").read_text().split()[1])
    links = []
    for path in (proc / "fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except OSError:  # closed meanwhile
            continue
    udp = {line.split()[9] for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
    ports = sum(link[8:-1] in udp for link in links if link.startswith("socket:"))
    return Held(pages * os.sysconf("SC_PAGE_SIZE"), len(links), ports)


def beats(seconds: float) -> Iterator[int]:
    """Beat numbers, one every BEAT_S, for so long."""
    end, due, number = time.monotonic() + seconds, time.monotonic(), 0
    while time.monotonic() < end:
        yield number
        number += 1
        due = max(due + BEAT_S, time.monotonic() - BEAT_S)
        time.sleep(max(0.0, due - time.monotonic()))


def churn(callers: Callers, strangers: Strangers, seconds: float, impolite: float = 0.0) -> None:
    """Clients come, talk and go, strangers do what they do; a share of those who go is `impolite`."""
    for beat in beats(seconds):
        callers.come()
        if beat % GO_EVERY == 0 and 2 * len(callers.here) >= callers.most:
            callers.go(politely=callers.chance.random() >= impolite)
        callers.talk(beat)
        strangers.beat()


def empty(edge: Edge, callers: Callers, strangers: Strangers) -> dict[str, Any]:
    """All leave; the status once the relay has noticed."""
    while callers.here:
        callers.go(politely=True)
    strangers.go()
    edge.wait(lambda status: status["allocations"] == 0)
    time.sleep(RESERVED_S + 2)  # as long as reserved ports are held for whoever may still come
    return edge.wait(lambda status: status["allocations"] == 0 and status["streams"]["open"] == 0)


def line(edge: Edge, minute: int, callers: Callers) -> str:
    """The figures of a minute."""
    status = edge.ask("status")
    turn, streams, counts = status["turn"], status["streams"], callers.counts
    return (
        f"minute {minute:3}: {status['allocations']:4} allocations ({turn['allocations_made']} made), "
        f"{streams['open']} streams ({streams['half_open']} half open), {held(edge)}, "
        f"cpu {status['process']['cpu_s']:.0f} s, lag p99 {status['loop_lag_ms']['p99']} ms, "
        f"refused {counts['refused']}, drops {sum(status['drops'].values())}, heard {counts['heard']}/{counts['sent']}"
    )


def soak(edge: Edge, minutes: float) -> list[str]:
    """What is wrong at the end."""
    chance = random.Random(1)
    callers, strangers = Callers(edge, ALLOCATIONS, chance), Strangers(edge, chance)
    print(f"cold:       {held(edge)}", flush=True)
    churn(callers, strangers, WARM_UP_S)
    empty(edge, callers, strangers)
    before = held(edge)
    print(f"warmed up:  {before}", flush=True)
    callers.counts.clear()
    for minute in range(1, round(minutes) + 1):
        may_be_impolite = (round(minutes) - minute) * 60 > LIFETIME_S
        churn(callers, strangers, 60.0, IMPOLITE if may_be_impolite else 0.0)
        print(line(edge, minute, callers), flush=True)
    status = empty(edge, callers, strangers)
    return judge(before, held(edge), status, callers)


def judge(before: Held, after: Held, status: dict[str, Any], callers: Callers) -> list[str]:
    """Each thing that is not as it was."""
    print(f"began with: {before}\nended with: {after}")
    faults = []
    if after.rss_bytes - before.rss_bytes > MOST_GROWTH_BYTES:
        faults.append(f"memory grew by {(after.rss_bytes - before.rss_bytes) / 1e6:.1f} MB")
    if after.descriptors > before.descriptors:
        faults.append(f"{after.descriptors - before.descriptors} descriptors are not back")
    if after.ports > before.ports:
        faults.append(f"{after.ports - before.ports} ports are not back")
    if status["drops"].get("bug"):
        faults.append(f"{status['drops']['bug']} bugs, see the log")
    if callers.counts["refused"]:
        faults.append(f"{callers.counts['refused']} clients were refused")
    if callers.counts["heard"] < 0.99 * callers.counts["sent"]:
        faults.append(f"of {callers.counts['sent']} packets {callers.counts['heard']} arrived")
    return faults


def main() -> int:
    """0 when all is back where it began."""
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        with running(Edge(Path(folder), "edge-7", relay_ports=RELAY_PORTS)) as edge:
            faults = soak(edge, minutes)
        lines = edge.log().splitlines()
    print(f"log: {len(lines)} lines")
    for fault in faults or ["good: memory, descriptors and ports are back where they began"]:
        print(f"soak: {fault}")
    if faults:
        print("\n".join(lines[-20:]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
