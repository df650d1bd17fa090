"""How fast all routes are decided, beside a naive min-plus in the same run: `python -m tests.bench.route_planner`.

The world is PlanetLab's median matrix where the public data stands beside the repository, and more nodes are copies of
those with a last mile of their own and 2 % of noise: synthetic, as are its ten countries and three zones. Without the
data all of it is: points on a sphere. Each size has a process of its own, so that the peak of its memory is its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from commcli.fleet.model import NodeState
from commcli.relay.table.shard import SHARED
from commcli.remote.sshsig import sign
from commcli.routing import planner, policy
from commcli.routing import table as tables
from commcli.routing.estimate import Matrix
from commcli.routing.planner import Plan
from commcli.routing.policy import Policy
from tests.bench.figures import line
from tests.routing.fleets import fleet, zone

FOLDER = os.environ.get("COMMCLI_LATENCY_DATA") or Path(__file__).parents[3] / "shared/data/latency"
DATA = Path(FOLDER) / "planetlab-490/slices_00-08.npz"
COUNTRIES = ("ae", "br", "cn", "de", "gb", "in", "jp", "sg", "us", "za")
ZONES = (
    zone("not-us", "cn", "*", forbid=["us"]),
    zone("stay", "de,gb", "de,gb", allow=["de", "gb"]),
    zone("not-cn", "in", "ae,sg", forbid=["cn", "us"]),
)
HOP_MS = 2.0
# (nodes, relays, seconds to reach)
SIZES = ((200, 200, 0.05), (1000, 1000, 1.5), (2000, 2000, 15.0), (2000, 100, 1.0))
ENCODE_S = 1.0


def world(size: int) -> Matrix:
    """(N, N) edge costs in ms."""
    random = np.random.default_rng(6)
    rtt: Matrix
    if DATA.exists():
        with np.load(DATA) as file:
            base = np.nanmedian(file["rtt"], axis=0).astype(np.float64)
        at = np.arange(size) % len(base)
        mile = np.where(np.arange(size) < len(base), 0.0, random.exponential(4.0, size))
        rtt = (base[np.ix_(at, at)] + mile[:, None] + mile) * random.lognormal(0.0, 0.02, (size, size))
        rtt[at[:, None] == at] = 3.0
    else:
        points = random.normal(size=(size, 3))
        points /= np.linalg.norm(points, axis=1)[:, None]
        far = np.arccos(np.clip(points @ points.T, -1, 1)) * 64.0
        rtt = 2.0 + far * random.lognormal(0.3, 0.15, (size, size))
    np.fill_diagonal(rtt, np.inf)
    return rtt


def rules(size: int, relays: int, *, zones: bool) -> Policy:
    """`size` nodes in turn in ten countries, of which so many are relays."""
    names = {f"n{k:04}": COUNTRIES[k % len(COUNTRIES)] for k in range(size)}
    edges: dict[str, NodeState] = {
        name: "no-transit" for k, name in enumerate(names) if k % (size // relays) != 0
    }
    return policy.of(fleet(names, zones=ZONES if zones else (), states=edges))


def naive_s(cost: Matrix, relays: int) -> float:
    """Seconds for two min-plus products, row by row: costs alone, no paths, no backups, no zones."""
    begun = time.perf_counter()
    single = cost.astype(np.float32)
    hubs = np.arange(0, len(single), len(single) // relays)
    found = single
    for _ in range(2):
        reach, into = found[:, hubs], np.ascontiguousarray(single[hubs])
        found = np.array([(row[:, None] + into).min(axis=0) for row in reach])
    return time.perf_counter() - begun


def measure(size: int, relays: int, target_s: float) -> None:
    """One size: with zones, which is what counts, and without."""
    cost = world(size)
    taken = {}
    for zones in (False, True):
        of = rules(size, relays, zones=zones)
        masks, alike = policy.masks(of), policy.alike(of)
        rounds = []
        for _ in range(5 if size <= 200 else 2):
            begun = time.perf_counter()
            made = planner.plan(of.ids, cost, masks, hop_ms=HOP_MS)
            rounds.append(time.perf_counter() - begun)
        taken[zones] = min(rounds)
    begun = time.perf_counter()
    made = planner.plan(of.ids, cost, masks, hop_ms=HOP_MS, alike=alike)
    apart = time.perf_counter() - begun
    beside = naive_s(cost, relays)
    figure = f"{taken[True]:.3f} s, {taken[True] / beside:.2f} x naive"
    line(f"N = {size}, {relays} relays, zones", figure, taken[True], target_s, "s")
    more = f"without zones {taken[False]:.3f} s, backups apart by region {apart:.3f} s, naive {beside:.3f} s"
    print(f"    {more}; {shares(made)}; peak {peak_mib():.0f} MiB", flush=True)
    if size == 1000:
        encoded(made, of)


def encoded(made: Plan, of: Policy) -> None:
    """The table of a plan, in bytes and signed."""
    begun = time.perf_counter()
    table = tables.from_plan(made, of, fleet="bench", serial=1, created=0, measurements="", rules="")
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        built = time.perf_counter()
        whole = tables.encode(table)
        sign(whole.manifest, key, False, tables.NAMESPACE)
        spent = time.perf_counter() - built
    sizes = {node: len(data) for node, data in whole.shards.items()}
    shared = sizes.pop(SHARED)
    figure = f"{spent:.2f} s, {(sum(sizes.values()) + shared) / 1e6:.0f} MB"
    line("encoding and signing all shards", figure, spent, ENCODE_S, "s")
    each = f"{sum(sizes.values()) / len(sizes) / 1e3:.0f} kB a node and {shared / 1e3:.0f} kB that all share"
    print(f"    {each}; the table from the plan {built - begun:.2f} s; peak {peak_mib():.0f} MiB", flush=True)
    begun = time.perf_counter()
    tables.check(whole, now_unix=1, highest_serial=0)
    print(f"    all before the relay's own judge {time.perf_counter() - begun:.1f} s", flush=True)


def shares(made: Plan) -> str:
    """What the plan is like: more relayed pairs are more work."""
    pairs = made.primary.exists.sum()
    one, two = ((row != -1).sum() / pairs for row in (made.primary.first, made.primary.second))
    return f"{one:.0%} of pairs by relays, {two:.0%} by two"


def peak_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if len(sys.argv) > 1:
        size, relays, target_s = sys.argv[1:]
        measure(int(size), int(relays), float(target_s))
        return
    told = "PlanetLab's medians and copies of them" if DATA.exists() else "synthetic points"
    print(f"planning all routes, best of the rounds; numpy {np.__version__}, {told}", flush=True)
    for each in SIZES:
        subprocess.run([sys.executable, "-m", "tests.bench.route_planner", *map(str, each)], check=True)


if __name__ == "__main__":
    main()
