"""CPU of one end of a probe call: of both ends, as the kernel accounts for it, through a real relay on loopback.

Beside it stands what the probe says of itself: its loop's lag, what it sent on the wire, and which share of a frame's
delay is its own encoder and its own decoder. A call that the machine was too busy for is told and not counted.
`python -m tests.bench.probe_cpu [SECONDS]`
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from commcli.fleet.model import Fleet
from commcli.probe.ask import Ask
from commcli.probe.call import call
from commcli.probe.profiles import PROFILES
from tests.bench import figures
from tests.probe import fleets
from tests.probe.local import LocalPool
from tests.relay.serving import plain_relay

SECONDS = 15.0
ROUNDS, TRIES = 3, 8
TARGETS = {"sd": 0.35}


async def _call(fleet: Fleet, ask: Ask) -> dict[str, Any]:
    pool = LocalPool()
    try:
        return await call(fleet, pool.as_pool(), ask)
    finally:
        await pool.end()


def _of_profile(fleet: Fleet, name: str, seconds: float) -> None:
    docs: list[dict[str, Any]] = []
    for _ in range(TRIES):
        if len(docs) == ROUNDS:
            break
        doc = asyncio.run(_call(fleet, Ask("aa-1", "bb-1", seconds=seconds, profile=name)))
        if not doc["valid"]:
            print(f"  {name}: a call does not count: {doc['invalid_reason'] or doc['problems']}", flush=True)
        else:
            docs.append(doc)
    hosts = [host for doc in docs for host in doc["hosts"].values()]
    if not hosts:
        return
    cores = [host["cpu_cores"] for host in hosts]
    figures.line(
        f"{name}: CPU of one end, {len(cores)} ends",
        f"{figures.spread(cores)} cores",
        max(cores),
        TARGETS.get(name),
        "cores",
    )
    print(f"    {'; '.join(_beside(docs, hosts))}", flush=True)


def _beside(docs: list[dict[str, Any]], hosts: list[dict[str, Any]]) -> list[str]:
    told = [
        f"on the wire {figures.spread([host['sent']['wire_kbps'] for host in hosts], '.0f')} kbit/s",
        f"loop lag p99 {figures.spread([host['loop_lag_ms']['p99'] for host in hosts], '.1f')} ms",
    ]
    videos = [way["video"] for doc in docs for way in doc["directions"].values() if way["video"]]
    for share in ("encoder", "decoder"):
        medians = [video[f"{share}_ms"]["p50"] for video in videos]
        if medians:
            told.append(f"{share} {figures.spread(medians, '.1f')} ms a frame")
    return told


def main() -> None:
    """Print the CPU of one end for each profile."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print(
        f"probe_cpu: {ROUNDS} calls of {seconds:g} s each, loopback, both ends and the relay on this machine"
    )
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.write_text("the secret of this bench\n")
        with plain_relay("--allow-peer", "127.0.0.0/8", "--secret-file", str(secret)) as relay:
            nodes = [fleets.node(name, port=relay.port, python=sys.executable) for name in ("aa-1", "bb-1")]
            for name in PROFILES:
                _of_profile(fleets.fleet(*nodes, secret=secret), name, seconds)


if __name__ == "__main__":
    main()
